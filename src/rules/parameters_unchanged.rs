use super::rounding::{peak_learning_rate, updates_show};
use super::rule::declare_rule;
use super::wording::{counted, shortest};
use super::{Applicability, Finding, Fix, Outcome, Rerun};
use crate::evidence::{Evidence, FineTuneKind, ParameterEvidence, RunSettings, Slot, TrainingEvidence};
use crate::thresholds::{ADAPTER_LEARNING_RATE, FULL_LEARNING_RATE};

declare_rule! {
    /// ## What it finds
    ///
    /// Steps were made, and no trainable parameter differs from before.
    ///
    /// ## Why it matters
    ///
    /// The run cost time and gave the base model back. The loss that was printed moved only because the batches
    /// differ.
    ///
    /// ## Evidence
    ///
    /// Identity: after a step with a learning rate above zero, the set of changed tensors is the set of trainable
    /// tensors. The comparison is bit for bit. Three causes are told apart: the sum of the learning rates is zero, the
    /// updates are smaller than the element type can show, or neither; then another rule names the cause.
    ///
    /// ## How to fix
    ///
    /// Set a learning rate above zero, and make the run longer than a warm-up that starts at zero. If rounding
    /// swallows the updates, train in float32 or raise the learning rate.
    ///
    /// ## References
    ///
    /// - <https://github.com/keras-team/keras-hub/pull/2629>
    /// - <https://github.com/ml-explore/mlx-examples/issues/985>
    pub static PARAMETERS_UNCHANGED = {
        name: "parameters-unchanged",
        code: "OPT004",
        summary: "steps were made, and no trainable parameter differs from before",
        phase: Parameters,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &["adapter-never-moved", "loss-not-decreasing"],
        offers_command: true,
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(training) = &evidence.training else {
        return Outcome::not_measured("training", &evidence.training);
    };
    let Slot::Ran(parameters) = &evidence.parameters else {
        return Outcome::not_measured("the comparison of parameters", &evidence.parameters);
    };
    if training.steps.is_empty() {
        return Outcome::not_applicable("no step was made");
    }
    let nothing_changed = parameters.changed == 0;
    let nothing_trained = parameters.trainable_tensors > 0 && parameters.changed_trainable == 0;
    if !nothing_changed && !nothing_trained {
        return Outcome::Pass;
    }
    let steps = counted(training.steps.len(), "step");
    let dtype = &evidence.environment.dtype;
    let cause = cause(training, parameters, dtype);
    let headline = match cause {
        Cause::ZeroRate => format!("no parameter changed, because the learning rate was 0 in {steps}"),
        Cause::Rounding => format!("no parameter changed, because the updates are too small for {dtype}"),
        Cause::Elsewhere => format!("no trainable parameter changed in {steps}"),
    };
    Finding::new(
        headline,
        format!(
            "0 of {} changed; the learning rates add up to {}",
            counted(parameters.trainable_tensors, "trainable tensor"),
            shortest(training.optimizer.learning_rate_sum)
        ),
        "every trainable tensor changed",
    )
    .at(&parameters.unchanged_trainable)
    .with("steps", training.steps.len())
    .with("learning_rate_sum", training.optimizer.learning_rate_sum)
    .with("trainable_tensors", parameters.trainable_tensors)
    .with("changed_trainable", parameters.changed_trainable)
    .with("changed", parameters.changed)
    .with("dtype", dtype.clone())
    .fix(fix(&cause, training, &evidence.settings))
    .into()
}

/// Why nothing changed, as far as this rule can tell.
enum Cause {
    ZeroRate,
    Rounding,
    Elsewhere,
}

fn cause(training: &TrainingEvidence, parameters: &ParameterEvidence, dtype: &str) -> Cause {
    if training.optimizer.learning_rate_sum <= 0.0 {
        Cause::ZeroRate
    } else if !updates_show(parameters, training, dtype) {
        Cause::Rounding
    } else {
        Cause::Elsewhere
    }
}

fn fix(cause: &Cause, training: &TrainingEvidence, settings: &RunSettings) -> Fix {
    let usual = match settings.fine_tune {
        FineTuneKind::Lora => ADAPTER_LEARNING_RATE,
        FineTuneKind::Full => FULL_LEARNING_RATE,
    };
    match cause {
        Cause::ZeroRate if settings.learning_rate > 0.0 => Fix::command(
            format!(
                "make more steps than the {} of the warm-up, which starts at a learning rate of 0",
                counted(settings.warmup_steps, "step")
            ),
            Rerun::of(settings).steps(settings.warmup_steps + training.steps.len() + 1),
            Applicability::MachineApplicable,
        ),
        Cause::ZeroRate => Fix::command(
            format!("set a learning rate above 0, for example {}", shortest(usual)),
            Rerun::of(settings).learning_rate(usual),
            Applicability::MachineApplicable,
        ),
        Cause::Rounding => Fix::by_hand(format!(
            "train in float32, or raise the learning rate above {}",
            shortest(peak_learning_rate(training))
        )),
        Cause::Elsewhere => Fix::by_hand(
            "check that the tensors declared trainable are the very ones that the optimizer updates and the model uses",
        ),
    }
}
