//! The losses that a training's own log holds, as rules judge them.

use super::wording::nats;
use crate::evidence::{Evidence, LogEvidence};

/// Losses at the end of a log whose mean says more than one line's chance.
const AVERAGED: usize = 3;

/// The log that was given.
pub(super) fn log(evidence: &Evidence) -> Option<&LogEvidence> {
    evidence.log.ran()
}

/// The loss at the log's beginning, of validation rows where they were measured before the first training loss, and the
/// mean of its last training losses; `None` with fewer than two.
pub(super) fn ends(log: &LogEvidence) -> Option<(f64, f64)> {
    let losses = log.losses();
    let (&(first_step, first), _) = losses.split_first().filter(|(_, rest)| !rest.is_empty())?;
    let validation = log.validation_losses();
    let untrained = validation.first().filter(|(step, _)| *step < first_step);
    let before = untrained.map_or(first, |(_, loss)| *loss);
    let last: Vec<f64> = losses
        .iter()
        .skip(1)
        .rev()
        .take(AVERAGED)
        .map(|(_, loss)| *loss)
        .collect();
    Some((before, last.iter().sum::<f64>() / last.len() as f64))
}

/// The losses in order, the middle left out of a long log.
pub(super) fn curve(losses: &[(usize, f64)]) -> String {
    const SHOWN_AT_EACH_END: usize = 4;
    let texts: Vec<String> = losses
        .iter()
        .map(|(step, loss)| format!("{} at {step}", nats(Some(*loss))))
        .collect();
    if texts.len() <= SHOWN_AT_EACH_END + SHOWN_AT_EACH_END {
        return texts.join(", ");
    }
    let (start, end) = (&texts[..SHOWN_AT_EACH_END], &texts[texts.len() - SHOWN_AT_EACH_END..]);
    format!("{}, ..., {}", start.join(", "), end.join(", "))
}
