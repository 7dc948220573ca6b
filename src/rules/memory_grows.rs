use super::rule::declare_rule;
use super::wording::{bytes, counted};
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, Slot, TrainingEvidence};
use crate::thresholds::{GROWING_STEPS, LEAKED_SHARE, STEADY_GROWTH};

declare_rule! {
    /// ## What it finds
    ///
    /// Memory that grows with every step of training.
    ///
    /// ## Why it matters
    ///
    /// Something keeps what a step makes. The short run gets through; the real one slows down, swaps, or ends with
    /// `Resource limit exceeded` after some thousand steps.
    ///
    /// ## Evidence
    ///
    /// The bytes that MLX holds after each step. Parameters and the optimizer's moments are there after the first step
    /// and keep their size, so from the second step on nothing may be added. It counts when every one of at least
    /// `GROWING_STEPS` later steps adds more than `LEAKED_SHARE` of the trained values, and the smallest addition is at
    /// least `STEADY_GROWTH` of the largest.
    ///
    /// ## How to fix
    ///
    /// Look for arrays that outlive their step: losses and metrics that are collected unevaluated hold the whole graph
    /// behind them, and optimizers or callbacks may collect gradients. Evaluate, read back a number, and drop the rest.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-lm/issues/1185>
    /// - <https://github.com/ml-explore/mlx-lm/issues/828>
    /// - <https://github.com/ml-explore/mlx-lm/issues/986>
    /// - <https://github.com/unslothai/unsloth-zoo/issues/918>
    /// - <https://github.com/oxiglade/mlx-rs/issues/296>
    /// - <https://github.com/Goekdeniz-Guelmez/mlx-lm-lora/issues/47>
    /// - <https://github.com/ml-explore/mlx/issues/2840>
    pub static MEMORY_GROWS = {
        name: "memory-grows",
        code: "MEM002",
        summary: "every step of training leaves more memory in use",
        phase: Training,
        severity: Warning,
        status: Stable,
        since: "0.1.0",
        explains: &[],
    }
}

/// Bytes of a trained value in f32.
const VALUE_BYTES: u64 = 4;
/// Steps for which the growth is carried on in the report.
const LONG_RUN: u64 = 1000;

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(training) = &evidence.training else {
        return Outcome::not_measured("training", &evidence.training);
    };
    let Some(growths) = growths(training) else {
        return Outcome::not_applicable("MLX did not tell how much memory it held");
    };
    if growths.len() < GROWING_STEPS {
        return Outcome::not_applicable(format!(
            "fewer than {} were made after the second",
            counted(GROWING_STEPS, "step")
        ));
    }
    let smallest = growths.iter().copied().min().unwrap_or(0);
    let largest = growths.iter().copied().max().unwrap_or(0);
    let trained = VALUE_BYTES * training.trainable_values;
    let added = smallest as f64 > LEAKED_SHARE * trained as f64;
    if !added || (smallest as f64) < STEADY_GROWTH * largest as f64 {
        return Outcome::Pass;
    }
    let total: u64 = growths.iter().map(|&growth| growth.unsigned_abs()).sum();
    let mean = total / growths.len() as u64;
    Finding::new(
        format!("every step of training leaves {} more in use", bytes(mean)),
        format!(
            "{} more after {}, which makes {} in {}",
            bytes(total),
            counted(growths.len(), "step"),
            bytes(LONG_RUN * mean),
            counted(LONG_RUN as usize, "step")
        ),
        "as much memory after every step as after the second",
    )
    .with("bytes_per_step", mean)
    .with("steps", growths.len())
    .with("trained_bytes", trained)
    .with(
        "active_memory",
        training.steps.iter().map(|step| step.active_memory).collect::<Vec<_>>(),
    )
    .fix(Fix::by_hand(
        "find what keeps arrays from step to step: losses and metrics that were never evaluated, collected gradients, \
         caches by shape; read numbers back and drop the arrays",
    ))
    .into()
}

/// Bytes that each step after the second added; `None` when they were not measured.
fn growths(training: &TrainingEvidence) -> Option<Vec<i64>> {
    let held: Vec<i64> = training
        .steps
        .iter()
        .map(|step| step.active_memory.map(u64::cast_signed))
        .collect::<Option<_>>()?;
    let after_second = held.split_first().map_or(&[][..], |(_, later)| later);
    Some(after_second.windows(2).map(|pair| pair[1] - pair[0]).collect())
}
