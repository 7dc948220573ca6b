use super::rule::declare_rule;
use super::wording::{counted, factor, shortest};
use super::{Applicability, Finding, Fix, Outcome, Rerun};
use crate::evidence::{Evidence, Slot};

declare_rule! {
    /// ## What it finds
    ///
    /// A run that ends before its learning rate has reached its peak.
    ///
    /// ## Why it matters
    ///
    /// The learning rate that was asked for is never used, and nothing can be said about it. In a real run a warm-up
    /// counted in batches instead of updates may never end.
    ///
    /// ## Evidence
    ///
    /// The steps of the warm-up against the steps of the run. It is information only: a short look at the beginning of a
    /// long run is legal.
    ///
    /// ## How to fix
    ///
    /// Make more steps than the warm-up has, or shorten it.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-examples/issues/985>
    /// - <https://github.com/ml-explore/mlx-examples/issues/1196>
    pub static WARMUP_LONGER_THAN_RUN = {
        name: "warmup-longer-than-run",
        code: "OPT013",
        summary: "the run ends before its learning rate has reached its peak",
        phase: Training,
        severity: Info,
        status: Stable,
        since: "0.1.0",
        explains: &[],
        offers_command: true,
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(training) = &evidence.training else {
        return Outcome::not_measured("training", &evidence.training);
    };
    let settings = &evidence.settings;
    let made = training.steps.len();
    if made == 0 {
        return Outcome::not_applicable("no step was made");
    }
    if settings.warmup_steps < made || settings.learning_rate <= 0.0 {
        return Outcome::Pass;
    }
    let enough = settings.warmup_steps + settings.steps;
    let reached = training.steps.iter().map(|step| step.learning_rate).fold(0.0, f64::max);
    Finding::new(
        format!(
            "the warm-up of {} is longer than the run of {}",
            counted(settings.warmup_steps, "step"),
            counted(made, "step")
        ),
        format!("a learning rate of up to {}", factor(reached)),
        format!("the {} that was asked for", shortest(settings.learning_rate)),
    )
    .with("warmup_steps", settings.warmup_steps)
    .with("steps", made)
    .with("highest_learning_rate", reached)
    .fix(Fix::command(
        format!("make {}", counted(enough, "step")),
        Rerun::of(settings).steps(enough),
        Applicability::MachineApplicable,
    ))
    .into()
}
