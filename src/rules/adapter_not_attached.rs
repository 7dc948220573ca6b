use super::rule::declare_rule;
use super::wording::{counted, grouped};
use super::{Finding, Fix, Outcome};
use crate::evidence::{AdapterEvidence, Evidence, FineTuneKind, ParameterEvidence, RunSettings, Slot};

declare_rule! {
    /// ## What it finds
    ///
    /// Adapters were asked for, but modules that should carry one do not.
    ///
    /// ## Why it matters
    ///
    /// Nothing fails: the loss may even fall, because something else trains instead, or it stays flat and the answers
    /// are the base's. The adapter file that is saved is empty or partial.
    ///
    /// ## Evidence
    ///
    /// Identity: the modules that carry `lora_a` and `lora_b` after training are exactly the modules that the settings
    /// name in the model's own tree, and there is at least one.
    ///
    /// ## How to fix
    ///
    /// A key must be the path of a linear layer within a block, for example `self_attn.q_proj`; leave the keys out to
    /// adapt every linear layer. If the keys are right, the code that adds the adapters does not replace the layers:
    /// it has to put the wrapped layer back into the model's tree, not only set a flag or build a list.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-lm/issues/90>
    /// - <https://github.com/ml-explore/mlx-examples/issues/940>
    /// - <https://github.com/huggingface/peft/issues/1206>
    pub static ADAPTER_NOT_ATTACHED = {
        name: "adapter-not-attached",
        code: "ATTACH001",
        summary: "modules that should carry an adapter do not",
        phase: Parameters,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[
            "base-not-frozen",
            "gradients-not-flowing",
            "training-diverged",
            "parameters-unchanged",
            "adapter-never-moved",
            "loss-not-decreasing",
            "adapter-configuration-wrong",
            "adapter-file-unusable",
            "adapter-lost-on-reload",
        ],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(parameters) = &evidence.parameters else {
        return Outcome::not_measured("the comparison of parameters", &evidence.parameters);
    };
    if evidence.settings.fine_tune == FineTuneKind::Full {
        return Outcome::not_applicable("all weights were to be trained, no adapter was asked for");
    }
    let Some(adapter) = &parameters.adapter else {
        return Outcome::not_applicable("adapters were not looked for");
    };
    if adapter.attached.total > 0 && adapter.attached.total >= adapter.expected.total {
        return Outcome::Pass;
    }
    Finding::new(
        headline(adapter),
        found(parameters, adapter),
        match adapter.expected.total {
            0 => "at least one module that the keys name".to_owned(),
            modules => format!("an adapter on {}", counted(modules, "module")),
        },
    )
    .at(&adapter.expected)
    .with("modules_expected", &adapter.expected)
    .with("modules_attached", &adapter.attached)
    .with("adapter_tensors", adapter.tensors.total)
    .with("trainable_values", parameters.trainable_values)
    .with("changed_base_tensors", parameters.changed_base.total)
    .fix(fix(adapter, &evidence.settings))
    .into()
}

fn headline(adapter: &AdapterEvidence) -> String {
    match (adapter.attached.total, adapter.expected.total) {
        (_, 0) => "the adapter keys name no module of this model".to_owned(),
        (0, _) => "no module carries an adapter, though adapters were asked for".to_owned(),
        (attached, expected) => format!(
            "{} of {} carry no adapter",
            grouped((expected - attached) as u64),
            counted(expected, "module")
        ),
    }
}

fn found(parameters: &ParameterEvidence, adapter: &AdapterEvidence) -> String {
    let instead = match parameters.changed_base.total {
        0 => String::new(),
        tensors => format!("; {} of the base changed instead", counted(tensors, "tensor")),
    };
    format!(
        "{} with an adapter, {} trainable{instead}",
        counted(adapter.attached.total, "module"),
        match parameters.trainable_values {
            1 => "1 value".to_owned(),
            values => format!("{} values", grouped(values)),
        }
    )
}

fn fix(adapter: &AdapterEvidence, settings: &RunSettings) -> Fix {
    if adapter.expected.is_empty() {
        let keys = match settings.keys.as_slice() {
            [] => "every linear layer".to_owned(),
            keys => keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", "),
        };
        return Fix::by_hand(format!(
            "name modules that the model has: the settings ask for {keys}, and no block holds such a module"
        ));
    }
    Fix::by_hand(
        "put the wrapped layers back into the model's tree where the adapters are added, and count them right after: \
         the parameter tree must list a `lora_a` and a `lora_b` for every module",
    )
}
