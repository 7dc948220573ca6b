use std::collections::BTreeSet;

use super::live_adapters::adapters;
use super::rule::declare_rule;
use super::wording::{counted, grouped};
use super::{Finding, Fix, Outcome, Severity};
use crate::evidence::{Evidence, Listing, ParameterEvidence, Slot};

declare_rule! {
    /// ## What it finds
    ///
    /// Adapter tensors that are not among the trainable parameters.
    ///
    /// ## Why it matters
    ///
    /// A frozen `lora_b` stays at zero, and then `lora_a` gets no gradient either: the adapter adds nothing. A frozen
    /// `lora_a` leaves a random projection in place; the adapter learns, but less than its rank allows.
    ///
    /// ## Evidence
    ///
    /// Identity: every `lora_a` and `lora_b` in the parameter tree is trainable. Tensors that are neither trainable nor
    /// changed are counted. It is an error if a `lora_b` is among them, otherwise a warning.
    ///
    /// ## How to fix
    ///
    /// Freeze the base before the adapters are added, or unfreeze both tensors of every adapter afterwards. A list of
    /// trainable names must hold both `lora_a` and `lora_b`.
    ///
    /// ## References
    ///
    /// - <https://github.com/drawthingsai/draw-things-community/issues/81>
    /// - <https://github.com/Goekdeniz-Guelmez/mlx-lm-lora/issues/65>
    pub static ADAPTER_PARTLY_FROZEN = {
        name: "adapter-partly-frozen",
        code: "ATTACH009",
        summary: "adapter tensors are not among the trainable parameters",
        phase: Parameters,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[
            "gradients-not-flowing",
            "optimizer-not-stepping",
            "parameters-unchanged",
            "adapter-never-moved",
            "loss-not-decreasing",
        ],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    if evidence.training.ran().is_none() {
        return Outcome::not_measured("training", &evidence.training);
    }
    let adapter = match adapters(evidence) {
        Ok(adapter) => adapter,
        Err(outcome) => return outcome,
    };
    let Slot::Ran(parameters) = &evidence.parameters else {
        return Outcome::not_measured("the comparison of parameters", &evidence.parameters);
    };
    let attached = adapter.attached.total;
    let [frozen_a, frozen_b] =
        [".lora_a", ".lora_b"].map(|ending| attached.saturating_sub(trained(parameters, ending).len()));
    let frozen = frozen_a + frozen_b;
    if frozen == 0 {
        return Outcome::Pass;
    }
    let trained: BTreeSet<&str> = trained(parameters, "");
    let is_frozen = |name: &&String| !trained.contains(name.as_str());
    let names = Listing {
        total: frozen,
        first: adapter.tensors.first.iter().filter(is_frozen).cloned().collect(),
    };
    let finding = Finding::new(
        match (frozen_a, frozen_b) {
            (_, 0) => format!("`lora_a` of {} is frozen", counted(frozen_a, "adapter")),
            (0, _) => format!("`lora_b` of {} is frozen", counted(frozen_b, "adapter")),
            _ => format!("{} are frozen", counted(frozen, "adapter tensor")),
        },
        format!(
            "{} of {} trainable",
            grouped(adapter.tensors.total.saturating_sub(frozen) as u64),
            counted(adapter.tensors.total, "adapter tensor")
        ),
        "both tensors of every adapter trainable",
    )
    .at(&names)
    .with("modules_attached", attached)
    .with("frozen_lora_a", frozen_a)
    .with("frozen_lora_b", frozen_b)
    .with("trainable_tensors", parameters.trainable_tensors)
    .fix(Fix::by_hand(
        "unfreeze `lora_a` and `lora_b` of every adapter after the base was frozen",
    ));
    if frozen_b > 0 {
        finding.into()
    } else {
        finding.lowered_to(Severity::Warning).into()
    }
}

/// Names with this ending that were trainable or changed: [`ParameterEvidence::changes`] lists all of them.
fn trained<'evidence>(parameters: &'evidence ParameterEvidence, ending: &str) -> BTreeSet<&'evidence str> {
    let names = parameters.changes.iter().map(|tensor| tensor.name.as_str());
    names.filter(|name| name.ends_with(ending)).collect()
}
