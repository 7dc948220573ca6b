//! The adapters that a rule judges, or the answer it gives without them.

use super::Outcome;
use crate::evidence::{AdapterEvidence, Evidence, FineTuneKind, Slot};

/// The adapters after training, at least one of them attached.
pub(super) fn adapters(evidence: &Evidence) -> Result<&AdapterEvidence, Outcome> {
    let Slot::Ran(parameters) = &evidence.parameters else {
        return Err(Outcome::not_measured(
            "the comparison of parameters",
            &evidence.parameters,
        ));
    };
    if evidence.settings.fine_tune == FineTuneKind::Full {
        return Err(Outcome::not_applicable(
            "all weights were to be trained, no adapter was asked for",
        ));
    }
    match &parameters.adapter {
        None => Err(Outcome::not_applicable("adapters were not looked for")),
        Some(adapter) if adapter.attached.is_empty() => Err(Outcome::not_applicable("no adapter is attached")),
        Some(adapter) => Ok(adapter),
    }
}
