use super::live_adapters::adapters;
use super::live_state::fuse;
use super::rule::declare_rule;
use super::wording::counted;
use super::{Finding, Fix, Outcome, Severity};
use crate::evidence::{Evidence, FuseEvidence, Quantization};
use crate::thresholds::ROUNDED_STEPS;

declare_rule! {
    /// ## What it finds
    ///
    /// Updates that are too small to survive when the fused weights are packed again.
    ///
    /// ## Why it matters
    ///
    /// Fusing adds the update to the unpacked weights and packs the sum with the bits of the base. An update well below
    /// one quantisation step is rounded back to where the weight was: the adapter works, and the fused model is the base.
    ///
    /// ## Evidence
    ///
    /// The root mean square of each adapter's update over the mean quantisation step of its layer, as packed in the
    /// files. Below `ROUNDED_STEPS` in the median most of it is lost: at 0.16 of a 4 bit step 0.27 of the update was
    /// measured to be left, at 0.48 of a step 0.96. It is information, because a short run is always below. It is an error
    /// when the base is plain and fusing packed it, which nobody asked for.
    ///
    /// ## How to fix
    ///
    /// Fuse with `mlx_lm.fuse --dequantize` and pack afterwards with more bits, or serve the adapter unfused. A longer
    /// training makes larger updates; this run's prediction does not hold for it.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-lm/issues/1564>
    /// - <https://github.com/ARahim3/mlx-tune/issues/15>
    /// - <https://github.com/ml-explore/mlx-examples/issues/507>
    /// - <https://github.com/huggingface/peft/issues/2321>
    pub static FUSE_ROUNDS_ADAPTER_AWAY = {
        name: "fuse-rounds-adapter-away",
        code: "FUSE002",
        summary: "updates are too small to survive packing the fused weights",
        phase: State,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &["fuse-loses-adapter"],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Some(model) = evidence.model.ran() else {
        return Outcome::not_measured("the model", &evidence.model);
    };
    let adapter = match adapters(evidence) {
        Ok(adapter) => adapter,
        Err(outcome) => return outcome,
    };
    let fuse = match fuse(evidence) {
        Ok(fuse) => fuse,
        Err(outcome) => return outcome,
    };
    match (&model.quantization, fuse.bits) {
        (None, None) => Outcome::Pass,
        (None, Some(bits)) => packed_a_plain_base(fuse, bits),
        (Some(quantization), _) => match adapter.median_quantization_steps() {
            None => Outcome::not_applicable("no adapter sits on a packed layer, or none has a finite change"),
            Some(steps) if steps < ROUNDED_STEPS => predicted(quantization, steps, fuse),
            Some(_) => Outcome::Pass,
        },
    }
}

fn packed_a_plain_base(fuse: &FuseEvidence, bits: u32) -> Outcome {
    Finding::new(
        format!("fusing packed a plain base to {bits} bits"),
        format!(
            "{} packed to {bits} bits{}",
            counted(fuse.fused, "layer"),
            match fuse.kept {
                Some(kept) => format!(", which hold {kept:.2} of what the adapters do"),
                None => String::new(),
            }
        ),
        "plain weights, as in the base",
    )
    .with("bits", bits)
    .with("kept", fuse.kept)
    .with("divergence_from_live", fuse.divergence_from_live)
    .fix(Fix::by_hand(
        "fuse without packing, compare the answers with the adapter's, and only then pack, with as many bits as that needs",
    ))
    .into()
}

fn predicted(quantization: &Quantization, steps: f64, fuse: &FuseEvidence) -> Outcome {
    let bits = quantization.bits;
    Finding::new(
        format!("fused back into {bits} bits, most of this update would be rounded away"),
        format!("the median update is {steps:.3} of a quantisation step"),
        "half a step or more, or plain weights",
    )
    .with("median_quantization_steps", steps)
    .with("bits", bits)
    .with("kept", fuse.kept)
    .fix(Fix::by_hand(
        "fuse with `mlx_lm.fuse --dequantize`, or serve the adapter unfused; a longer training makes larger updates",
    ))
    .lowered_to(Severity::Info)
    .into()
}
