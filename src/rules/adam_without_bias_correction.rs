use super::rule::declare_rule;
use super::wording::{factor, shortest};
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, Slot};
use crate::thresholds::ABNORMAL_RISE;

declare_rule! {
    /// ## What it finds
    ///
    /// A loss that jumps for a moment in the first steps of a run whose Adam does not correct its moments.
    ///
    /// ## Why it matters
    ///
    /// MLX's Adam leaves the correction out unless it is asked for. Its first step is then 3.16 times the learning rate,
    /// and the next ones are still two to four times too large. A recipe from `PyTorch`, where the correction is always
    /// made, can be too hot for MLX.
    ///
    /// ## Evidence
    ///
    /// The settings, and the loss of the second or third step, which is above that of the first by more than
    /// `ABNORMAL_RISE` and comes back later; if it stays, see `training-diverged`. It is information only: the default of
    /// MLX is legal and mostly does no harm.
    ///
    /// ## How to fix
    ///
    /// Turn on bias correction, or warm up over some steps.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx/issues/1640>
    /// - <https://github.com/ml-explore/mlx/issues/1542>
    pub static ADAM_WITHOUT_BIAS_CORRECTION = {
        name: "adam-without-bias-correction",
        code: "OPT014",
        summary: "the loss jumps at the start, where Adam without bias correction makes its largest steps",
        phase: Training,
        severity: Info,
        status: Stable,
        since: "0.1.0",
        explains: &[],
    }
}

/// Steps after the first in which a jump is looked for.
const EARLY_STEPS: usize = 2;

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(training) = &evidence.training else {
        return Outcome::not_measured("training", &evidence.training);
    };
    let settings = &evidence.settings;
    if settings.bias_correction || settings.warmup_steps > 0 {
        return Outcome::Pass;
    }
    let mut losses = training.steps.iter().map(|step| step.loss);
    let Some(first) = losses.next().flatten() else {
        return Outcome::not_applicable("no first step with a finite loss");
    };
    let highest = losses.clone().take(EARLY_STEPS).flatten().fold(first, f64::max);
    let comes_back = losses.flatten().last().is_some_and(|last| last < first + ABNORMAL_RISE);
    if highest <= first + ABNORMAL_RISE || !comes_back {
        return Outcome::Pass;
    }
    Finding::new(
        format!("the loss jumps from {first:.3} to {highest:.3} at once, and Adam runs without bias correction"),
        format!(
            "first updates of {} times the learning rate of {}",
            factor(f64::from(10).sqrt()),
            shortest(settings.learning_rate)
        ),
        "first updates of the size of the learning rate",
    )
    .with(
        "losses",
        training.steps.iter().map(|step| step.loss).collect::<Vec<_>>(),
    )
    .with("bias_correction", settings.bias_correction)
    .fix(Fix::by_hand(
        "turn on bias correction (`--bias-correction`), or warm up",
    ))
    .into()
}
