use super::finished_adapter::files;
use super::live_adapters::adapters;
use super::rounding::{peak_learning_rate, survives};
use super::rule::declare_rule;
use super::wording::{counted, grouped};
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, Listing, ParameterEvidence, Slot, TensorChange, TrainingEvidence};

declare_rule! {
    /// ## What it finds
    ///
    /// Adapters are attached, but `lora_b` of some or all of them is what it was before training, or `lora_a` of all
    /// of them.
    ///
    /// ## Why it matters
    ///
    /// `lora_b` starts at zero. As long as it is zero the adapter adds nothing, so the model answers like the base.
    ///
    /// ## Evidence
    ///
    /// Identity: the gradient of `lora_b` is other than zero from the first step, so every `lora_b` changes. The
    /// gradient of `lora_a` contains `lora_b` as a factor: at the first step of a fresh adapter it is zero, and
    /// `lora_a` rightly stays. It is judged from the step after the first one with a learning rate above zero, and
    /// only if the update is large enough to show in the element type.
    ///
    /// Of a finished adapter nothing is known from before: there every `lora_b` has values other than zero.
    ///
    /// ## How to fix
    ///
    /// If some `lora_b` stay, their modules are not part of the forward pass, or a fused kernel has no gradient for
    /// them. If all stay, another finding names the cause. If only `lora_a` stays, it was left out of the trainable
    /// parameters.
    ///
    /// ## References
    ///
    /// - <https://github.com/drawthingsai/draw-things-community/issues/81>
    /// - <https://github.com/Goekdeniz-Guelmez/mlx-lm-lora/issues/65>
    pub static ADAPTER_NEVER_MOVED = {
        name: "adapter-never-moved",
        code: "ATTACH003",
        summary: "adapters are attached, but training did not move them",
        phase: Parameters,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &["loss-not-decreasing"],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    if evidence.settings.is_trained_elsewhere() {
        return finished(evidence);
    }
    let Slot::Ran(training) = &evidence.training else {
        return Outcome::not_measured("training", &evidence.training);
    };
    let Slot::Ran(parameters) = &evidence.parameters else {
        return Outcome::not_measured("the comparison of parameters", &evidence.parameters);
    };
    let Some(adapter) = &parameters.adapter else {
        return Outcome::not_applicable("no adapter was asked for");
    };
    if adapter.attached.is_empty() {
        return Outcome::not_applicable("no adapter is attached");
    }
    if training.steps.is_empty() {
        return Outcome::not_applicable("no step was made");
    }
    let still_b = unmoved(parameters, ".lora_b");
    let still_a = unmoved(parameters, ".lora_a");
    let all_a_still = still_a.len() >= adapter.attached.total && a_had_to_move(training, &still_a, evidence);
    let (headline, still) = if still_b.is_empty() && !all_a_still {
        return Outcome::Pass;
    } else if still_b.is_empty() && adapter.nonzero_b > 0 {
        ("no `lora_a` moved, only `lora_b` was trained".to_owned(), still_a)
    } else if still_b.is_empty() || still_b.len() >= adapter.attached.total {
        let steps = counted(training.steps.len(), "step");
        let still = if still_b.is_empty() { still_a } else { still_b };
        (format!("no adapter moved in {steps}"), still)
    } else {
        let headline = format!(
            "{} of {} never moved",
            grouped(still_b.len() as u64),
            counted(adapter.attached.total, "adapter")
        );
        (headline, still_b)
    };
    let names: Listing = still.iter().map(|tensor| tensor.name.as_str()).collect();
    Finding::new(
        headline,
        format!(
            "{} unchanged; `lora_b` is other than zero in {} of {}",
            counted(names.total, "adapter tensor"),
            grouped(adapter.nonzero_b as u64),
            counted(adapter.attached.total, "module")
        ),
        "every `lora_b` changed from the first step on, every `lora_a` from the second",
    )
    .at(&names)
    .with("unmoved", &names)
    .with("modules_attached", adapter.attached.total)
    .with("nonzero_a", adapter.nonzero_a)
    .with("nonzero_b", adapter.nonzero_b)
    .with("steps", training.steps.len())
    .fix(Fix::by_hand(
        "check that the forward pass calls the modules named here, and that both of their tensors are trainable",
    ))
    .into()
}

/// The same of an adapter that was trained before.
fn finished(evidence: &Evidence) -> Outcome {
    let files = match files(evidence) {
        Ok(files) => files,
        Err(outcome) => return outcome,
    };
    let adapter = match adapters(evidence) {
        Ok(adapter) => adapter,
        Err(outcome) => return outcome,
    };
    let attached = adapter.attached.total;
    let still = attached.saturating_sub(adapter.nonzero_b);
    if still == 0 {
        return Outcome::Pass;
    }
    let is_rate_zero = files.learning_rate == Some(0.0);
    Finding::new(
        if still == attached {
            "the adapter was never trained: every `lora_b` is zero".to_owned()
        } else {
            format!(
                "{} of {} were never trained: their `lora_b` is zero",
                grouped(still as u64),
                counted(attached, "adapter")
            )
        },
        format!(
            "`lora_b` is other than zero in {} of {}{}",
            grouped(adapter.nonzero_b as u64),
            counted(attached, "module"),
            if is_rate_zero {
                "; the stated learning rate is 0"
            } else {
                ""
            }
        ),
        "values other than zero in every `lora_b`, from the first step on",
    )
    .with("modules_attached", attached)
    .with("nonzero_a", adapter.nonzero_a)
    .with("nonzero_b", adapter.nonzero_b)
    .with("stated_learning_rate", files.learning_rate)
    .with("stated_steps", files.steps)
    .fix(Fix::by_hand(if is_rate_zero {
        "train again with a learning rate above 0"
    } else {
        "train again, and see that the optimizer gets the adapters' parameters and a learning rate above 0"
    }))
    .into()
}

/// Adapter tensors with this ending that are bit for bit what they were.
fn unmoved<'a>(parameters: &'a ParameterEvidence, ending: &str) -> Vec<&'a TensorChange> {
    parameters
        .changes
        .iter()
        .filter(|tensor| tensor.name.ends_with(ending) && tensor.changed_values == 0)
        .collect()
}

fn a_had_to_move(training: &TrainingEvidence, still: &[&TensorChange], evidence: &Evidence) -> bool {
    let learning_rate = peak_learning_rate(training);
    training.steps_after_first_update() > 0
        && still
            .iter()
            .any(|tensor| survives(tensor, learning_rate, &evidence.environment.dtype))
}
