use super::rule::declare_rule;
use super::update_reading;
use super::wording::{factor, shortest};
use super::{Fix, Outcome};
use crate::evidence::{Evidence, UpdateReading};

declare_rule! {
    /// ## What it finds
    ///
    /// An optimizer that makes other updates than the settings say: all of them larger or smaller, without moments, with
    /// a large epsilon, with the other choice of bias correction, or in a way that has no name.
    ///
    /// ## Why it matters
    ///
    /// The settings are printed and believed, and the run uses others. An effective learning rate ten times too high
    /// destroys a model that the printed one would have taught well.
    ///
    /// ## Evidence
    ///
    /// Adam is replayed in double precision on a sample of values, from the settings, the learning rates of the steps
    /// and the gradients that the optimizer was given. The changes differ from the replay by more than rounding. The
    /// reading that fits is named, with its factor or epsilon.
    ///
    /// ## How to fix
    ///
    /// Look at how the optimizer is made: options that are read but never handed on, an epsilon or a learning rate of
    /// another recipe, a second scaling of the gradients or of the update.
    ///
    /// ## References
    ///
    /// - <https://github.com/MakazhanAlpamys/Soup/issues/686>
    /// - <https://github.com/ml-explore/mlx-examples/issues/1314>
    /// - <https://github.com/hiyouga/LlamaFactory/issues/4014>
    pub static UPDATE_NOT_AS_CONFIGURED = {
        name: "update-not-as-configured",
        code: "OPT011",
        summary: "the optimizer makes other updates than the settings say",
        phase: Training,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[
            "gradient-spike",
            "training-diverged",
            "loss-not-finite",
            "parameters-unchanged",
            "update-too-small",
            "updates-lost-to-rounding",
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
    let settings = &evidence.settings;
    let (headline, fix) = match judged.reading {
        Some(UpdateReading::Scaled) => {
            let times = judged.check.factor.map_or_else(|| "other than 1".to_owned(), factor);
            let effective = judged
                .check
                .factor
                .map_or(0.0, |factor| factor * settings.learning_rate);
            (
                format!(
                    "every update is {times} times what the settings say: the effective learning rate is {}, not {}",
                    factor(effective),
                    shortest(settings.learning_rate)
                ),
                "hand the learning rate of the settings to the optimizer, and scale the updates nowhere else",
            )
        }
        Some(UpdateReading::PlainDescent) => (
            "the updates are plain gradient descent, not Adam".to_owned(),
            "use the optimizer that was asked for; the learning rates of the two differ by orders of magnitude",
        ),
        Some(UpdateReading::LargeEpsilon) => (
            format!(
                "the optimizer's epsilon is about {}, which swallows small gradients",
                judged
                    .check
                    .epsilon
                    .map_or_else(|| "an unknown size".to_owned(), shortest)
            ),
            "set epsilon to 1e-8",
        ),
        Some(UpdateReading::OtherBiasCorrection) if settings.bias_correction => (
            "bias correction was asked for, and the optimizer does not make it".to_owned(),
            "hand the choice of bias correction to the optimizer: MLX's default is none",
        ),
        Some(UpdateReading::OtherBiasCorrection) => (
            "the optimizer makes a bias correction that was not asked for".to_owned(),
            "hand the choice of bias correction to the optimizer",
        ),
        None => (
            "the optimizer does not make the updates that the settings say".to_owned(),
            "look for updates that are skipped, made twice, clipped or changed between the optimizer and the model",
        ),
        Some(_) => return Outcome::Pass,
    };
    judged
        .finding(&headline, "the updates of AdamW with the settings of the run")
        .with("learning_rate", settings.learning_rate)
        .fix(Fix::by_hand(fix))
        .into()
}
