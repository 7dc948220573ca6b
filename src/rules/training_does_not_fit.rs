use super::rule::declare_rule;
use super::wording::{bytes, counted};
use super::{Applicability, Finding, Fix, Outcome, Rerun};
use crate::evidence::{Evidence, FineTuneKind, FittingBatch, RunSettings, Slot};
use crate::thresholds::ADAPTER_LEARNING_RATE;

declare_rule! {
    /// ## What it finds
    ///
    /// Training that needs more memory than there is.
    ///
    /// ## Why it matters
    ///
    /// On a Mac the GPU's command buffer fails or the machine starts to swap, often only at the first long row, hours
    /// into a run. This program does not begin such a training.
    ///
    /// ## Evidence
    ///
    /// Gradients, optimizer, activations and logits of a batch of the longest rows, as predicted from the model's
    /// shapes, against the memory that the system gives as available once the model is loaded.
    ///
    /// ## How to fix
    ///
    /// Take fewer rows per step; if not even one row fits, cut rows shorter; train adapters instead of all weights; close
    /// other programs, or take a smaller model.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-lm/issues/236>
    /// - <https://github.com/ml-explore/mlx-lm/issues/828>
    /// - <https://github.com/ml-explore/mlx-examples/issues/481>
    /// - <https://github.com/ml-explore/mlx-examples/issues/664>
    pub static TRAINING_DOES_NOT_FIT = {
        name: "training-does-not-fit",
        code: "MEM001",
        summary: "training needs more memory than there is",
        phase: Training,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[],
        offers_command: true,
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(memory) = &evidence.memory else {
        return Outcome::not_measured("the memory", &evidence.memory);
    };
    let (Some(available), Some(fitting)) = (memory.available, memory.fitting) else {
        return Outcome::not_applicable("the system does not tell how much memory is available");
    };
    if available >= memory.predicted {
        return Outcome::Pass;
    }
    let finding = Finding::new(
        "training does not fit into memory",
        format!("{} needed by prediction", bytes(memory.predicted)),
        format!("no more than the {} that are available", bytes(available)),
    )
    .with("predicted", memory.predicted)
    .with("available", available)
    .with("rows_that_fit", fitting.rows)
    .with("tokens_that_fit", fitting.tokens);
    let median_row = evidence.data.ran().map(|data| data.median_row);
    fixes(fitting, median_row, &evidence.settings)
        .into_iter()
        .fold(finding, Finding::fix)
        .into()
}

fn fixes(fitting: FittingBatch, median_row: Option<usize>, settings: &RunSettings) -> Vec<Fix> {
    let mut fixes = Vec::new();
    // Where the limit is below the median, most rows would lose their end.
    let keeps_most_rows = median_row.is_none_or(|median| fitting.tokens >= median);
    if fitting.rows > 0 {
        fixes.push(Fix::command(
            format!("take {} per step", counted(fitting.rows, "row")),
            Rerun::of(settings).batch_size(fitting.rows),
            Applicability::MachineApplicable,
        ));
    } else if fitting.tokens > 0 && keeps_most_rows {
        fixes.push(Fix::command(
            format!(
                "take one row per step, and cut rows at {}",
                counted(fitting.tokens, "token")
            ),
            Rerun::of(settings).batch_size(1).max_sequence_length(fitting.tokens),
            Applicability::MaybeIncorrect,
        ));
    }
    if settings.fine_tune == FineTuneKind::Full {
        fixes.push(Fix::command(
            "train adapters instead of all weights",
            Rerun::of(settings)
                .fine_tune(FineTuneKind::Lora)
                .learning_rate(ADAPTER_LEARNING_RATE),
            Applicability::MaybeIncorrect,
        ));
    }
    fixes.push(Fix::by_hand(
        "close programs that hold memory, split the longest rows, or take a smaller model",
    ));
    fixes
}
