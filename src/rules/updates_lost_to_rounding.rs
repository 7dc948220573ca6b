use super::rounding::peak_learning_rate;
use super::rule::declare_rule;
use super::update_reading;
use super::wording::{factor, grouped, shortest};
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, FineTuneKind, ParameterEvidence, Slot, TensorChange, TrainingEvidence, UpdateReading};
use crate::thresholds::{REALISED_SHARE, UNCHANGED_VALUES};

declare_rule! {
    /// ## What it finds
    ///
    /// Updates that are smaller than the distance between two numbers of the parameter's type, so that most are rounded
    /// away.
    ///
    /// ## Why it matters
    ///
    /// In bfloat16 a weight of 0.03 moves in steps of 0.0001. Full fine-tuning at a learning rate of 1e-5 leaves most
    /// weights exactly where they were, and no number but a comparison of bits shows it.
    ///
    /// ## Evidence
    ///
    /// More than `UNCHANGED_VALUES` of the values that had a gradient are the same bit for bit after training. Or, with
    /// all weights trained, the observed changes of the sampled values add up to less than `REALISED_SHARE` of those that
    /// the optimizer computed. Of adapters only `lora_b` is judged: it starts at zero, where numbers are dense, and alone
    /// can carry what is learnt.
    ///
    /// ## How to fix
    ///
    /// Keep the trained parameters in float32, train adapters instead of all weights, or raise the learning rate.
    ///
    /// ## References
    ///
    /// - <https://github.com/keras-team/keras-hub/issues/2629>
    /// - <https://github.com/tensorflow/tensorflow/issues/58138>
    pub static UPDATES_LOST_TO_ROUNDING = {
        name: "updates-lost-to-rounding",
        code: "NUM004",
        summary: "most updates are rounded away",
        phase: Parameters,
        severity: Warning,
        status: Stable,
        since: "0.1.0",
        explains: &["update-too-small", "loss-not-decreasing"],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(training) = &evidence.training else {
        return Outcome::not_measured("training", &evidence.training);
    };
    let Slot::Ran(parameters) = &evidence.parameters else {
        return Outcome::not_measured("the comparison of parameters", &evidence.parameters);
    };
    if training.steps.is_empty() || training.optimizer.learning_rate_sum <= 0.0 || !training.had_gradient() {
        return Outcome::not_applicable("no step had a gradient and a learning rate above 0");
    }
    if parameters.changed_trainable == 0 {
        return Outcome::not_applicable("no trainable parameter changed at all");
    }
    let judged: Vec<&TensorChange> = parameters
        .changes
        .iter()
        .filter(|tensor| is_judged(evidence, training, parameters, tensor))
        .collect();
    let values: u64 = judged.iter().map(|tensor| tensor.values).sum();
    let changed: u64 = judged.iter().map(|tensor| tensor.changed_values).sum();
    if values == 0 {
        return Outcome::not_applicable("no trainable parameter had a gradient");
    }
    let unchanged = 1.0 - changed as f64 / values as f64;
    let realised = realised_share(evidence);
    if unchanged <= UNCHANGED_VALUES && realised.is_none_or(|share| share >= REALISED_SHARE) {
        return Outcome::Pass;
    }
    let dtype = &evidence.environment.dtype;
    Finding::new(
        format!("most updates are rounded away in {dtype}"),
        match realised {
            Some(share) => format!(
                "{} of {} values changed, by {} of what the optimizer computed",
                grouped(changed),
                grouped(values),
                factor(share)
            ),
            None => format!("{} of {} values changed", grouped(changed), grouped(values)),
        },
        "all values that have a gradient changed",
    )
    .with("values", values)
    .with("changed_values", changed)
    .with("realised_share", realised)
    .with("dtype", dtype.clone())
    .fix(Fix::by_hand(format!(
        "keep the trained parameters in float32, or raise the learning rate above {}",
        shortest(peak_learning_rate(training))
    )))
    .into()
}

/// Whether a tensor had to change in every value.
fn is_judged(
    evidence: &Evidence,
    training: &TrainingEvidence,
    parameters: &ParameterEvidence,
    tensor: &TensorChange,
) -> bool {
    let starved = training.gradients.always_zero.first.contains(&tensor.name);
    let base = parameters.changed_base.first.contains(&tensor.name);
    let of_adapter = tensor.name.ends_with(".lora_b");
    // Only the rows of tokens that occur have a gradient, unless the table is the output layer too.
    let sparse =
        tensor.name.ends_with("embed_tokens.weight") && evidence.model.ran().is_none_or(|model| !model.tied_output);
    !starved
        && match evidence.settings.fine_tune {
            FineTuneKind::Lora => of_adapter && !base,
            FineTuneKind::Full => !sparse,
        }
}

/// What the sampled values moved by, over what the optimizer computed, where it can be said.
fn realised_share(evidence: &Evidence) -> Option<f64> {
    if evidence.settings.fine_tune != FineTuneKind::Full {
        return None;
    }
    let judged = update_reading::judge(evidence).ok()?;
    (judged.reading == Some(UpdateReading::AsConfigured))
        .then_some(judged.check.realised_share)
        .flatten()
}
