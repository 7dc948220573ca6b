use super::rule::declare_rule;
use super::update_reading;
use super::{Fix, Outcome};
use crate::evidence::{Evidence, UpdateReading};

declare_rule! {
    /// ## What it finds
    ///
    /// An optimizer that does not keep its moments from step to step.
    ///
    /// ## Why it matters
    ///
    /// Adam without memory moves every value by the same amount in every step, whatever the gradient, or repeats the
    /// first step for ever. Noise is no longer averaged out, and training is slow or restless without any other sign.
    ///
    /// ## Evidence
    ///
    /// The updates, replayed on a sample of values from the gradients that the optimizer was given, are not those of the
    /// settings and are those of Adam whose moments are made anew, or stay those of the first step.
    ///
    /// ## How to fix
    ///
    /// Make the optimizer once, before the loop. Under `mx.compile` name its state as an input and as an output; what is
    /// captured is a constant. Save and load the state when a run goes on.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx/issues/653>
    /// - <https://github.com/ml-explore/mlx/issues/1160>
    /// - <https://github.com/unslothai/unsloth-zoo/issues/751>
    pub static OPTIMIZER_STATE_LOST = {
        name: "optimizer-state-lost",
        code: "OPT009",
        summary: "the optimizer does not keep its moments from step to step",
        phase: Training,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[
            "gradient-spike",
            "training-diverged",
            "update-too-small",
            "loss-not-decreasing",
            "end-of-text-spam",
            "repetition-loop",
            "never-stops",
        ],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let judged = match update_reading::judge(evidence) {
        Ok(judged) => judged,
        Err(outcome) => return outcome,
    };
    let (headline, fix) = match judged.reading {
        Some(UpdateReading::MomentsForgotten) => (
            "the optimizer forgets its moments: every step is a first step",
            "make the optimizer once, before the loop, and keep its state from step to step",
        ),
        Some(UpdateReading::MomentsFrozen) => (
            "the optimizer's moments stay as the first step made them",
            "under `mx.compile`, name the optimizer's state as an input and as an output",
        ),
        _ => return Outcome::Pass,
    };
    judged
        .finding(headline, "moments that take in every gradient")
        .fix(Fix::by_hand(fix))
        .into()
}
