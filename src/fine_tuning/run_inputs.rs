//! What a run reads and does not keep, by checksums: a run that goes on needs the same again.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::plan::Plan;
use crate::data::Dataset;

/// Checksums of what a run was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunInputs {
    /// Of the base model's files; see [`ModelFiles::fingerprint`](crate::model::ModelFiles::fingerprint).
    pub model: u32,
    /// Of the rows that are trained on, as tokens.
    pub rows: u32,
    /// Of the rows that are only measured; `None` without such rows.
    pub validation_rows: Option<u32>,
    /// Optimizer updates of the whole run, which follow from the rows.
    pub updates: usize,
}

/// A run cannot go on, since it would be another one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "the {what} is not what the run began with\n  found: {found}\n  expected: the {what} of the run\n  hint: {}",
    hint(what)
)]
pub struct OtherInputs {
    what: &'static str,
    found: String,
}

fn hint(what: &str) -> String {
    format!("bring the {what} back as it was, or begin a new run with another `--out`")
}

impl RunInputs {
    /// The checksums of a plan.
    pub fn of(plan: &Plan) -> Self {
        Self {
            model: plan.model_fingerprint,
            rows: plan.train.checksum(),
            validation_rows: plan.validation.as_ref().map(Dataset::checksum),
            updates: plan.updates,
        }
    }

    /// Refuses a plan that is given anything else than the run that began with these.
    ///
    /// # Errors
    /// The first input that differs.
    pub fn check(self, plan: &Plan) -> Result<(), OtherInputs> {
        let now = Self::of(plan);
        let data = plan.settings.data.display();
        let (what, found) = if now.model != self.model {
            let files = plan.files.path().display();
            (
                "model",
                format!("other weights, or another configuration, at `{files}`"),
            )
        } else if (now.rows, now.updates) != (self.rows, self.updates) {
            ("data", format!("other rows, or another tokenizer, at `{data}`"))
        } else if now.validation_rows != self.validation_rows {
            ("validation data", format!("other rows for validation at `{data}`"))
        } else {
            return Ok(());
        };
        Err(OtherInputs { what, found })
    }
}
