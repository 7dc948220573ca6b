//! What a rule judges of the last phase, or the answer it gives without it.

use super::Outcome;
use crate::evidence::{
    DivergenceEvidence, Evidence, FuseEvidence, GenerationBinding, ReloadEvidence, Slot, StateEvidence,
};

/// Which parameters generation used.
pub(super) fn binding(evidence: &Evidence) -> Result<&GenerationBinding, Outcome> {
    part(evidence, "the generator's state", |state| &state.generation)
}

/// The largest difference between two passes of the generator.
pub(super) fn repeat_difference(evidence: &Evidence) -> Result<&Option<f64>, Outcome> {
    part(evidence, "the repeated pass", |state| &state.repeat_difference)
}

/// The adapter saved and loaded again.
pub(super) fn reload(evidence: &Evidence) -> Result<&ReloadEvidence, Outcome> {
    part(evidence, "reloading", |state| &state.reload)
}

/// The adapters fused into the weights.
pub(super) fn fuse(evidence: &Evidence) -> Result<&FuseEvidence, Outcome> {
    part(evidence, "fusing", |state| &state.fuse)
}

/// How far the models are apart.
pub(super) fn divergence(evidence: &Evidence) -> Result<&DivergenceEvidence, Outcome> {
    part(evidence, "the divergence of the models", |state| &state.divergence)
}

fn part<'evidence, T>(
    evidence: &'evidence Evidence,
    what: &str,
    slot: fn(&StateEvidence) -> &Slot<T>,
) -> Result<&'evidence T, Outcome> {
    let Slot::Ran(state) = &evidence.state else {
        return Err(Outcome::not_measured("the live state", &evidence.state));
    };
    let slot = slot(state);
    slot.ran().ok_or_else(|| Outcome::not_measured(what, slot))
}
