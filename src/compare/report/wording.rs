//! Words for what was found.

use crate::compare::analysis::{Confidence, LeakVerdict, Verdict};
use crate::compare::{FailureKind, Outcome, Start};

/// The state of the caches of earlier prompts.
pub(super) fn caches(are_on: bool) -> &'static str {
    if are_on { "prompt cache on" } else { "prompt cache off" }
}

/// What is said of memory in a word or two.
pub(super) fn leak_verdict(verdict: LeakVerdict) -> &'static str {
    match verdict {
        LeakVerdict::Leak => "leak",
        LeakVerdict::Settles => "settles",
        LeakVerdict::Grows => "grows",
        LeakVerdict::Steady => "steady",
        LeakVerdict::Unknown => "unknown",
    }
}

/// Which format is better, in a word.
pub(super) fn better(verdict: &Verdict) -> &'static str {
    match (verdict.better, verdict.confidence) {
        (Some(format), _) => format.title(),
        (None, Confidence::None) => "undecided",
        (None, _) => "neither",
    }
}

/// How sure a verdict is.
pub(super) fn confidence(confidence: Confidence) -> &'static str {
    match confidence {
        Confidence::None => "none, too little was measured",
        Confidence::Low => "low",
        Confidence::Medium => "medium",
        Confidence::High => "high",
    }
}

/// How a test ended.
pub(super) fn outcome(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Completed => "completed",
        Outcome::Skipped { .. } => "skipped",
        Outcome::Failed { .. } => "failed",
        Outcome::Interrupted => "interrupted",
    }
}

/// How a model came to be loaded.
pub(super) fn start(start: Start) -> &'static str {
    match start {
        Start::Process => "started by this program",
        Start::Load => "ran, loaded the model when asked",
        Start::Already => "ran, with the model loaded already",
    }
}

/// What kind of thing went wrong.
pub(super) fn failure(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::NotStarted => "not started",
        FailureKind::Unreachable => "unreachable",
        FailureKind::Died => "died",
        FailureKind::BrokenOff => "broken off",
        FailureKind::Refused => "refused",
        FailureKind::ServerError => "server error",
        FailureKind::Malformed => "malformed",
        FailureKind::Empty => "empty answer",
        FailureKind::Stalled => "stalled",
        FailureKind::TimedOut => "timed out",
        FailureKind::NotLoaded => "not loaded",
        FailureKind::Unsupported => "unsupported",
        FailureKind::NotWritten => "not written",
        FailureKind::Interrupted => "interrupted",
    }
}
