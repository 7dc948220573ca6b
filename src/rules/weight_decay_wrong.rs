use super::rule::declare_rule;
use super::update_reading;
use super::wording::factor;
use super::{Fix, Outcome};
use crate::evidence::{Evidence, UpdateReading};

declare_rule! {
    /// ## What it finds
    ///
    /// A weight decay other than the one of the settings.
    ///
    /// ## Why it matters
    ///
    /// Decay pulls every value towards zero, whatever the data says. A strong one shrinks adapters as fast as they grow,
    /// and a full model forgets.
    ///
    /// ## Evidence
    ///
    /// The updates, replayed on a sample of values from the gradients that the optimizer was given, are not those of the
    /// settings, and are with another decay, which least squares find.
    ///
    /// ## How to fix
    ///
    /// Hand the weight decay of the settings to the optimizer, once, and decoupled: it is multiplied by the learning
    /// rate and not added to the gradient.
    ///
    /// ## References
    ///
    /// - <https://github.com/MakazhanAlpamys/Soup/issues/686>
    /// - <https://arxiv.org/abs/1711.05101>
    pub static WEIGHT_DECAY_WRONG = {
        name: "weight-decay-wrong",
        code: "OPT010",
        summary: "the weight decay is not the one of the settings",
        phase: Training,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[
            "training-diverged",
            "update-too-small",
            "loss-not-decreasing",
            "end-of-text-spam",
            "repetition-loop",
            "never-stops",
        ],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let judged = match update_reading::judge(evidence) {
        Ok(judged) => judged,
        Err(outcome) => return outcome,
    };
    let configured = judged.check.configured_weight_decay;
    match (judged.reading, judged.check.weight_decay) {
        (Some(UpdateReading::Decayed), Some(decay)) => judged
            .finding(
                &format!(
                    "the weight decay is {}, not the {} of the settings",
                    factor(decay),
                    factor(configured)
                ),
                &format!("a weight decay of {}", factor(configured)),
            )
            .with("configured_weight_decay", configured)
            .fix(Fix::by_hand(
                "hand the weight decay of the settings to the optimizer, and apply it once, times the learning rate",
            ))
            .into(),
        _ => Outcome::Pass,
    }
}
