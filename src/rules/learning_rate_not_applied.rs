use super::rule::declare_rule;
use super::wording::{counted, factor, shortest};
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, Listing, RunSettings, Slot};
use crate::thresholds::SAME_LEARNING_RATE;

declare_rule! {
    /// ## What it finds
    ///
    /// Steps made with another learning rate than the settings give.
    ///
    /// ## Why it matters
    ///
    /// An option that is read, printed and never handed on is among the hardest faults to see. The rate may stay at the
    /// start of a warm-up for ever, come back to it, or be the default of another program.
    ///
    /// ## Evidence
    ///
    /// Identity: the learning rate of each step follows from the peak and the warm-up, up to `SAME_LEARNING_RATE` for
    /// rounding.
    ///
    /// ## How to fix
    ///
    /// Hand the schedule to the optimizer, and count its steps in updates, not in batches or epochs.
    ///
    /// ## References
    ///
    /// - <https://github.com/MakazhanAlpamys/Soup/issues/686>
    /// - <https://github.com/ml-explore/mlx-examples/issues/985>
    /// - <https://github.com/ml-explore/mlx-examples/issues/1196>
    pub static LEARNING_RATE_NOT_APPLIED = {
        name: "learning-rate-not-applied",
        code: "OPT012",
        summary: "steps were made with another learning rate than the settings give",
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
            "adapter-never-moved",
            "loss-not-decreasing",
            "end-of-text-spam",
            "repetition-loop",
            "never-stops",
        ],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(training) = &evidence.training else {
        return Outcome::not_measured("training", &evidence.training);
    };
    if training.steps.is_empty() {
        return Outcome::not_applicable("no step was made");
    }
    let settings = &evidence.settings;
    let wrong: Vec<_> = training
        .steps
        .iter()
        .filter(|step| {
            let wanted = wanted(settings, step.step);
            (step.learning_rate - wanted).abs() > SAME_LEARNING_RATE * wanted
        })
        .collect();
    let Some(first) = wrong.first() else {
        return Outcome::Pass;
    };
    let expected = wanted(settings, first.step);
    Finding::new(
        format!(
            "{} used another learning rate than was asked for",
            counted(wrong.len(), "step")
        ),
        format!(
            "a learning rate of {} at step {}",
            shortest(first.learning_rate),
            first.step
        ),
        match settings.warmup_steps {
            0 => format!("{} at every step", shortest(settings.learning_rate)),
            steps => format!(
                "{} at that step, on the way to {} after a warm-up of {}",
                factor(expected),
                shortest(settings.learning_rate),
                counted(steps, "step")
            ),
        },
    )
    .at(&Listing::numbered("step", wrong.iter().map(|step| step.step)))
    .with("learning_rate", settings.learning_rate)
    .with("warmup_steps", settings.warmup_steps)
    .with(
        "learning_rates",
        training.steps.iter().map(|step| step.learning_rate).collect::<Vec<_>>(),
    )
    .fix(Fix::by_hand(
        "hand the learning rate and the warm-up of the settings to the optimizer, and count the warm-up in updates",
    ))
    .into()
}

/// The learning rate that the settings give at the given step of the run.
fn wanted(settings: &RunSettings, step: usize) -> f64 {
    let risen = step as f64 / (settings.warmup_steps + 1) as f64;
    settings.learning_rate * risen.min(1.0)
}
