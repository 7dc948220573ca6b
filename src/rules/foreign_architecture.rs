//! An architecture that this program lacks: what is not measured of it must not pass.

use super::Outcome;
use crate::evidence::Evidence;

/// The answer of a rule about `what`, which only a model of this program shows; `None` when the model is one.
pub(super) fn not_seen(evidence: &Evidence, what: &str) -> Option<Outcome> {
    let model = evidence.model.ran().filter(|model| model.is_foreign())?;
    Some(Outcome::not_applicable(format!(
        "this program has no `{}`: {what}",
        model.architecture
    )))
}
