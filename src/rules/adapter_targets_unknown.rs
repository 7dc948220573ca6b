use super::rule::declare_rule;
use super::unusable::finding;
use super::wording::counted;
use super::{Applicability, Fix, Outcome, Rerun};
use crate::evidence::{Evidence, FineTuneKind, Refusal, RefusalKind, Slot};

/// Rank that suits every model.
const USUAL_RANK: usize = 8;

declare_rule! {
    /// ## What it finds
    ///
    /// Settings of the adapters that this model cannot have: a key that names none of its linear layers, more blocks
    /// than there are, or a rank beyond the widest side of every adapted layer.
    ///
    /// ## Why it matters
    ///
    /// Trainers that attach what they find go on with no adapter at all: the loss stays flat, `Trainable parameters:
    /// 0.000%` is the only sign, and the adapter file that is saved is empty. Names differ between architectures: a
    /// model with a fused `qkv_proj` has no `q_proj`.
    ///
    /// ## Evidence
    ///
    /// Identity: every key is the path of a linear layer, within a block or in the whole model, and the number of
    /// blocks is at most the model's. The names that the model has are listed.
    ///
    /// ## How to fix
    ///
    /// A key is a path within a block, for example `self_attn.q_proj` and not `q_proj`. Leave the keys out to adapt
    /// every linear layer. Ranks of 4 to 64 are usual.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-lm/issues/90>
    /// - <https://github.com/ml-explore/mlx-examples/issues/940>
    /// - <https://github.com/huggingface/peft/issues/1206>
    /// - <https://github.com/hiyouga/LlamaFactory/issues/4020>
    /// - <https://github.com/hiyouga/LlamaFactory/issues/43>
    pub static ADAPTER_TARGETS_UNKNOWN = {
        name: "adapter-targets-unknown",
        code: "ATTACH008",
        summary: "the adapters' keys, layers or rank do not exist in this model",
        phase: Baseline,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &["adapter-not-attached"],
        offers_command: true,
    }
}

fn check(evidence: &Evidence) -> Outcome {
    if evidence.settings.fine_tune == FineTuneKind::Full {
        return Outcome::not_applicable("all weights were to be trained, no adapter was asked for");
    }
    let Slot::Ran(model) = &evidence.model else {
        return Outcome::not_measured("the model", &evidence.model);
    };
    match (
        &evidence.refusal,
        finding(
            evidence,
            RefusalKind::AdapterTargets,
            "keys, layers and a rank that the model has",
        ),
    ) {
        (Some(refusal), Some(finding)) => finding
            .with("keys", evidence.settings.keys.clone())
            .with("layers", evidence.settings.layers)
            .with("rank", evidence.settings.rank)
            .with("model_layers", model.layers)
            .fix(fix(evidence, refusal, model.layers))
            .into(),
        (Some(refusal), None) => Outcome::not_applicable(format!("the run was refused: {}", refusal.headline)),
        (None, _) => Outcome::Pass,
    }
}

/// The run without the setting that the model cannot have.
fn fix(evidence: &Evidence, refusal: &Refusal, model_layers: usize) -> Fix {
    let mut settings = evidence.settings.clone();
    let is_refused = |key: &String| refusal.headline.contains(&format!("`{key}`"));
    let text = if settings.layers.is_some_and(|layers| layers > model_layers) {
        settings.layers = None;
        format!("adapt all blocks: the model has {}", counted(model_layers, "block"))
    } else if settings.keys.iter().any(is_refused) {
        settings.keys.clear();
        "leave the keys out, which adapts every linear layer of a block".to_owned()
    } else {
        settings.rank = USUAL_RANK;
        format!("use a rank of {USUAL_RANK}")
    };
    Fix::command(text, Rerun::of(&settings), Applicability::MachineApplicable)
}
