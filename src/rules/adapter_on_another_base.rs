use super::live_state::reload;
use super::rule::declare_rule;
use super::wording::{counted, difference};
use super::{Finding, Fix, Outcome};
use crate::evidence::Evidence;

declare_rule! {
    /// ## What it finds
    ///
    /// The adapter was loaded onto another base than the one it was trained on.
    ///
    /// ## Why it matters
    ///
    /// An adapter is a correction to one set of weights. On another base of the same shape, an instruction-tuned model
    /// instead of its base or a newer release, every tensor fits and the answers are silently wrong.
    ///
    /// ## Evidence
    ///
    /// Identity: every parameter of the base in the reloaded model is bit for bit that of the base that was trained on.
    ///
    /// ## How to fix
    ///
    /// Load the base that `model` in `adapter_config.json` names, in the same revision and the same packing.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-lm/pull/1725>
    /// - <https://github.com/ml-explore/mlx-lm/issues/1727>
    /// - <https://github.com/huggingface/peft/issues/276>
    pub static ADAPTER_ON_ANOTHER_BASE = {
        name: "adapter-on-another-base",
        code: "SAVE004",
        summary: "the adapter was loaded onto another base than the one it was trained on",
        phase: State,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &["adapter-file-unusable", "adapter-lost-on-reload"],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let reload = match reload(evidence) {
        Ok(reload) => reload,
        Err(outcome) => return outcome,
    };
    if reload.other_base.is_empty() {
        return Outcome::Pass;
    }
    Finding::new(
        "the adapter was loaded onto another base than the one it was trained on",
        format!(
            "{} of the base differ; logits differ from the live model's by up to {}",
            counted(reload.other_base.total, "parameter"),
            difference(reload.difference_from_live)
        ),
        "the base that was trained on, bit for bit",
    )
    .at(&reload.other_base)
    .with("other_base", &reload.other_base)
    .with("difference_from_live", reload.difference_from_live)
    .fix(Fix::by_hand(format!(
        "load the adapter onto `{}`, in the revision and packing it was trained on",
        evidence.settings.model
    )))
    .into()
}
