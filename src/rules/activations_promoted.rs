use super::foreign_architecture::not_seen;
use super::row_fit::fit_before;
use super::rule::declare_rule;
use super::{Finding, Fix, Outcome};
use crate::evidence::Evidence;

declare_rule! {
    /// ## What it finds
    ///
    /// Activations that are wider than the type the model is computed in.
    ///
    /// ## Why it matters
    ///
    /// One float32 array among 16-bit ones makes every later result float32, through all layers: twice the memory, half
    /// the speed, and on a full machine swapping or an abort. Nothing in the losses shows it.
    ///
    /// ## Evidence
    ///
    /// Identity: the last hidden states have the element type of the products.
    ///
    /// ## How to fix
    ///
    /// Cast what an adapter, a norm or a scale adds back to the type of its input. In MLX a scalar array counts; a plain
    /// number does not.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-examples/issues/613>
    /// - <https://github.com/mflux-community/mflux/issues/740>
    pub static ACTIVATIONS_PROMOTED = {
        name: "activations-promoted",
        code: "NUM005",
        summary: "activations are wider than the type the model is computed in",
        phase: Training,
        severity: Warning,
        status: Stable,
        since: "0.1.0",
        explains: &[],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let fit = match fit_before(evidence) {
        Ok(fit) => fit,
        Err(outcome) => return outcome,
    };
    if let Some(outcome) = not_seen(evidence, "its hidden states were not seen") {
        return outcome;
    }
    let (found, wanted) = (&fit.activation_dtype, &evidence.environment.dtype);
    if bits(found) <= bits(wanted) {
        return Outcome::Pass;
    }
    Finding::new(
        format!("activations are {found}, though the model is computed in {wanted}"),
        format!("last hidden states in {found}"),
        format!("last hidden states in {wanted}"),
    )
    .with("activation_dtype", found.clone())
    .with("dtype", wanted.clone())
    .fix(Fix::by_hand(
        "cast the output of adapters, norms and scales back to the type of their input",
    ))
    .into()
}

/// Bits of an element.
fn bits(dtype: &str) -> u32 {
    match dtype {
        "float16" | "bfloat16" => 16,
        "float64" => 64,
        _ => 32,
    }
}
