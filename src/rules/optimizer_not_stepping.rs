use super::rounding::{peak_learning_rate, updates_show};
use super::rule::declare_rule;
use super::wording::{counted, shortest};
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, Slot};

declare_rule! {
    /// ## What it finds
    ///
    /// Gradients arrive and the learning rate is above zero, yet no trainable tensor changes.
    ///
    /// ## Why it matters
    ///
    /// The loop runs, the loss is printed, files are saved, and the model that comes out is the one that went in. The
    /// optimizer may even count its steps: its counter says how often it was called, not whether the result was kept.
    ///
    /// ## Evidence
    ///
    /// Identity: a finite gradient other than zero and a learning rate above zero change the tensor. The change is
    /// compared bit for bit. Rounding is ruled out: the step has to be at least half the distance between two numbers
    /// of the element type at the tensor's typical value, otherwise `parameters-unchanged` speaks.
    ///
    /// ## How to fix
    ///
    /// Call the optimizer's update with the model and the gradients, put what it returns back into the model, and
    /// evaluate the parameters and the optimizer's state. Under `mx.compile` name the model's and the optimizer's state
    /// both as inputs and as outputs; a captured state is a constant.
    ///
    /// ## References
    ///
    /// - <https://github.com/neobundy/Deep-Dive-Into-AI-With-MLX-PyTorch/issues/7>
    /// - <https://github.com/ml-explore/mlx/issues/653>
    pub static OPTIMIZER_NOT_STEPPING = {
        name: "optimizer-not-stepping",
        code: "OPT002",
        summary: "gradients arrive and the learning rate is above zero, yet no trainable tensor changes",
        phase: Parameters,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &["parameters-unchanged", "adapter-never-moved", "loss-not-decreasing"],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(training) = &evidence.training else {
        return Outcome::not_measured("training", &evidence.training);
    };
    let Slot::Ran(parameters) = &evidence.parameters else {
        return Outcome::not_measured("the comparison of parameters", &evidence.parameters);
    };
    let optimizer = &training.optimizer;
    if training.steps.is_empty() {
        return Outcome::not_applicable("no step was made");
    }
    if optimizer.learning_rate_sum <= 0.0 {
        return Outcome::not_applicable("the learning rate was 0 at every step");
    }
    if !training.had_gradient() {
        return Outcome::not_applicable("no finite gradient other than zero arrived");
    }
    if parameters.trainable_tensors == 0 {
        return Outcome::not_applicable("no tensor is trainable");
    }
    if parameters.changed_trainable > 0 {
        return Outcome::Pass;
    }
    if !updates_show(parameters, training, &evidence.environment.dtype) {
        return Outcome::not_applicable(format!(
            "the updates are too small to show in {}",
            evidence.environment.dtype
        ));
    }
    let steps = counted(training.steps.len(), "step");
    Finding::new(
        format!("the optimizer changed nothing in {steps}, though gradients arrived"),
        format!(
            "0 of {} changed; {} says it made {}",
            counted(parameters.trainable_tensors, "trainable tensor"),
            optimizer.name,
            counted(optimizer.step_count as usize, "update")
        ),
        format!(
            "every trainable tensor changed after {steps} at a learning rate of up to {}",
            shortest(peak_learning_rate(training))
        ),
    )
    .at(&parameters.unchanged_trainable)
    .with("steps", training.steps.len())
    .with("optimizer", optimizer.name.clone())
    .with("optimizer_step_count", optimizer.step_count)
    .with("learning_rate_sum", optimizer.learning_rate_sum)
    .with(
        "gradient_norms",
        training.steps.iter().map(|step| step.gradient_norm).collect::<Vec<_>>(),
    )
    .with("trainable_tensors", parameters.trainable_tensors)
    .with("trainable_values", parameters.trainable_values)
    .fix(Fix::by_hand(
        "call the optimizer's update with the model and the gradients, keep what it returns, and evaluate the \
         parameters after it",
    ))
    .fix(Fix::by_hand(
        "under `mx.compile`, name the model's and the optimizer's state as inputs and as outputs",
    ))
    .into()
}
