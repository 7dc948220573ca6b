//! Text that comes token by token against the text of all tokens at once.

use std::cell::Cell;
use std::fs;

use mlx_diagnose::engine::TextStream;
use mlx_diagnose::model::{GgufHeader, Tokenizer, TokenizerError};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{RngSeed, TestCaseResult, TestRunner};
use rstest::rstest;
use serde_json::{Map, json};

use crate::support::golden::{root, smollm2};

/// Characters of one to four bytes, some of several code points.
const TEXT: &str = "[a-z \né€漢字🙂👩🏽‍🚀\u{301}]{0,40}";

fn embedded() -> Tokenizer {
    Tokenizer::from_folder(&root().join("fixtures/embedded/model")).unwrap()
}

/// A vocabulary as Llama 2 has it: words with a marked beginning, of which the first loses its space, and byte tokens.
fn byte_fallback() -> Tokenizer {
    let mut tokens: Vec<String> = vec!["<unk>".to_owned()];
    tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(["▁", "▁the", "▁a", "b", "cd", "."].map(str::to_owned));
    let vocabulary: Map<String, serde_json::Value> = tokens
        .into_iter()
        .zip(0..)
        .map(|(token, id)| (token, json!(id)))
        .collect();
    let definition = json!({
        "version": "1.0",
        "added_tokens": [{
            "id": 263, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true
        }],
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}
        ]},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [], "byte_fallback": true}
    });
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tokenizer.json"), definition.to_string()).unwrap();
    Tokenizer::from_folder(folder.path()).unwrap()
}

fn byte(value: u8) -> u32 {
    u32::from(value) + 1
}

/// The text up to the stop string that is complete first, and of those that end together the longest.
fn up_to_stop(text: &str, stops: &[String]) -> (String, bool) {
    let met = stops
        .iter()
        .filter_map(|stop| text.find(stop).map(|start| (start + stop.len(), start)));
    met.min().map_or_else(
        || (text.to_owned(), false),
        |(_, start)| (text[..start].to_owned(), true),
    )
}

/// Streams `tokens` and holds every piece to what the whole text says.
fn check(tokenizer: &Tokenizer, tokens: &[u32], stops: &[String]) -> TestCaseResult {
    let decode = |tokens: &[u32]| tokenizer.decode(tokens, true);
    let (expected, stops_there) = up_to_stop(&decode(tokens).unwrap(), stops);
    let longest_stop = stops.iter().map(String::len).max().unwrap_or(0);
    let mut stream = TextStream::new(stops.to_vec());
    let mut shown = String::new();
    for (index, &token) in tokens.iter().enumerate() {
        shown.push_str(&stream.push(token, decode).unwrap());
        prop_assert!(expected.starts_with(&shown), "{shown:?} does not begin {expected:?}");
        let so_far = decode(&tokens[..=index]).unwrap();
        // All but the beginning of a stop string is shown as soon as it is certain.
        if !so_far.ends_with(char::REPLACEMENT_CHARACTER) {
            let held_back = up_to_stop(&so_far, stops).0.len() - shown.len();
            prop_assert!(held_back <= longest_stop.saturating_sub(1), "{shown:?} of {so_far:?}");
        }
    }
    shown.push_str(&stream.finish());
    prop_assert_eq!(shown, expected);
    prop_assert_eq!(stream.has_stopped(), stops_there);
    Ok(())
}

/// Stop strings of which some are in the text: a stretch of it from one character to another, or a text of its own.
fn stops(text: &str, stretches: &[(Index, usize)], others: &[String]) -> Vec<String> {
    let starts: Vec<usize> = text.char_indices().map(|(start, _)| start).collect();
    let mut stops = others.to_vec();
    if !starts.is_empty() {
        stops.extend(stretches.iter().map(|(start, length)| {
            text[starts[start.index(starts.len())]..]
                .chars()
                .take(*length)
                .collect()
        }));
    }
    // U+FFFD in a stop string would be a matter of when it is certain.
    stops.retain(|stop| !stop.contains(char::REPLACEMENT_CHARACTER));
    stops
}

fn some_stops() -> impl Strategy<Value = (Vec<(Index, usize)>, Vec<String>)> {
    (
        prop::collection::vec((any::<Index>(), 1_usize..8), 0..3),
        prop::collection::vec("[a-e é€]{1,3}", 0..3),
    )
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(6),
        ..ProptestConfig::default()
    })
}

/// Tokens of texts, single tokens of everywhere, and characters without their last or first token.
fn tokens_of(tokenizer: &Tokenizer) -> impl Strategy<Value = Vec<u32>> + '_ {
    let written = TEXT.prop_map(|text| tokenizer.encode(&text, false).unwrap());
    let torn = ("[é€漢🙂]{1,3}", any::<Index>(), any::<bool>()).prop_map(|(text, cut, keep_first)| {
        let tokens = tokenizer.encode(&text, false).unwrap();
        let cut = cut.index(tokens.len());
        if keep_first {
            tokens[..cut].to_vec()
        } else {
            tokens[cut..].to_vec()
        }
    });
    let anywhere = prop::collection::vec(0..tokenizer.vocabulary_size() as u32 + 2, 1..12);
    let same = (0..tokenizer.vocabulary_size() as u32, 1_usize..40).prop_map(|(token, times)| vec![token; times]);
    let part = prop_oneof![4 => written, 2 => torn, 2 => anywhere, 1 => same];
    prop::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

fn streams_as_a_whole(tokenizer: &Tokenizer, cases: u32) {
    let input = (tokens_of(tokenizer), some_stops());
    runner(cases)
        .run(&input, |(tokens, (stretches, others))| {
            let text = tokenizer.decode(&tokens, true).unwrap();
            check(tokenizer, &tokens, &stops(&text, &stretches, &others))
        })
        .unwrap();
}

#[test]
fn pieces_are_the_whole_text_with_the_embedded_tokenizer() {
    streams_as_a_whole(&embedded(), 400);
}

#[rstest]
fn pieces_are_the_whole_text_with_tokenizers_of_single_bytes(#[values("gpt-2", "qwen2", "llama-bpe")] family: &str) {
    let folder = root().join("fixtures/golden/tokenizers").join(family);
    streams_as_a_whole(&Tokenizer::from_folder(&folder).unwrap(), 200);
}

#[test]
fn pieces_are_the_whole_text_with_a_real_tokenizer() {
    let Some(path) = smollm2() else { return };
    let tokenizer = Tokenizer::from_gguf(&GgufHeader::read(&path).unwrap()).unwrap();
    streams_as_a_whole(&tokenizer, 200);
}

/// Words, whole characters as bytes, and after a word runs of bytes that are broken from the beginning.
fn byte_fallback_tokens() -> impl Strategy<Value = Vec<u32>> {
    let characters = "[aé€漢🙂]{1,12}".prop_map(|text| text.bytes().map(byte).collect());
    let broken = (1_usize..5, "[aé€漢🙂]{1,12}").prop_map(|(times, text)| {
        let bytes = vec![byte(0x80); times].into_iter().chain(text.bytes().map(byte));
        [258].into_iter().chain(bytes).collect()
    });
    let words = prop::collection::vec(257_u32..264, 1..6);
    prop::collection::vec(prop_oneof![3 => characters, 1 => broken, 3 => words], 0..10)
        .prop_map(|parts: Vec<Vec<u32>>| parts.concat())
}

#[test]
fn characters_of_byte_tokens_are_whole() {
    let tokenizer = byte_fallback();
    assert_eq!(
        tokenizer.decode(&[258, byte(0xC3), byte(0xA9), 259], true).unwrap(),
        "theé a"
    );
    let input = (byte_fallback_tokens(), some_stops());
    runner(400)
        .run(&input, |(tokens, (stretches, others))| {
            let text = tokenizer.decode(&tokens, true).unwrap();
            check(&tokenizer, &tokens, &stops(&text, &stretches, &others))
        })
        .unwrap();
}

/// Broken runs of byte tokens differ from the whole text, in which they spoil what was complete; the words never do.
#[test]
fn broken_byte_tokens_never_cost_a_word() {
    let tokenizer = byte_fallback();
    let bytes = prop::collection::vec((0x80_u8..=0xFF).prop_map(byte), 1..80);
    let words = prop::collection::vec(258_u32..263, 1..4);
    let parts = prop::collection::vec(prop_oneof![bytes, words], 0..8);
    runner(400)
        .run(&parts, |parts| {
            let tokens = parts.concat();
            let decode = |tokens: &[u32]| tokenizer.decode(tokens, true);
            let mut stream = TextStream::new(Vec::new());
            let mut shown = String::new();
            for &token in &tokens {
                shown.push_str(&stream.push(token, decode).unwrap());
            }
            shown.push_str(&stream.finish());
            let written = |text: &str| text.chars().filter(char::is_ascii).collect::<String>();
            prop_assert_eq!(written(&shown), written(&decode(&tokens).unwrap()));
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_complete_character_stays_when_the_byte_after_it_is_broken() {
    let tokenizer = byte_fallback();
    let tokens: Vec<u32> = "€".bytes().chain([0xF0, 0x9F]).map(byte).chain([259]).collect();
    let mut stream = TextStream::new(Vec::new());
    let pieces: Vec<String> = tokens
        .iter()
        .map(|&token| stream.push(token, |tokens| tokenizer.decode(tokens, true)).unwrap())
        .collect();
    assert_eq!(pieces, ["", "", "€", "", "", "\u{FFFD}\u{FFFD} a"]);
    assert_eq!(stream.finish(), "");
}

/// The most tokens decoded for one token of an answer of `tokens`.
fn most_decoded(tokens: &[u32], decode: impl Fn(&[u32]) -> Result<String, TokenizerError>) -> usize {
    let decoded = Cell::new(0);
    let mut stream = TextStream::new(vec!["never".to_owned()]);
    let mut most = 0;
    for &token in tokens {
        decoded.set(0);
        let counted = |tokens: &[u32]| {
            decoded.set(decoded.get() + tokens.len());
            decode(tokens)
        };
        stream.push(token, counted).unwrap();
        most = most.max(decoded.get());
    }
    most
}

#[test]
fn a_token_costs_the_same_however_long_the_answer() {
    let tokenizer = embedded();
    let with_embedded = |tokens: &[u32]| most_decoded(tokens, |tokens| tokenizer.decode(tokens, true));
    let sentence = tokenizer.encode("Of 3 € and 漢字 they said 🙂.\n", false).unwrap();
    assert!(with_embedded(&sentence.repeat(200)) <= 32);
    let end = tokenizer.token_id("<|im_end|>").unwrap();
    assert!(with_embedded(&vec![end; 3000]) <= 32, "tokens without text");
    let last_byte = *tokenizer.encode("🙂", false).unwrap().last().unwrap();
    assert!(
        with_embedded(&vec![last_byte; 3000]) <= 32,
        "bytes that are no character"
    );
    // As tokens of two bytes would be, of which each begins the character that the next one ends.
    let straddling = |tokens: &[u32]| {
        let bytes: Vec<u8> = tokens.iter().flat_map(|_| [0xA9, 0xC3]).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    assert!(
        most_decoded(&[0; 3000], straddling) <= 32,
        "characters that never end with a token"
    );
    let byte_fallback = byte_fallback();
    let with_bytes = |bytes: &[u8]| {
        let tokens: Vec<u32> = bytes.iter().copied().map(byte).collect();
        most_decoded(&tokens, |tokens| byte_fallback.decode(tokens, true))
    };
    assert!(with_bytes("漢".repeat(1000).as_bytes()) <= 32, "one run of byte tokens");
    let broken = ["\u{7f}🙂".repeat(3).as_bytes(), &[0x80], "🙂".repeat(1000).as_bytes()].concat();
    assert!(with_bytes(&broken) <= 40, "a run with a broken one");
}

/// Every token is one character.
fn letters(tokens: &[u32]) -> Result<String, u32> {
    let letters = tokens.iter().map(|&token| char::from_u32(token).ok_or(token));
    letters.collect()
}

fn pieces(text: &str, stops: &[&str]) -> (Vec<String>, bool) {
    let mut stream = TextStream::new(stops.iter().map(|stop| (*stop).to_owned()).collect());
    let tokens = text.chars().map(u32::from);
    let mut pieces: Vec<String> = tokens.map(|token| stream.push(token, letters).unwrap()).collect();
    pieces.push(stream.finish());
    (pieces, stream.has_stopped())
}

#[rstest]
#[case::held_until_it_is_none("abac", &["abad"], &["", "", "", "abac", ""], false)]
#[case::held_to_the_end("xab", &["abc"], &["x", "", "", "ab"], false)]
#[case::met("xabcy", &["abc"], &["x", "", "", "", "", ""], true)]
#[case::begun_again("aab", &["ab"], &["", "a", "", ""], true)]
#[case::first_complete_wins("abcd", &["abcd", "bc"], &["", "", "a", "", ""], true)]
#[case::of_two_that_end_together_the_longer("abc", &["bc", "abc"], &["", "", "", ""], true)]
#[case::several_bytes("é€", &["€"], &["é", "", ""], true)]
fn no_part_of_a_stop_string_is_shown(
    #[case] text: &str,
    #[case] stops: &[&str],
    #[case] expected: &[&str],
    #[case] stopped: bool,
) {
    let (pieces, has_stopped) = pieces(text, stops);
    assert_eq!(pieces, expected);
    assert_eq!(has_stopped, stopped);
}
