use super::foreign_architecture::not_seen;
use super::rule::declare_rule;
use super::wording::{counted, grouped};
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, FineTuneKind, ParameterEvidence, Slot};

declare_rule! {
    /// ## What it finds
    ///
    /// Weights of the base changed although only adapters were to be trained.
    ///
    /// ## Why it matters
    ///
    /// The saved adapter does not hold these changes, so the reloaded model is another one than the trained model.
    /// Memory doubles, and the learning rate, chosen for adapters, is far too high for the base's weights.
    ///
    /// ## Evidence
    ///
    /// Identity: with adapters, every tensor of the base is bit-identical before and after training. Of a finished adapter
    /// it is known when its files hold weights of the base, as mlx-lm's do then, since it saves whatever was trainable; it
    /// then refuses to load them.
    ///
    /// ## How to fix
    ///
    /// Freeze the model before the adapters are added, and again after adapters are loaded: loading replaces layers
    /// by fresh ones that are trainable.
    ///
    /// ## References
    ///
    /// - <https://github.com/MakazhanAlpamys/Soup/issues/362>
    /// - <https://github.com/unslothai/unsloth-zoo/issues/939>
    pub static BASE_NOT_FROZEN = {
        name: "base-not-frozen",
        code: "ATTACH002",
        summary: "weights of the base changed although only adapters were to be trained",
        phase: Parameters,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[
            "training-diverged",
            "adapter-lost-on-reload",
            "end-of-text-spam",
            "repetition-loop",
            "never-stops",
        ],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(parameters) = &evidence.parameters else {
        return Outcome::not_measured("the comparison of parameters", &evidence.parameters);
    };
    if evidence.settings.fine_tune == FineTuneKind::Full {
        return Outcome::not_applicable("all weights were to be trained");
    }
    if let Some(outcome) = not_seen(evidence, "the base was not compared with itself") {
        return outcome;
    }
    if parameters.changed_base.is_empty() {
        return Outcome::Pass;
    }
    Finding::new(
        format!(
            "{} of the base changed, though only adapters were to be trained",
            counted(parameters.changed_base.total, "tensor")
        ),
        found(evidence, parameters),
        "every tensor of the base bit-identical before and after",
    )
    .at(&parameters.changed_base)
    .with("changed_base", &parameters.changed_base)
    .with("trainable_tensors", parameters.trainable_tensors)
    .with("trainable_values", parameters.trainable_values)
    .with("values", parameters.values)
    .fix(Fix::by_hand(
        "freeze the model before adapters are added, and once more after an adapter is loaded",
    ))
    .into()
}

fn found(evidence: &Evidence, parameters: &ParameterEvidence) -> String {
    let changed = counted(parameters.changed_base.total, "tensor");
    if evidence.settings.is_trained_elsewhere() {
        return format!("the adapter's files hold {changed} of the base with other values than the base has");
    }
    format!(
        "{changed} of the base changed; {} of {} values are trainable",
        grouped(parameters.trainable_values),
        grouped(parameters.values)
    )
}
