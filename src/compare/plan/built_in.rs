//! The comparison that is run when nobody says which.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Limits, ModelPair, Plan, ServerKind, Side};

/// Beginnings of the words by which GGUF files tell their quantisation after the last period: `Q4_K_M`, `IQ2_XS`, `BF16`.
const QUANTISATIONS: [&str; 4] = ["Q", "IQ", "F", "BF"];
/// Short answers: two slow cores write some twenty tokens in a second.
const ANSWER_TOKENS: usize = 48;
/// Requests of a test.
const REPEATS: usize = 4;
/// Enough for a slope, and over in a minute with each state of the caches.
const LEAK_REQUESTS: usize = 40;
/// Times that a small model keeps on a slow machine, where 4,000 tokens of prompt take over a minute.
const LIMITS: Limits = Limits {
    load: 120.0,
    request: 300.0,
    stall: 240.0,
    test: 600.0,
};

impl Plan {
    /// A GGUF file by `llama-server` against a folder of the same weights for MLX by `diagnose serve`, in all scenarios; of
    /// SmolLM2-135M-Instruct on two slow cores it is over in less than 20 minutes. The pair is called after the file.
    pub fn built_in(gguf: &Path, mlx: &Path) -> Self {
        let side = |server, model: &Path| Side {
            server,
            model: model.display().to_string(),
            address: None,
            command: None,
            environment: BTreeMap::new(),
            api_key_variable: None,
        };
        let pair = ModelPair {
            name: model_name(gguf),
            gguf: side(ServerKind::LlamaServer, gguf),
            mlx: side(ServerKind::Diagnose, mlx),
            tokenizer: Some(mlx.to_owned()),
            // The folder's `config.json` tells.
            mixture: None,
        };
        Self {
            repeats: REPEATS,
            answer_tokens: ANSWER_TOKENS,
            leak_requests: LEAK_REQUESTS,
            limits: LIMITS,
            ..Self::with_defaults(vec![pair])
        }
    }
}

/// The name of a file without its quantisation and `.gguf`.
fn model_name(gguf: &Path) -> String {
    let stem = gguf.file_stem().unwrap_or(gguf.as_os_str()).to_string_lossy();
    let quantisation = |word: &str| {
        let mut beginnings = QUANTISATIONS
            .iter()
            .filter_map(|beginning| word.strip_prefix(beginning));
        beginnings.any(|rest| rest.starts_with(|character: char| character.is_ascii_digit()))
    };
    match stem.rsplit_once('.') {
        Some((name, word)) if !name.is_empty() && quantisation(&word.to_uppercase()) => name.to_owned(),
        _ => stem.into_owned(),
    }
}
