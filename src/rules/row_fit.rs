//! How well rows are predicted, or the answer a rule gives where it was not measured.

use super::Outcome;
use crate::evidence::{Evidence, FitComparison, FitEvidence, Slot};

/// The rows before and after.
pub(super) fn fit(evidence: &Evidence) -> Result<&FitComparison, Outcome> {
    match &evidence.fit {
        Slot::Ran(fit) => Ok(fit),
        absent => Err(Outcome::not_measured("the loss of the rows", absent)),
    }
}

/// The rows before training.
pub(super) fn fit_before(evidence: &Evidence) -> Result<&FitEvidence, Outcome> {
    match &fit(evidence)?.before {
        Slot::Ran(before) => Ok(before),
        absent => Err(Outcome::not_measured("the first batch", absent)),
    }
}
