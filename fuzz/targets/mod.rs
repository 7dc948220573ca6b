//! Every parser of bytes that come from outside, each behind a function of bytes.
//!
//! libFuzzer runs them through `fuzz/fuzz_targets`, and `tests/parsers.rs` runs them over `fuzz/corpus`. Both ask the same:
//! whatever the bytes are, they are accepted or refused with words, without a panic.

mod adapters;
mod answers;
mod bench_results;
mod chat_template;
mod comparison;
mod evidence;
mod fine_tuning;
mod model_files;
mod rank_records;
mod requests;
mod rows;
mod scratch;
mod streams;
mod tokenizers;
mod training_log;
mod weights;

use std::fmt::Display;

/// Longest refusal in bytes: what is wrong with a file, not the file over again.
const LONGEST_REFUSAL: usize = 1 << 16;

/// What a parser made of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// They are what it reads, and everything that reads on from there went through.
    Accepted,
    /// They are not, and why.
    Refused(String),
}

impl Verdict {
    fn of<T, E: Display>(result: Result<T, E>) -> Self {
        match result {
            Ok(_) => Self::Accepted,
            Err(error) => Self::Refused(error.to_string()),
        }
    }

    /// `Accepted` where one of two readers accepts.
    fn or(self, other: Self) -> Self {
        if self == Self::Accepted { self } else { other }
    }
}

/// A parser.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The name of its folder in `fuzz/corpus`, and of its program in `fuzz/fuzz_targets`.
    pub name: &'static str,
    run: fn(&[u8]) -> Verdict,
}

impl Target {
    const fn new(name: &'static str, run: fn(&[u8]) -> Verdict) -> Self {
        Self { name, run }
    }

    /// Hands it bytes.
    ///
    /// # Panics
    /// The parser panics, or refuses without words or without end.
    pub fn run(self, bytes: &[u8]) -> Verdict {
        let verdict = (self.run)(bytes);
        if let Verdict::Refused(words) = &verdict {
            assert!(!words.trim().is_empty(), "{} refuses without a word", self.name);
            let length = words.len();
            assert!(length <= LONGEST_REFUSAL, "{} refuses with {length} bytes", self.name);
        }
        verdict
    }
}

/// All of them, sorted by name.
pub const TARGETS: [Target; 24] = [
    Target::new("adapter_configuration", adapters::mlx_lm),
    Target::new("adapter_tensors", adapters::tensors),
    Target::new("bench_results", bench_results::read),
    Target::new("chat_template", chat_template::render),
    Target::new("compare_plan", comparison::plan),
    Target::new("compare_results", comparison::results),
    Target::new("event_stream", streams::events),
    Target::new("evidence", evidence::replay),
    Target::new("gguf", weights::gguf),
    Target::new("model_configuration", model_files::configuration),
    Target::new("npz", weights::npz),
    Target::new("peft_configuration", adapters::peft),
    Target::new("rank_records", rank_records::judge),
    Target::new("rows_array", rows::array),
    Target::new("rows_lines", rows::lines),
    Target::new("run_folder", fine_tuning::run_folder),
    Target::new("safetensors", weights::safetensors),
    Target::new("server_answer", answers::ask),
    Target::new("server_request", requests::ask),
    Target::new("tokenizer", tokenizers::definition),
    Target::new("tokenizer_settings", tokenizers::settings),
    Target::new("torch", weights::torch),
    Target::new("training_configuration", fine_tuning::configuration),
    Target::new("training_log", training_log::read),
];

/// The parser called `name`.
///
/// # Panics
/// There is none.
pub fn target(name: &str) -> Target {
    let found = TARGETS.into_iter().find(|target| target.name == name);
    found.unwrap_or_else(|| panic!("no target is called `{name}`"))
}
