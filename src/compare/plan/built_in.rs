//! The comparison that is run when nobody says which.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Limits, ModelPair, Plan, ServerKind, Side};

/// Name of the pair.
const NAME: &str = "SmolLM2-135M-Instruct";
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
    /// SmolLM2-135M-Instruct as a GGUF file by `llama-server` against a folder of the same weights for MLX by `diagnose serve`,
    /// in all scenarios; on two slow cores it is over in less than 20 minutes.
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
            name: NAME.to_owned(),
            gguf: side(ServerKind::LlamaServer, gguf),
            mlx: side(ServerKind::Diagnose, mlx),
            tokenizer: Some(mlx.to_owned()),
            mixture: Some(false),
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
