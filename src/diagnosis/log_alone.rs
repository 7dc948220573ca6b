use std::path::Path;

use super::run::nothing_measured;
use crate::device::{Backend, PrecisionChoice};
use crate::evidence::{Evidence, RunSettings, Slot};
use crate::training_log::{self, LogError};

/// Judges a training by what its trainer wrote alone, without its model, its data or what it left: a log, or a folder of what each of
/// several processes recorded.
///
/// # Errors
/// The log cannot be read, or holds no loss.
pub fn diagnose_log(path: &Path) -> Result<Evidence, LogError> {
    let is_of_ranks = path.is_dir();
    let settings = RunSettings {
        log: Some(path.display().to_string()),
        ..RunSettings::default()
    };
    let backend = Backend::select();
    let choice = PrecisionChoice::default();
    let environment = backend.environment(backend.precision_of(None, choice), choice, false);
    let mut evidence = nothing_measured(settings, environment, "only a log was given");
    if is_of_ranks {
        evidence.ranks = Slot::Ran(training_log::read_ranks(path)?);
    } else {
        evidence.log = Slot::Ran(training_log::read(path)?);
    }
    Ok(evidence)
}
