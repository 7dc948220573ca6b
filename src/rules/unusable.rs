//! What the rules on unusable inputs share: the run was refused, and for the reason that is theirs.

use super::foreign_architecture::not_seen;
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, Refusal, RefusalKind, Slot};

/// One reason for which inputs are refused.
pub(super) struct Unusable {
    /// The reason.
    pub(super) kind: RefusalKind,
    /// What usable inputs have, where the error does not say.
    pub(super) expected: &'static str,
    /// What to do beside the error's own hint.
    pub(super) fix: &'static str,
}

impl Unusable {
    /// The answer of a rule about files that loading the model needs.
    pub(super) fn in_model(&self, evidence: &Evidence) -> Outcome {
        // These four need a prediction of the tensors.
        let is_computed = matches!(
            self.kind,
            RefusalKind::Configuration | RefusalKind::Tensors | RefusalKind::TiedOutput | RefusalKind::Packing
        );
        if is_computed && let Some(outcome) = not_seen(evidence, "its tensors and settings were not compared") {
            return outcome;
        }
        self.judge(evidence, "the model", &evidence.model)
    }

    /// The answer of a rule about files that reading the data needs.
    pub(super) fn in_data(&self, evidence: &Evidence) -> Outcome {
        self.judge(evidence, "the data", &evidence.data)
    }

    /// Inputs whose measurements were made can be used.
    fn judge<T>(&self, evidence: &Evidence, what: &str, measured: &Slot<T>) -> Outcome {
        match (finding(evidence, self.kind, self.expected), measured) {
            (Some(finding), _) => finding.fix(Fix::by_hand(self.fix)).into(),
            (None, Slot::Ran(_)) => Outcome::Pass,
            (None, absent) => Outcome::not_measured(what, absent),
        }
    }
}

/// The refusal of the run as a finding, with the hint of its error as the first fix; `None` when it was not refused for
/// this reason.
pub(super) fn finding(evidence: &Evidence, kind: RefusalKind, expected: &str) -> Option<Finding> {
    let refusal = evidence.refusal.as_ref().filter(|refusal| refusal.kind == kind)?;
    let parts = Parts::of(refusal);
    let finding = Finding::new(
        refusal.headline.clone(),
        parts.found.unwrap_or_else(|| refusal.headline.clone()),
        parts.expected.unwrap_or_else(|| expected.to_owned()),
    )
    .predating_training();
    Some(parts.hints.into_iter().map(Fix::by_hand).fold(finding, Finding::fix))
}

/// The text of an error under its headline.
struct Parts {
    found: Option<String>,
    expected: Option<String>,
    hints: Vec<String>,
}

impl Parts {
    /// Every error has lines `found:`, `expected:` and `hint:`; lines without such a label are single things found.
    fn of(refusal: &Refusal) -> Self {
        let mut found = Vec::new();
        let mut expected = None;
        let mut hints = Vec::new();
        for line in refusal.error.lines().skip(1).map(str::trim) {
            if let Some(text) = line.strip_prefix("expected: ") {
                expected = Some(text.to_owned());
            } else if let Some(text) = line.strip_prefix("hint: ") {
                hints.push(text.to_owned());
            } else {
                found.push(line.strip_prefix("found: ").unwrap_or(line));
            }
        }
        Self {
            found: (!found.is_empty()).then(|| found.join("; ")),
            expected,
            hints,
        }
    }
}
