use serde::Serialize;

use super::Signal;
use crate::evidence::{Evidence, Slot};
use crate::rules::{Diagnosis, Outcome, Severity};

/// The run in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every phase that ran is as it should be.
    Healthy,
    /// A rule named at least one error or warning.
    Findings,
    /// Something is off and no rule names the cause.
    Abnormal,
    /// A phase failed or the run was interrupted, so the findings there are may not be all.
    Incomplete,
}

impl Verdict {
    /// The name as reports print it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Findings => "findings",
            Self::Abnormal => "abnormal",
            Self::Incomplete => "incomplete",
        }
    }

    /// Weighs what could not be done first, then errors, then signals that no finding explains, then warnings.
    pub(super) fn of(incomplete: Option<&str>, diagnosis: &Diagnosis, signals: &[Signal]) -> Self {
        let worst = diagnosis.causes.iter().map(|cause| cause.severity).max();
        if incomplete.is_some() {
            Self::Incomplete
        } else if worst == Some(Severity::Error) {
            Self::Findings
        } else if signals.iter().any(|signal| signal.explained_by.is_none()) {
            Self::Abnormal
        } else if worst == Some(Severity::Warning) {
            Self::Findings
        } else {
            Self::Healthy
        }
    }
}

/// Why the run is incomplete, in one line; `None` when it is complete.
pub(super) fn incomplete_because(evidence: &Evidence, diagnosis: &Diagnosis) -> Option<String> {
    let mut failures = vec![
        failure("the model", &evidence.model),
        failure("the data", &evidence.data),
        failure("the cross-check", &evidence.cross_check),
        failure("the baseline", &evidence.baseline),
        failure("training", &evidence.training),
        failure("the comparison of parameters", &evidence.parameters),
        failure("generation", &evidence.generation),
        failure("the state", &evidence.state),
        failure("the two-by-two", &evidence.swap),
    ];
    if let Slot::Ran(state) = &evidence.state {
        failures.push(failure("the generator's state", &state.generation));
        failures.push(failure("evaluation", &state.evaluations));
        failures.push(failure("reloading", &state.reload));
    }
    let nothing_judged = || {
        diagnosis
            .checks
            .iter()
            .all(|check| matches!(check.outcome, Outcome::NotApplicable(_)))
            .then(|| "no check could be made".to_owned())
    };
    // An architecture that this program lacks and nobody else computes: only an error can still be told.
    let unanswered = || match (&evidence.model, &evidence.generation) {
        (Slot::Ran(model), Slot::Skipped { reason }) if model.is_foreign() && !evidence.settings.check_only => {
            diagnosis
                .causes
                .iter()
                .all(|cause| cause.severity < Severity::Error)
                .then(|| format!("no answer and no loss was measured: {reason}"))
        }
        _ => None,
    };
    let refused = evidence.refusal.as_ref().map(|refusal| refusal.headline.clone());
    evidence
        .interrupted
        .clone()
        .or(refused)
        .or_else(|| failures.into_iter().flatten().next())
        .or_else(unanswered)
        .or_else(nothing_judged)
}

fn failure<T>(what: &str, slot: &Slot<T>) -> Option<String> {
    match slot {
        Slot::Crashed { error } => {
            let headline = error.lines().next().unwrap_or(error);
            Some(format!("{what} failed: {headline}"))
        }
        Slot::Ran(_) | Slot::Skipped { .. } => None,
    }
}
