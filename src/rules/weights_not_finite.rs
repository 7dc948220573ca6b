use super::rule::declare_rule;
use super::unusable::finding;
use super::wording::counted;
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, RefusalKind, Slot};

/// What weights should be.
const EXPECTED: &str = "finite weights in every tensor";

declare_rule! {
    /// ## What it finds
    ///
    /// Tensors of the base model that hold a NaN or an infinity before anything was trained.
    ///
    /// ## Why it matters
    ///
    /// One such value reaches every logit. The first loss is NaN, or, where a program guards its loss, training goes on
    /// and the model answers with one token for ever. Learning rate and data are then blamed for a broken file.
    ///
    /// ## Evidence
    ///
    /// Identity: every value of every tensor is finite, after packed weights were put into the element type that is
    /// computed in. No threshold is involved.
    ///
    /// ## How to fix
    ///
    /// Convert or download the model again. If the files were converted to float16, values above 65504 became infinite:
    /// convert to bfloat16 or float32. If they are the result of a training run, its loss was not finite: go back to a
    /// checkpoint from before.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-lm/issues/49>
    /// - <https://github.com/unslothai/unsloth-zoo/pull/670>
    pub static WEIGHTS_NOT_FINITE = {
        name: "weights-not-finite",
        code: "MODEL006",
        summary: "tensors of the base hold NaN or infinity before any training",
        phase: Baseline,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &["loss-not-finite"],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let fix = Fix::by_hand(
        "convert to bfloat16 or float32 when the files are float16, where values above 65504 are infinite, and fetch \
         the model again otherwise",
    );
    if let Some(finding) = finding(evidence, RefusalKind::NonFiniteWeights, EXPECTED) {
        return finding.fix(fix).into();
    }
    let Slot::Ran(model) = &evidence.model else {
        return Outcome::not_measured("the model", &evidence.model);
    };
    if model.non_finite.is_empty() {
        return Outcome::Pass;
    }
    let tensors = counted(model.non_finite.total, "tensor");
    Finding::new(
        format!("the base holds NaN or infinite values in {tensors} before any training"),
        format!("values that are not finite in {tensors}"),
        EXPECTED,
    )
    .at(&model.non_finite)
    .with("non_finite", &model.non_finite)
    .fix(fix)
    .predating_training()
    .into()
}
