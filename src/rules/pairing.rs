//! The same prompt before and after training.

use crate::evidence::{Answer, FinishReason, GenerationEvidence, Listing};

/// The answers to one prompt.
pub(super) struct Pair<'a> {
    pub(super) before: &'a Answer,
    pub(super) after: &'a Answer,
}

/// Every prompt that was answered before and after with finite logits, in the user's order.
pub(super) fn pairs<'a>(before: &'a GenerationEvidence, after: &'a GenerationEvidence) -> Vec<Pair<'a>> {
    before
        .answers
        .iter()
        .zip(&after.answers)
        .filter(|(before, after)| before.prompt == after.prompt)
        .filter(|(before, after)| before.finish != FinishReason::NonFinite && after.finish != FinishReason::NonFinite)
        .map(|(before, after)| Pair { before, after })
        .collect()
}

/// The prompts of these pairs, for the place of a finding.
pub(super) fn prompts(pairs: &[&Pair<'_>]) -> Listing {
    pairs
        .iter()
        .map(|pair| format!("`{}`", shortened(&pair.after.prompt)))
        .collect()
}

/// A prompt on one line, cut to what fits beside others.
fn shortened(prompt: &str) -> String {
    const SHOWN_CHARACTERS: usize = 40;
    let line = prompt.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= SHOWN_CHARACTERS {
        return line;
    }
    let start: String = line.chars().take(SHOWN_CHARACTERS).collect();
    format!("{}...", start.trim_end())
}
