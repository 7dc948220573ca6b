use super::live_adapters::adapters;
use super::live_state::{divergence, fuse};
use super::rule::declare_rule;
use super::wording::{counted, difference, grouped};
use super::{Finding, Fix, Outcome};
use crate::evidence::{AdapterEvidence, Evidence, FuseEvidence};
use crate::thresholds::{COMPARABLE_DIVERGENCE, FUSED_DIVERGENCE, FUSED_SLACK, KEPT_STEPS, epsilon};

declare_rule! {
    /// ## What it finds
    ///
    /// Fused weights that do not hold what the adapters did.
    ///
    /// ## Why it matters
    ///
    /// The adapter works, the fused model answers like the base or worse. The adapter is usually blamed and trained
    /// again, and the next fuse loses it again.
    ///
    /// ## Evidence
    ///
    /// Identity up to rounding: the weights after fusing minus those before are `scale * A B` of every adapter. Their
    /// projection onto it, over all layers, is 1; more than `FUSED_SLACK` away means that layers, the scale or a sign are
    /// wrong. Also the mean divergence of the fused model from the live one: above `FUSED_DIVERGENCE` of the live model's
    /// divergence from the base, if that is above `COMPARABLE_DIVERGENCE`, something else was changed. Not judged where
    /// the update is smaller than half a step of the element type, or than `KEPT_STEPS` of a quantisation step: there
    /// rounding loses it.
    ///
    /// ## How to fix
    ///
    /// Fuse the adapters that were trained, with their scale, into the base they were trained on, once. Compare one row
    /// of logits with the adapter's before publishing.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-examples/issues/507>
    /// - <https://github.com/ml-explore/mlx-examples/issues/757>
    /// - <https://github.com/ml-explore/mlx-lm/issues/1172>
    pub static FUSE_LOSES_ADAPTER = {
        name: "fuse-loses-adapter",
        code: "FUSE001",
        summary: "fused weights do not hold what the adapters did",
        phase: State,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let fuse = match fuse(evidence) {
        Ok(fuse) => fuse,
        Err(outcome) => return outcome,
    };
    let adapter = match adapters(evidence) {
        Ok(adapter) => adapter,
        Err(outcome) => return outcome,
    };
    let Some(kept) = fuse.kept else {
        return Outcome::not_applicable("the adapters change nothing, or nothing finite");
    };
    if let Some(reason) = lost_to_rounding(evidence, fuse, adapter) {
        return Outcome::not_applicable(reason);
    }
    let live_from_base = divergence(evidence)
        .ok()
        .and_then(|divergence| divergence.live_from_base);
    let elsewhere = fuse.bits.is_none()
        && matches!(
            (fuse.divergence_from_live, live_from_base),
            (Some(fused), Some(base)) if base > COMPARABLE_DIVERGENCE && fused > FUSED_DIVERGENCE * base
        );
    let headline = if kept < 1.0 - FUSED_SLACK {
        format!("fusing kept {kept:.2} of what the adapters do")
    } else if kept > 1.0 + FUSED_SLACK {
        format!("fusing added {kept:.2} times what the adapters do")
    } else if elsewhere {
        "the fused model answers otherwise than the adapters it was made of".to_owned()
    } else {
        return Outcome::Pass;
    };
    Finding::new(
        headline,
        format!(
            "{} of {} fused; logits differ from the live model's by up to {}",
            grouped(fuse.fused as u64),
            counted(adapter.attached.total, "layer"),
            difference(fuse.difference_from_live)
        ),
        "the whole change of every adapter in its layer's weight, once",
    )
    .with("fused", fuse.fused)
    .with("modules_attached", adapter.attached.total)
    .with("kept", kept)
    .with("divergence_from_live", fuse.divergence_from_live)
    .with("live_from_base", live_from_base)
    .with("difference_from_live", fuse.difference_from_live)
    .fix(Fix::by_hand(
        "fuse every adapter that was trained, with its scale, into the base it was trained on, and only once; until \
         then serve the adapter unfused",
    ))
    .into()
}

/// Why rounding alone can lose the update; `None` when it cannot.
fn lost_to_rounding(evidence: &Evidence, fuse: &FuseEvidence, adapter: &AdapterEvidence) -> Option<String> {
    if fuse.bits.is_some() {
        let steps = adapter.median_quantization_steps();
        let large_enough = steps.is_some_and(|steps| steps >= KEPT_STEPS);
        return (!large_enough)
            .then(|| "the weights were packed again, which rounds updates of this size away by itself".to_owned());
    }
    let dtype = &evidence.environment.dtype;
    let update = adapter.median_update()?;
    (update + update < epsilon(dtype)).then(|| format!("the updates are smaller than {dtype} can hold in a weight"))
}
