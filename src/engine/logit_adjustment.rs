//! Bias and penalties, which change logits before anything is chosen by them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::{SamplerError, SamplingSettings};

/// The logits with bias, then the penalties of repetition, presence and frequency, in this order: `make_logits_processors`
/// of mlx-lm.
pub fn adjusted<'logits>(
    settings: &SamplingSettings,
    logits: &'logits [f32],
    tokens_so_far: &[u32],
) -> Result<Cow<'logits, [f32]>, SamplerError> {
    if settings.logit_bias.is_empty() && !settings.penalises() {
        return Ok(Cow::Borrowed(logits));
    }
    let mut adjusted = logits.to_vec();
    for (&id, &bias) in &settings.logit_bias {
        *logit_of(&mut adjusted, id)? += bias;
    }
    if settings.penalises() {
        for (id, times) in counts(tokens_so_far, settings.repetition_context) {
            let logit = logit_of(&mut adjusted, id)?;
            if settings.scales_repeated() {
                let penalty = settings.repetition_penalty;
                *logit = if *logit < 0.0 {
                    *logit * penalty
                } else {
                    *logit / penalty
                };
            }
            *logit -= settings.presence_penalty;
            *logit -= settings.frequency_penalty * times as f32;
        }
    }
    Ok(Cow::Owned(adjusted))
}

/// How often each of the last `context` tokens is among them; a context of 0 means all.
fn counts(tokens: &[u32], context: usize) -> BTreeMap<u32, usize> {
    let first = if context == 0 {
        0
    } else {
        tokens.len().saturating_sub(context)
    };
    let mut counts = BTreeMap::new();
    for &id in &tokens[first..] {
        *counts.entry(id).or_insert(0) += 1;
    }
    counts
}

fn logit_of(logits: &mut [f32], id: u32) -> Result<&mut f32, SamplerError> {
    let vocabulary = logits.len();
    logits
        .get_mut(id as usize)
        .ok_or(SamplerError::UnknownToken { id, vocabulary })
}
