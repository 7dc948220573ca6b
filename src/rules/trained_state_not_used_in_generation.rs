use super::live_state::binding;
use super::rule::declare_rule;
use super::wording::{counted, difference, grouped};
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, GenerationBinding};

declare_rule! {
    /// ## What it finds
    ///
    /// Training changed the model, and the answers came from other parameters than those that training left.
    ///
    /// ## Why it matters
    ///
    /// The tuned model answers exactly like the base, or like an earlier state of itself, and the training looks
    /// useless although it worked.
    ///
    /// ## Evidence
    ///
    /// Identity: the generator's parameters are the objects that training left, or copies equal to the last bit, and
    /// its logits are the trained model's. The fault is there when the trained logits differ from the base's, the
    /// generator's differ from the trained ones, and either parameters of the generator are stale or absent, or its
    /// logits are exactly the base's. A generator that lacks exactly the adapters' tensors never loaded the adapter.
    ///
    /// ## How to fix
    ///
    /// Generate with the model that was trained, not with a copy or a handle taken before training; after training in
    /// a copy, put its parameters back. When serving, load the adapter after its layers exist, and check that the
    /// logits differ from the base's.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-lm/issues/1248>
    /// - <https://github.com/ml-explore/mlx-lm/issues/1365>
    /// - <https://github.com/ml-explore/mlx-examples/issues/425>
    /// - <https://github.com/vllm-project/vllm/issues/34186>
    pub static TRAINED_STATE_NOT_USED_IN_GENERATION = {
        name: "trained-state-not-used-in-generation",
        code: "GEN001",
        summary: "the answers came from other parameters than those that training left",
        phase: State,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let binding = match binding(evidence) {
        Ok(binding) => binding,
        Err(outcome) => return outcome,
    };
    if binding.trained_from_base.is_none() {
        return Outcome::not_applicable("the trained model's logits are not finite, so they cannot be compared");
    }
    if binding.trained_from_base == Some(0.0) {
        return Outcome::not_applicable("the trained model's logits are the base's, so they cannot be told apart");
    }
    let answers_like_base = binding.difference_from_base == Some(0.0);
    if binding.difference_from_trained == Some(0.0) || (binding.stale.is_empty() && !answers_like_base) {
        return Outcome::Pass;
    }
    let headline = if has_no_adapter(evidence, binding) {
        "the model that generates has no adapter, so its answers are the base's"
    } else if answers_like_base {
        "generation used the base's parameters, not the trained ones"
    } else {
        "generation used other parameters than those that training left"
    };
    Finding::new(
        headline,
        found(binding),
        "the generator's parameters and logits are those that training left",
    )
    .at(&binding.stale)
    .with("parameters", binding.parameters)
    .with("same_object", binding.same_object)
    .with("stale", &binding.stale)
    .with("difference_from_trained", binding.difference_from_trained)
    .with("difference_from_base", binding.difference_from_base)
    .with("trained_from_base", binding.trained_from_base)
    .fix(Fix::by_hand(
        "generate with the model that was trained; after training in a copy, put its parameters into the model that \
         generates",
    ))
    .into()
}

/// Whether exactly the adapters' tensors are missing from the generator.
fn has_no_adapter(evidence: &Evidence, binding: &GenerationBinding) -> bool {
    let Some(parameters) = evidence.parameters.ran() else {
        return false;
    };
    let tensors = parameters.adapter.as_ref().map_or(0, |adapter| adapter.tensors.total);
    tensors > 0 && binding.parameters + tensors == parameters.tensors
}

fn found(binding: &GenerationBinding) -> String {
    format!(
        "{} of {} are stale; logits differ by up to {} from the trained model's and by up to {} from the base's",
        grouped(binding.stale.total as u64),
        counted(binding.parameters, "parameter"),
        difference(binding.difference_from_trained),
        difference(binding.difference_from_base)
    )
}
