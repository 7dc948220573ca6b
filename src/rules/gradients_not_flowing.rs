use super::rule::declare_rule;
use super::wording::{counted, grouped};
use super::{Finding, Fix, Outcome, Severity};
use crate::evidence::{Evidence, Slot, TrainingEvidence};

declare_rule! {
    /// ## What it finds
    ///
    /// Trainable tensors that never receive a gradient other than zero.
    ///
    /// ## Why it matters
    ///
    /// The loss is printed and varies from batch to batch, files are saved, and nothing is learnt: the loss does not
    /// depend on the parameters in the way the trainer believes.
    ///
    /// ## Evidence
    ///
    /// Identity: a tensor that takes part in the loss has a gradient other than exactly zero. `lora_b` starts at zero,
    /// so `lora_a` has a zero gradient by construction until `lora_b` has moved once; it is judged only if every
    /// `lora_b` did, and only after a step with a learning rate above zero. A loss of exactly 0 has no gradient
    /// either and is not judged. When only some tensors have none it is a warning, unless a `lora_b` is among them.
    ///
    /// ## How to fix
    ///
    /// Call the model inside the function that is differentiated, with the parameters that this function receives.
    /// Logits computed outside it, or parameters captured by a closure, are constants to the differentiation. If only
    /// some tensors are named, their modules are not used by the forward pass, or a fused kernel has no backward.
    ///
    /// ## References
    ///
    /// - <https://github.com/Goekdeniz-Guelmez/mlx-lm-lora/issues/25>
    /// - <https://github.com/unslothai/unsloth/issues/5230>
    pub static GRADIENTS_NOT_FLOWING = {
        name: "gradients-not-flowing",
        code: "OPT001",
        summary: "trainable tensors never receive a gradient other than zero",
        phase: Training,
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
    if training.steps.is_empty() {
        return Outcome::not_applicable("no step was made");
    }
    if training.steps.iter().all(|step| step.gradient_norm.is_none()) {
        return Outcome::not_applicable("no step had a finite gradient");
    }
    let all_zero = training.steps.iter().all(|step| step.gradient_norm == Some(0.0));
    let loss_is_zero = training
        .steps
        .iter()
        .all(|step| step.loss == Some(0.0) && step.supervised_tokens > 0);
    let gradients = &training.gradients;
    if gradients.tensors > 0 && all_zero && loss_is_zero {
        return Outcome::not_applicable("the loss is exactly 0, so its gradient is zero too");
    }
    let (headline, severity) = if gradients.tensors == 0 {
        ("training computed no gradient at all".to_owned(), None)
    } else if all_zero {
        let steps = counted(training.steps.len(), "step");
        (format!("every gradient was exactly zero in {steps}"), None)
    } else if some_tensors_starve(evidence, training) {
        let headline = format!(
            "{} of {} never had a gradient",
            grouped(gradients.always_zero.total as u64),
            counted(gradients.tensors, "trainable tensor")
        );
        // A `lora_b` is in the way of every token, so that only a broken path can starve it.
        let adapter_starves = gradients.always_zero.first.iter().any(|name| name.ends_with(".lora_b"));
        (headline, (!adapter_starves).then_some(Severity::Warning))
    } else {
        return Outcome::Pass;
    };
    let mut finding = Finding::new(
        headline,
        format!(
            "{}, {} of them zero in every step",
            counted(gradients.tensors, "gradient"),
            grouped(gradients.always_zero.total as u64)
        ),
        "a gradient other than zero for every trainable tensor",
    )
    .at(&gradients.always_zero)
    .with("gradients", gradients.tensors)
    .with("always_zero", &gradients.always_zero)
    .with(
        "gradient_norms",
        training.steps.iter().map(|step| step.gradient_norm).collect::<Vec<_>>(),
    )
    .fix(Fix::by_hand(
        "call the model inside the function that is differentiated, with the parameters that it receives",
    ));
    finding.lowered_severity = severity;
    finding.into()
}

/// Whether a tensor that had to have a gradient had none.
///
/// `lora_a` has to have one once the `lora_b` of its module is other than zero.
fn some_tensors_starve(evidence: &Evidence, training: &TrainingEvidence) -> bool {
    let names = &training.gradients.always_zero;
    let adapter = evidence
        .parameters
        .ran()
        .and_then(|parameters| parameters.adapter.as_ref());
    let every_b_moved = adapter.is_some_and(|adapter| adapter.nonzero_b >= adapter.attached.total);
    if every_b_moved && training.steps_after_first_update() > 0 {
        return !names.is_empty();
    }
    names.first.iter().any(|name| !name.ends_with(".lora_a"))
}
