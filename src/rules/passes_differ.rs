use super::live_state::{binding, repeat_difference};
use super::rule::declare_rule;
use super::wording::{difference, shortest};
use super::{Finding, Fix, Outcome};
use crate::evidence::Evidence;
use crate::thresholds::logit_tolerance;

declare_rule! {
    /// ## What it finds
    ///
    /// Two passes of the generator over the same tokens give different logits.
    ///
    /// ## Why it matters
    ///
    /// Something random is still on, as a rule dropout: the model was left in training mode. Answers vary at temperature
    /// 0 and are worse than the model is, and single layers of the adapter act at random.
    ///
    /// ## Evidence
    ///
    /// Identity: without dropout a pass has nothing random in it, so two passes are equal. The tolerance, which grows with
    /// the distance of the trained model from the base, allows only for another order of summation.
    ///
    /// ## How to fix
    ///
    /// Turn training mode off before generating: `model.eval()` in MLX, and again after each training step if answers are
    /// sampled in between.
    ///
    /// ## References
    ///
    /// - <https://github.com/huggingface/peft/issues/2438>
    /// - <https://github.com/ipolharvard/ethos-ares/issues/20>
    /// - <https://github.com/meta-pytorch/torchtune/issues/996>
    /// - <https://github.com/ml-explore/mlx-swift-lm/issues/541>
    pub static PASSES_DIFFER = {
        name: "passes-differ",
        code: "GEN004",
        summary: "two passes of the generator over the same tokens differ",
        phase: State,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[
            "trained-state-not-used-in-generation",
            "end-of-text-spam",
            "repetition-loop",
            "never-stops",
        ],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let apart = match repeat_difference(evidence) {
        Ok(Some(apart)) => *apart,
        Ok(None) => {
            return Outcome::not_applicable("the generator's logits are not finite, so they cannot be compared");
        }
        Err(outcome) => return outcome,
    };
    let from_base = binding(evidence).ok().and_then(|binding| binding.trained_from_base);
    // Logits of a model that training blew up are large, and so is their rounding.
    let tolerance = logit_tolerance(&evidence.environment.dtype) * from_base.unwrap_or(1.0).max(1.0);
    if apart <= tolerance {
        return Outcome::Pass;
    }
    let dropout = evidence.settings.dropout;
    let finding = Finding::new(
        "two passes of the generator over the same tokens differ",
        format!("logits differ by up to {}", difference(Some(apart))),
        format!("equal logits, within {}", difference(Some(tolerance))),
    )
    .with("repeat_difference", apart)
    .with("tolerance", tolerance)
    .with("dropout", dropout);
    finding
        .fix(Fix::by_hand(if dropout > 0.0 {
            format!(
                "turn training mode off before generating: the adapters' dropout of {} is still on",
                shortest(dropout)
            )
        } else {
            "turn off whatever is random in the forward pass before generating, dropout of the model's own layers among it"
                .to_owned()
        }))
        .into()
}
