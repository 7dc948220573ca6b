use super::live_adapters::adapters;
use super::rule::declare_rule;
use super::wording::{counted, grouped};
use super::{Finding, Fix, Outcome};
use crate::evidence::Evidence;
use crate::thresholds::FEW_LAYERS;

declare_rule! {
    /// ## What it finds
    ///
    /// Adapters on only a small part of the model's linear layers.
    ///
    /// ## Why it matters
    ///
    /// The model may learn less than it could. It is often not meant: mlx-lm adapts the last 16 blocks by default, and
    /// older versions only two layers of each.
    ///
    /// ## Evidence
    ///
    /// The share of the linear layers of all blocks that carry an adapter is below `FEW_LAYERS`. It is information: a few
    /// layers can be enough, and it is often a choice.
    ///
    /// ## How to fix
    ///
    /// Adapt all blocks (`num_layers: -1` in mlx-lm) and leave the keys out, or name more of them.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-examples/issues/1328>
    /// - <https://github.com/ml-explore/mlx-examples/issues/1294>
    /// - <https://github.com/ml-explore/mlx/issues/2616>
    /// - <https://github.com/ml-explore/mlx-lm/pull/515>
    pub static FEW_LAYERS_ADAPTED = {
        name: "few-layers-adapted",
        code: "ATTACH007",
        summary: "adapters sit on only a small part of the linear layers",
        phase: Parameters,
        severity: Info,
        status: Stable,
        since: "0.1.0",
        explains: &[],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let adapter = match adapters(evidence) {
        Ok(adapter) => adapter,
        Err(outcome) => return outcome,
    };
    let attached = adapter.attached.total;
    if attached as f64 >= FEW_LAYERS * adapter.linear_layers as f64 {
        return Outcome::Pass;
    }
    let settings = &evidence.settings;
    let mut limits = Vec::new();
    if let Some(layers) = settings.layers {
        limits.push(format!("`--layers {layers}`"));
    }
    if !settings.keys.is_empty() {
        limits.push(counted(settings.keys.len(), "key"));
    }
    let fix = if limits.is_empty() {
        "name more layers where the adapters are made".to_owned()
    } else {
        format!(
            "if the model learns too little, adapt more than {} in the settings allow",
            limits.join(" and ")
        )
    };
    Finding::new(
        format!(
            "{} of {} carry an adapter",
            grouped(attached as u64),
            counted(adapter.linear_layers, "linear layer")
        ),
        format!(
            "adapters in {} of {}",
            grouped(adapter.adapted_blocks as u64),
            counted(adapter.blocks, "block")
        ),
        "all linear layers, unless fewer are meant",
    )
    .with("modules_attached", attached)
    .with("linear_layers", adapter.linear_layers)
    .with("adapted_blocks", adapter.adapted_blocks)
    .with("blocks", adapter.blocks)
    .fix(Fix::by_hand(fix))
    .into()
}
