use super::rule::declare_rule;
use super::wording::{grouped, out_of};
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, Slot};

declare_rule! {
    /// ## What it finds
    ///
    /// Rows with a token id that the embedding table has no row for.
    ///
    /// ## Why it matters
    ///
    /// MLX does not check: an embedding beyond the table is a row of zeros or of someone else's memory, and the loss
    /// of a target beyond it is a finite number without meaning. Rows with tokens that were added to the tokenizer and
    /// not to the model train nonsense, without a word.
    ///
    /// ## Evidence
    ///
    /// Identity: every id is below the number of rows of the embedding table. Nothing is trained when one is not.
    ///
    /// ## How to fix
    ///
    /// Use the tokenizer that belongs to the model, or enlarge the embedding table for the tokens that were added.
    /// Positions that carry no loss belong into the mask: MLX knows no label of -100.
    ///
    /// ## References
    ///
    /// - <https://github.com/sgl-project/sglang/issues/27482>
    /// - <https://github.com/unslothai/unsloth-zoo/issues/682>
    /// - <https://github.com/EricLBuehler/mistral.rs/issues/2347>
    pub static TOKEN_IDS_OUT_OF_RANGE = {
        name: "token-ids-out-of-range",
        code: "DATA006",
        summary: "rows hold token ids that the embedding table has no row for",
        phase: Baseline,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[
            "gradients-not-flowing",
            "training-diverged",
            "loss-not-finite",
            "loss-not-decreasing",
        ],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(data) = &evidence.data else {
        return Outcome::not_measured("the data", &evidence.data);
    };
    let Slot::Ran(model) = &evidence.model else {
        return Outcome::not_measured("the model", &evidence.model);
    };
    let rows = &data.rows_with_unknown_ids;
    if rows.is_empty() {
        return Outcome::Pass;
    }
    Finding::new(
        format!(
            "{} hold token ids that the model has no row for",
            out_of(rows.total, data.rows, "row")
        ),
        format!("token id {}", data.largest_id),
        format!(
            "ids below {}, the rows of the embedding table",
            grouped(model.vocabulary_size as u64)
        ),
    )
    .at(rows)
    .with("rows", data.rows)
    .with("rows_with_unknown_ids", rows)
    .with("largest_id", data.largest_id)
    .with("vocabulary_size", model.vocabulary_size)
    .fix(Fix::by_hand(
        "use the tokenizer that belongs to the model, or enlarge the embedding table by the tokens that were added",
    ))
    .into()
}
