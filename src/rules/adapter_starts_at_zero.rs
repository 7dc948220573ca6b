use super::live_adapters::adapters;
use super::rule::declare_rule;
use super::wording::{counted, grouped};
use super::{Finding, Fix, Outcome};
use crate::evidence::Evidence;

declare_rule! {
    /// ## What it finds
    ///
    /// Adapters of which both matrices are zero.
    ///
    /// ## Why it matters
    ///
    /// The gradient of each matrix contains the other as a factor. If both are zero, neither ever receives a gradient:
    /// the adapter stays zero however long the run is, and no error is raised.
    ///
    /// ## Evidence
    ///
    /// Identity: one matrix of a fresh adapter is random, so it has values other than zero, before training and after it.
    /// The fault is there when `lora_a` is zero in some modules and `lora_b` is zero in some too.
    ///
    /// ## How to fix
    ///
    /// Start `lora_a` at random and only `lora_b` at zero. If the code does so, something sets it to zero later: an
    /// initialisation of the whole model that runs after the adapters were added, or a slot that was cleared and is used
    /// again.
    ///
    /// ## References
    ///
    /// - <https://github.com/nvidia-cosmos/cosmos-predict2.5/pull/15>
    /// - <https://github.com/NovaSky-AI/SkyRL/pull/852>
    pub static ADAPTER_STARTS_AT_ZERO = {
        name: "adapter-starts-at-zero",
        code: "ATTACH006",
        summary: "both matrices of adapters are zero, so they can never be trained",
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
    let adapter = match adapters(evidence) {
        Ok(adapter) => adapter,
        Err(outcome) => return outcome,
    };
    let attached = adapter.attached.total;
    let [zero_a, zero_b] = [adapter.nonzero_a, adapter.nonzero_b].map(|nonzero| attached.saturating_sub(nonzero));
    let dead = zero_a.min(zero_b);
    if dead == 0 {
        return Outcome::Pass;
    }
    Finding::new(
        if dead == attached {
            "both matrices of every adapter are zero, so none can be trained".to_owned()
        } else {
            format!(
                "both matrices are zero in up to {} of {}, so these can never be trained",
                grouped(dead as u64),
                counted(attached, "adapter")
            )
        },
        format!(
            "`lora_a` is zero in {} of {}, `lora_b` in {}",
            grouped(zero_a as u64),
            counted(attached, "module"),
            grouped(zero_b as u64)
        ),
        "values other than zero in every `lora_a`",
    )
    .at(&adapter.attached)
    .with("modules_attached", attached)
    .with("nonzero_a", adapter.nonzero_a)
    .with("nonzero_b", adapter.nonzero_b)
    .fix(Fix::by_hand(
        "start `lora_a` at random, for example uniform within 1 / sqrt(inputs), and only `lora_b` at zero",
    ))
    .into()
}
