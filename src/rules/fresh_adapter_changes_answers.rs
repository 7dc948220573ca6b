use super::live_adapters::adapters;
use super::rule::declare_rule;
use super::wording::{difference, shortest};
use super::{Finding, Fix, Outcome};
use crate::evidence::Evidence;
use crate::thresholds::logit_tolerance;

declare_rule! {
    /// ## What it finds
    ///
    /// Adapters that change the model's logits before the first step.
    ///
    /// ## Why it matters
    ///
    /// Training then starts from a damaged model instead of the base, and spends its first steps on repairing it. The
    /// loss falls all the same, so nothing looks wrong.
    ///
    /// ## Evidence
    ///
    /// Identity: one of the two matrices of a fresh adapter is zero, so the adapter adds exactly nothing and the logits
    /// of one row are the base's. The tolerance allows only for another order of summation.
    ///
    /// ## How to fix
    ///
    /// Start `lora_b` at zero and `lora_a` at random. Initialise after the layers were replaced, not before, and let no
    /// general initialisation of the model run over the adapters afterwards. To go on from an earlier adapter is not a
    /// fresh start: load it, and compare with the base plus that adapter.
    ///
    /// ## References
    ///
    /// - <https://github.com/mflux-community/mflux/issues/739>
    /// - <https://github.com/hao-ai-lab/FastVideo/pull/781>
    /// - <https://github.com/huggingface/peft/issues/2212>
    pub static FRESH_ADAPTER_CHANGES_ANSWERS = {
        name: "fresh-adapter-changes-answers",
        code: "ATTACH004",
        summary: "adapters change the model before the first step",
        phase: Parameters,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[
            "training-diverged",
            "overfit",
            "update-too-large",
            "loss-not-decreasing",
            "end-of-text-spam",
            "repetition-loop",
            "never-stops",
            "forgetting",
        ],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let adapter = match adapters(evidence) {
        Ok(adapter) => adapter,
        Err(outcome) => return outcome,
    };
    let Some(change) = adapter.identity_difference else {
        return Outcome::not_applicable("the logits of the fresh adapters are not finite, so they cannot be compared");
    };
    let tolerance = logit_tolerance(&evidence.environment.dtype);
    if change <= tolerance {
        return Outcome::Pass;
    }
    Finding::new(
        "the fresh adapters change the model's answers before any step",
        format!("logits differ from the base's by up to {}", difference(Some(change))),
        format!("the base's logits, within {}", shortest(tolerance)),
    )
    .at(&adapter.attached)
    .with("identity_difference", change)
    .with("tolerance", tolerance)
    .with("modules_attached", adapter.attached.total)
    .fix(Fix::by_hand(
        "start `lora_b` at zero and only `lora_a` at random, and let no other initialisation run afterwards",
    ))
    .into()
}
