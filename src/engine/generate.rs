use std::collections::BTreeSet;

use mlx_rs::error::Result;
use mlx_rs::ops::indexing::{TryIndexOp, argmax_axis};
use mlx_rs::{Array, Dtype};

use super::{CachePrecision, SequenceCache};
use crate::interrupt::Interrupt;
use crate::model::CausalModel;
use crate::readback::scalar;

/// Tokens of a prompt that go through the model at one time.
const PREFILL_TOKENS: usize = 512;

/// When decoding ends.
#[derive(Debug, Clone, Copy)]
pub struct DecodeLimits {
    /// Tokens of an answer at most; it ends earlier at a stop token.
    pub answer: usize,
    /// Tokens that are decoded in any case, stop tokens notwithstanding.
    pub at_least: usize,
}

/// What greedy decoding gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// Every token, stop tokens among them.
    pub tokens: Vec<u32>,
    /// Whether it ended because the logits held a NaN or an infinity.
    pub not_finite: bool,
    /// Whether the user ended it.
    pub interrupted: bool,
}

/// Decodes greedily after `prompt`, which must not be empty.
///
/// One pass serves two questions: what the answer is, which ends at the first token of `stop_set`, and what the model
/// would go on to say if nothing stopped it. Greedy decoding gives both the same tokens up to that point. Where positions
/// are learned, both end with the last one.
pub fn decode_greedily(
    model: &CausalModel,
    prompt: &[u32],
    stop_set: &BTreeSet<u32>,
    limits: DecodeLimits,
    interrupt: &Interrupt,
) -> Result<Decoded> {
    let mut cache = SequenceCache::new(model, CachePrecision::Whole);
    let mut decoded = Decoded {
        tokens: Vec::new(),
        not_finite: false,
        interrupted: false,
    };
    let mut answered = false;
    let mut pending: Vec<u32> = prompt.to_vec();
    loop {
        if interrupt.is_requested() {
            decoded.interrupted = true;
            return Ok(decoded);
        }
        let mut hidden = None;
        for chunk in pending.chunks(PREFILL_TOKENS) {
            let ids: Vec<i32> = chunk.iter().map(|&token| token as i32).collect();
            let count = ids.len() as i32;
            let row = Array::from_slice(&ids, &[1, count]);
            let states = model.hidden_states_of_sequences(&row, vec![cache.continued(count)])?;
            let last = states.try_index((.., -1, ..))?;
            last.eval()?;
            hidden = Some(last);
        }
        let Some(hidden) = hidden else {
            return Ok(decoded);
        };
        let logits = model.output(&hidden)?.as_dtype(Dtype::Float32)?;
        let best = argmax_axis(&logits, -1, false)?;
        // A sum of NaN and infinities cannot be finite, and one pass finds either.
        let total = logits.sum(None)?;
        mlx_rs::transforms::eval([&best, &total])?;
        if !scalar::<f32>(&total)?.is_finite() {
            decoded.not_finite = true;
            return Ok(decoded);
        }
        let token: u32 = scalar(&best)?;
        decoded.tokens.push(token);
        answered = answered || stop_set.contains(&token) || decoded.tokens.len() >= limits.answer;
        if answered && decoded.tokens.len() >= limits.at_least {
            return Ok(decoded);
        }
        let positions = prompt.len() + decoded.tokens.len();
        if model.learned_positions().is_some_and(|learned| positions > learned) {
            return Ok(decoded);
        }
        pending = vec![token];
    }
}
