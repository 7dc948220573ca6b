//! The tokenizer of a GGUF file, as the `tokenizer.json` that Hugging Face's library reads.
//!
//! Only byte-level byte-pair encoding (`tokenizer.ggml.model` "gpt2") is made; how text is split before it comes from
//! `tokenizer.ggml.pre`. The patterns are those of the models' own `tokenizer.json` files, which llama.cpp's repeat.

use std::collections::HashMap;
use std::path::PathBuf;

use serde_json::{Map, Value, json};
use thiserror::Error;

use super::gguf_header::GgufHeader;
use super::problem::{Problem, Problems};

/// `tokenizer.ggml.token_type` of a control token, which is never made from plain text.
const CONTROL: u64 = 3;
/// `tokenizer.ggml.token_type` of a token that its author added as plain text.
const USER_DEFINED: u64 = 4;

/// Qwen 2 splits numbers into single digits.
const QWEN2_SPLIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Llama 3 splits numbers into runs of up to three digits.
const LLAMA3_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Why a GGUF file's tokenizer was refused.
#[derive(Debug, Error)]
pub enum GgufTokenizerError {
    /// The tokenizer is of a kind that is not made.
    #[error("GGUF file `{}` has an unsupported tokenizer\n  found: {found}\n  expected: {expected}\n  hint: use the model's folder with its tokenizer.json instead", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The kind found.
        found: String,
        /// The kinds that are made.
        expected: String,
    },
    /// Its metadata is absent or contradicts itself.
    #[error("GGUF file `{}` has an unusable tokenizer\n{problems}\n  hint: use the model's folder with its tokenizer.json instead", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong.
        problems: Problems,
    },
}

/// What a GGUF file says about its tokenizer.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufTokenizer {
    /// The content of a `tokenizer.json`.
    pub definition: Value,
    /// Text of the token that begins a text.
    pub bos_token: Option<String>,
    /// Text of the token that ends a text.
    pub eos_token: Option<String>,
    /// Ids that end an answer with the metadata key that names each, in the order of `END_KEYS`.
    pub end_ids: Vec<(u32, &'static str)>,
}

/// Metadata keys that name a token which ends an answer: of a text, of a turn, of a message.
pub const END_KEYS: [&str; 3] = [
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",
];

/// How text is prepared before byte-pair encoding.
struct Splitting {
    normalizer: Value,
    pre_tokenizer: Value,
    /// Whether a piece that is a token as a whole is taken without looking at merges.
    ignore_merges: bool,
    /// Whether texts begin with the beginning token unless the file says otherwise.
    add_bos: bool,
}

impl Splitting {
    /// The splitting that llama.cpp calls `name`.
    fn named(name: &str) -> Option<Self> {
        let byte_level = |use_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex });
        let pattern = |regex: &str| json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false });
        let sequence = |first: Value, second: Value| json!({ "type": "Sequence", "pretokenizers": [first, second] });
        Some(match name {
            // A file without a name comes from before names were written, when GPT-2's pattern was used for all.
            "gpt-2" | "default" => Self {
                normalizer: Value::Null,
                pre_tokenizer: byte_level(true),
                ignore_merges: false,
                add_bos: false,
            },
            "smollm" => Self {
                normalizer: Value::Null,
                pre_tokenizer: sequence(json!({ "type": "Digits", "individual_digits": true }), byte_level(true)),
                ignore_merges: false,
                add_bos: false,
            },
            "qwen2" => Self {
                normalizer: json!({ "type": "NFC" }),
                pre_tokenizer: sequence(pattern(QWEN2_SPLIT), byte_level(false)),
                ignore_merges: false,
                add_bos: false,
            },
            "llama-bpe" | "llama3" | "llama-v3" => Self {
                normalizer: Value::Null,
                pre_tokenizer: sequence(pattern(LLAMA3_SPLIT), byte_level(false)),
                ignore_merges: true,
                add_bos: true,
            },
            _ => return None,
        })
    }
}

/// Reads the tokenizer out of a GGUF file's metadata.
///
/// # Errors
/// See [`GgufTokenizerError`]; everything wrong with the metadata is listed at once.
pub fn read_gguf_tokenizer(header: &GgufHeader) -> Result<GgufTokenizer, GgufTokenizerError> {
    let mut problems = Problems::default();
    let model = keep(&mut problems, header.text("tokenizer.ggml.model"));
    let splitting_name = keep(&mut problems, header.text("tokenizer.ggml.pre"));
    let unsupported = |found: String, expected: &str| GgufTokenizerError::Unsupported {
        path: header.path.clone(),
        found,
        expected: expected.to_owned(),
    };
    match model {
        Some("gpt2") => {}
        Some("llama") => {
            return Err(unsupported(
                "`llama` (SentencePiece)".to_owned(),
                "`gpt2` (byte-level BPE)",
            ));
        }
        Some(other) => return Err(unsupported(format!("`{other}`"), "`gpt2` (byte-level BPE)")),
        None if problems.is_empty() => {
            problems.push(Problem::new("tokenizer.ggml.model", "no value", "`gpt2`"));
        }
        None => {}
    }
    let splitting_name = splitting_name.unwrap_or("default");
    let Some(splitting) = Splitting::named(splitting_name) else {
        return Err(unsupported(
            format!("the splitting `{splitting_name}`"),
            "`gpt-2`, `smollm`, `qwen2` or `llama-bpe`",
        ));
    };

    let tokens = required_texts(&mut problems, header, "tokenizer.ggml.tokens");
    let merges = required_texts(&mut problems, header, "tokenizer.ggml.merges");
    let vocabulary = index_tokens(&mut problems, tokens);
    let merges = split_merges(&mut problems, merges, &vocabulary);
    let types = read_types(&mut problems, header, tokens.len());
    let mut token = |key: &str| read_token_id(&mut problems, header, key, tokens);
    let bos = token("tokenizer.ggml.bos_token_id");
    let ends: Vec<(u32, &'static str)> = END_KEYS
        .into_iter()
        .filter_map(|key| token(key).map(|id| (id, key)))
        .collect();
    let eos = ends.iter().find(|(_, key)| *key == END_KEYS[0]).map(|(id, _)| *id);
    let begin = keep(&mut problems, header.boolean("tokenizer.ggml.add_bos_token")).unwrap_or(splitting.add_bos);
    let end = keep(&mut problems, header.boolean("tokenizer.ggml.add_eos_token")).unwrap_or(false);
    if !problems.is_empty() {
        return Err(GgufTokenizerError::Metadata {
            path: header.path.clone(),
            problems,
        });
    }

    let special = |id: u32| bos == Some(id) || ends.iter().any(|(end, _)| *end == id);
    let added: Vec<Value> = tokens
        .iter()
        .zip(0_u32..)
        .filter_map(|(content, id)| {
            let kind = types.get(id as usize).copied();
            let special = kind == Some(CONTROL) || special(id);
            (special || kind == Some(USER_DEFINED)).then(|| added_token(id, content, special))
        })
        .collect();
    let text_of = |id: u32| tokens[id as usize].clone();
    let bos = bos.map(|id| (id, text_of(id)));
    let eos = eos.map(|id| (id, text_of(id)));
    let definition = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": splitting.normalizer,
        "pre_tokenizer": splitting.pre_tokenizer,
        "post_processor": surround_with(bos.as_ref().filter(|_| begin), eos.as_ref().filter(|_| end)),
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": splitting.ignore_merges,
            "vocab": tokens.iter().cloned().zip((0_u32..).map(Value::from)).collect::<Map<_, _>>(),
            "merges": merges,
        },
    });
    Ok(GgufTokenizer {
        definition,
        bos_token: bos.map(|(_, text)| text),
        eos_token: eos.map(|(_, text)| text),
        end_ids: ends,
    })
}

/// A post-processor that puts tokens before and after every text; null when there is nothing to put.
fn surround_with(first: Option<&(u32, String)>, last: Option<&(u32, String)>) -> Value {
    if first.is_none() && last.is_none() {
        return Value::Null;
    }
    let special = |token: &(u32, String), text: u32| json!({ "SpecialToken": { "id": token.1, "type_id": text } });
    let around = |name: &str, text: u32| {
        first
            .map(|token| special(token, text))
            .into_iter()
            .chain([json!({ "Sequence": { "id": name, "type_id": text } })])
            .chain(last.map(|token| special(token, text)))
    };
    let special_tokens: Map<String, Value> = first
        .into_iter()
        .chain(last)
        .map(|(id, text)| (text.clone(), json!({ "id": text, "ids": [id], "tokens": [text] })))
        .collect();
    json!({
        "type": "TemplateProcessing",
        "single": around("A", 0).collect::<Vec<_>>(),
        "pair": around("A", 0).chain(around("B", 1)).collect::<Vec<_>>(),
        "special_tokens": special_tokens,
    })
}

fn added_token(id: u32, content: &str, special: bool) -> Value {
    json!({
        "id": id, "content": content, "special": special,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
    })
}

fn keep<T>(problems: &mut Problems, value: Result<Option<T>, Problem>) -> Option<T> {
    value.unwrap_or_else(|problem| {
        problems.push(problem);
        None
    })
}

fn required_texts<'header>(problems: &mut Problems, header: &'header GgufHeader, key: &str) -> &'header [String] {
    match header.texts(key) {
        Ok(Some(texts)) => texts,
        Ok(None) => {
            problems.push(Problem::new(key, "no value", "an array of texts"));
            &[]
        }
        Err(problem) => {
            problems.push(problem);
            &[]
        }
    }
}

fn index_tokens<'token>(problems: &mut Problems, tokens: &'token [String]) -> HashMap<&'token str, usize> {
    let mut vocabulary = HashMap::with_capacity(tokens.len());
    for (id, token) in tokens.iter().enumerate() {
        if let Some(earlier) = vocabulary.insert(token.as_str(), id) {
            problems.push(Problem::new(
                format!("tokenizer.ggml.tokens[{id}]"),
                format!("`{token}`, which is also token {earlier}"),
                "each token once",
            ));
        }
    }
    vocabulary
}

fn split_merges(problems: &mut Problems, merges: &[String], vocabulary: &HashMap<&str, usize>) -> Vec<Value> {
    let mut pairs = Vec::with_capacity(merges.len());
    for (index, merge) in merges.iter().enumerate() {
        let known = |part: &str| vocabulary.contains_key(part);
        match merge.split_once(' ') {
            Some((left, right)) if known(left) && known(right) && known(&format!("{left}{right}")) => {
                pairs.push(json!([left, right]));
            }
            _ => problems.push(Problem::new(
                format!("tokenizer.ggml.merges[{index}]"),
                format!("`{merge}`"),
                "two tokens with a space between them, which together are a token",
            )),
        }
    }
    pairs
}

fn read_types(problems: &mut Problems, header: &GgufHeader, tokens: usize) -> Vec<u64> {
    let key = "tokenizer.ggml.token_type";
    let types = keep(problems, header.unsigned_array(key)).unwrap_or_default();
    if !types.is_empty() && types.len() != tokens {
        problems.push(Problem::new(
            key,
            format!("{} types", types.len()),
            format!("one for each of {tokens} tokens"),
        ));
    }
    types
}

fn read_token_id(problems: &mut Problems, header: &GgufHeader, key: &str, tokens: &[String]) -> Option<u32> {
    let id = keep(problems, header.unsigned(key))?;
    match u32::try_from(id) {
        Ok(id) if (id as usize) < tokens.len() => Some(id),
        _ => {
            problems.push(Problem::new(
                key,
                id.to_string(),
                format!("the id of one of {} tokens", tokens.len()),
            ));
            None
        }
    }
}
