//! Every parser of outside bytes over the corpora of `fuzz/corpus` and seeded changes of them: what is whole is accepted, what
//! is broken is refused, and nothing panics, hangs or takes all memory.
//!
//! A program of its own, since its allocator bounds what a parser takes. When it ends instead of failing, it says at which
//! bytes, and they lie where [`bytes_at_hand`] says.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on stops")]

#[path = "../fuzz/targets/mod.rs"]
mod targets;

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use allowance::{Allowance, LimitedAllocator};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use targets::{TARGETS, Target, Verdict, target};

#[global_allocator]
static ALLOCATOR: LimitedAllocator = LimitedAllocator;

/// Changes of each file of a corpus.
const CHANGES: u64 = 100;
/// The same where each costs a start of threads, a connection or a model.
const COSTLY_CHANGES: u64 = 15;
/// The parsers that those are.
const COSTLY: [&str; 4] = ["chat_template", "evidence", "server_answer", "server_request"];
/// The parsers that take any bytes of a reasonable length.
const NEVER_REFUSED: [&str; 1] = ["event_stream"];
/// Bytes that a parser may hold at one time: the most that one takes for an honest reason is what a pickle of four million
/// values takes before it is refused.
const MOST_BYTES: usize = 512 << 20;
/// Only there so that a test ends: what takes that long would never end.
const LONGEST: Duration = Duration::from_mins(1);
/// What all corpora together may take of a repository.
const LARGEST_CORPORA: u64 = 300_000;

/// One file of a corpus.
struct Entry {
    name: String,
    bytes: Vec<u8>,
}

fn corpora() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

/// The files in a parser's corpus, sorted by name.
fn corpus(target: Target) -> Vec<Entry> {
    let folder = corpora().join(target.name);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut entries: Vec<Entry> = files
        .map(|file| file.unwrap())
        .map(|file| Entry {
            name: file.file_name().into_string().unwrap(),
            bytes: fs::read(file.path()).unwrap(),
        })
        .collect();
    entries.sort_by(|first, second| first.name.cmp(&second.name));
    entries
}

/// Where the bytes lie that a parser is at.
fn bytes_at_hand(target: Target) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("parsers");
    fs::create_dir_all(&folder).unwrap();
    folder.join(target.name)
}

/// What the parser makes of bytes, within bounds; `what` names them.
fn run(target: Target, what: &str, bytes: &[u8]) -> Verdict {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(allowance::watch_time);
    let path = bytes_at_hand(target);
    fs::write(&path, bytes).unwrap();
    // What an allowance says cannot be made when there is no memory left.
    let told = |much: &str| -> &'static str {
        format!(
            "error: {} takes too much {much} at {what}: {}\n",
            target.name,
            path.display()
        )
        .leak()
    };
    let allowance = Allowance {
        bytes: MOST_BYTES,
        too_much_memory: told("memory"),
        time: LONGEST,
        too_much_time: told("time"),
    };
    let verdict = catch_unwind(|| allowance::within(allowance, || target.run(bytes)));
    verdict.unwrap_or_else(|_| panic!("{} panics at {what}: {}", target.name, path.display()))
}

#[test]
fn every_parser_has_whole_and_broken_bytes_to_begin_with() {
    for target in TARGETS {
        let names: Vec<String> = corpus(target).into_iter().map(|entry| entry.name).collect();
        for kind in ["valid-", "broken-"] {
            let is_never_refused = kind == "broken-" && NEVER_REFUSED.contains(&target.name);
            assert!(
                is_never_refused || names.iter().any(|name| name.starts_with(kind)),
                "{}: no {kind} in {names:?}",
                target.name
            );
        }
    }
}

#[test]
fn the_corpora_are_small_and_belong_to_parsers() {
    let mut length = 0;
    for folder in fs::read_dir(corpora()).unwrap().map(|folder| folder.unwrap()) {
        let name = folder.file_name().into_string().unwrap();
        length += corpus(target(&name))
            .iter()
            .map(|entry| entry.bytes.len() as u64)
            .sum::<u64>();
    }
    assert!(length <= LARGEST_CORPORA, "{length} bytes");
}

/// What a file's name says of it: `valid-` is accepted, `broken-` is refused, any other name is either.
#[test]
fn what_is_whole_is_accepted_and_what_is_broken_is_refused() {
    let mut wrong = Vec::new();
    for target in TARGETS {
        for Entry { name, bytes } in corpus(target) {
            let verdict = run(target, &name, &bytes);
            let is_accepted = verdict == Verdict::Accepted;
            if (name.starts_with("valid-") && !is_accepted) || (name.starts_with("broken-") && is_accepted) {
                wrong.push(format!("{}/{name}: {verdict:?}", target.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A test for each parser, named after it: nothing that is made of its corpus breaks it.
macro_rules! nothing_breaks {
    ($($name:ident)*) => {
        mod nothing_made_of_its_corpus_breaks {
            $(
                #[test]
                fn $name() {
                    super::run_changes(stringify!($name));
                }
            )*
        }

        /// The names of those tests.
        const CHANGED: &[&str] = &[$(stringify!($name)),*];
    };
}

nothing_breaks! {
    adapter_configuration
    adapter_tensors
    bench_results
    chat_template
    compare_plan
    compare_results
    event_stream
    evidence
    gguf
    model_configuration
    npz
    peft_configuration
    rank_records
    rows_array
    rows_lines
    run_folder
    safetensors
    server_answer
    server_request
    tokenizer
    tokenizer_settings
    torch
    training_configuration
    training_log
}

#[test]
fn every_parser_is_given_changes() {
    assert_eq!(TARGETS.map(|target| target.name).as_slice(), CHANGED);
}

/// Hands a parser seeded changes of its corpus.
fn run_changes(name: &str) {
    let target = target(name);
    let entries = corpus(target);
    let changes = if COSTLY.contains(&name) {
        COSTLY_CHANGES
    } else {
        CHANGES
    };
    for (index, entry) in entries.iter().enumerate() {
        // Not of the names: a file that is renamed is changed in the same way.
        let mut random = ChaCha8Rng::seed_from_u64(index as u64);
        for number in 0..changes {
            let other = &entries[random.next_u64() as usize % entries.len()].bytes;
            let bytes = changed(&entry.bytes, other, &mut random);
            run(target, &format!("change {number} of {}", entry.name), &bytes);
        }
    }
}

/// Numbers at the ends of what integers and floats hold, and beyond.
const NUMBERS: [&str; 12] = [
    "0",
    "-1",
    "1e308",
    "1e999",
    "0.5",
    "NaN",
    "4294967295",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "1152921504606846976",
    "-9223372036854775808",
];

/// The same as words of four and eight bytes.
const WORDS: [u64; 7] = [0, 1, u64::MAX, u64::MAX >> 1, 1 << 31, 1 << 60, 0x7fff_ffff];

/// `bytes` with one to four changes; `other` is spliced in.
fn changed(bytes: &[u8], other: &[u8], random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.next_u32() % 4 {
        let mut below = |end: usize| random.next_u64() as usize % end.max(1);
        let at = below(bytes.len());
        match below(9) {
            0 => bytes.truncate(at),
            1 if !bytes.is_empty() => bytes[at] ^= 1 << below(8),
            2 if !bytes.is_empty() => bytes[at] = below(256) as u8,
            3 => {
                let end = at + below(bytes.len() - at + 1);
                bytes.drain(at..end);
            }
            4 => {
                let end = at + below(64.min(bytes.len() - at) + 1);
                let twice = bytes[at..end].to_vec();
                bytes.splice(at..at, twice);
            }
            5 => {
                bytes.truncate(at);
                bytes.extend(&other[below(other.len())..]);
            }
            6 => {
                let word = WORDS[below(WORDS.len())].to_le_bytes();
                let width = [4, 8][below(2)].min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&word[..width]);
            }
            _ => replace_number(&mut bytes, at, NUMBERS[below(NUMBERS.len())]),
        }
    }
    bytes
}

/// Puts `number` in the place of the first digits at or behind `at`.
fn replace_number(bytes: &mut Vec<u8>, at: usize, number: &str) {
    let digits = |byte: &u8| byte.is_ascii_digit();
    let Some(begin) = bytes[at..].iter().position(digits).map(|place| at + place) else {
        return;
    };
    let length = bytes[begin..].iter().take_while(|byte| digits(byte)).count();
    bytes.splice(begin..begin + length, number.bytes());
}
