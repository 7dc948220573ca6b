use super::finished_adapter::files;
use super::rule::declare_rule;
use super::wording::counted;
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, Slot};

declare_rule! {
    /// ## What it finds
    ///
    /// A finished model whose weights are those of its base.
    ///
    /// ## Why it matters
    ///
    /// Fusing wrote the base without its adapter, or the checkpoint was saved before the first step: whoever uses the model
    /// sees no training at all.
    ///
    /// ## Evidence
    ///
    /// Identity: some tensor of the finished model differs from the base's. Both are compared as they are computed with;
    /// packing alone makes a difference, so a packed model is told from its plain base.
    ///
    /// ## How to fix
    ///
    /// Fuse again with the adapter that training left, and judge that adapter with `--adapter`; for a model that was
    /// trained in all its weights, save the one that the optimizer updated.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-examples/issues/425>
    /// - <https://github.com/unslothai/unsloth/issues/869>
    pub static FINISHED_MODEL_UNCHANGED = {
        name: "finished-model-unchanged",
        code: "SAVE010",
        summary: "the finished model's weights are those of its base",
        phase: Parameters,
        severity: Error,
        status: Preview,
        since: "0.1.0",
        explains: &["loss-not-decreasing"],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let files = match files(evidence) {
        Ok(files) => files,
        Err(outcome) => return outcome,
    };
    if files.kind != "full" {
        return Outcome::not_applicable("an adapter was given, not whole weights");
    }
    let Slot::Ran(parameters) = &evidence.parameters else {
        return Outcome::not_measured("the comparison of parameters", &evidence.parameters);
    };
    if files.applied == 0 {
        return Outcome::not_applicable("no tensor of the finished model fits the base");
    }
    if parameters.changed > 0 {
        return Outcome::Pass;
    }
    Finding::new(
        "the finished model is its base: no weight was changed",
        format!("0 of {} differ", counted(files.applied, "tensor")),
        "weights that training changed",
    )
    .with("tensors", files.applied)
    .with("changed", parameters.changed)
    .fix(Fix::by_hand(
        "fuse again with the adapter that training left, or save the model that the optimizer updated",
    ))
    .into()
}
