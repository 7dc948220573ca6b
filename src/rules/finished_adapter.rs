//! The finished adapter that a rule judges, or the answer it gives without one.

use super::Outcome;
use crate::evidence::{AdapterFilesEvidence, Evidence, Slot};

/// The files of the adapter that was given.
pub(super) fn files(evidence: &Evidence) -> Result<&AdapterFilesEvidence, Outcome> {
    if !evidence.settings.is_trained_elsewhere() {
        return Err(Outcome::not_applicable("the adapter was trained here"));
    }
    match &evidence.adapter_files {
        Slot::Ran(files) => Ok(files),
        absent => Err(Outcome::not_measured("the finished adapter", absent)),
    }
}
