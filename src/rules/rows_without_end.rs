use super::rule::declare_rule;
use super::wording::out_of;
use super::{Finding, Fix, Outcome, Severity};
use crate::evidence::{Evidence, Slot};
use crate::thresholds::{ENDLESS_SHARE, MOST};

declare_rule! {
    /// ## What it finds
    ///
    /// Answers that do not end with a token of the stop set.
    ///
    /// ## Why it matters
    ///
    /// The token that ends an answer is learnt from the rows like any other. Where no row has it, the model gives the
    /// right answer and then rambles on, or opens the next turn, until the limit cuts it.
    ///
    /// ## Evidence
    ///
    /// The last tokens of each answer, white space aside, against the stop set. Rows that a length limit cut are
    /// another rule's, and so are ends that are there and masked. Of answers a share of more than `ENDLESS_SHARE`
    /// is a warning and of more than `MOST` an error. A corpus of plain text needs no ends: that is information.
    ///
    /// ## How to fix
    ///
    /// Let the chat template close the assistant's turn in training as it does in use, or append the token by hand. If
    /// the rows do end with a token, it has to be in the stop set.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-examples/issues/756>
    /// - <https://github.com/ml-explore/mlx-examples/pull/818>
    /// - <https://github.com/tatsu-lab/stanford_alpaca/issues/126>
    /// - <https://github.com/unslothai/unsloth/issues/416>
    /// - <https://github.com/huggingface/trl/issues/734>
    pub static ROWS_WITHOUT_END = {
        name: "rows-without-end",
        code: "EOS004",
        summary: "answers do not end with a token of the stop set",
        phase: Baseline,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &["ends-not-trained", "never-stops", "repetition-loop"],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(data) = &evidence.data else {
        return Outcome::not_measured("the data", &evidence.data);
    };
    let rows = &data.rows_without_end;
    if rows.is_empty() {
        return Outcome::Pass;
    }
    let share = rows.share_of(data.rows - data.rows_truncated.total.min(data.rows));
    let stop_tokens: Vec<String> = evidence
        .model
        .ran()
        .into_iter()
        .flat_map(|model| &model.stop_tokens)
        .map(|token| format!("`{}`", token.text))
        .collect();
    let stop_set = if stop_tokens.is_empty() {
        "a token of the stop set".to_owned()
    } else {
        stop_tokens.join(" or ")
    };
    let mut finding = Finding::new(
        format!(
            "{} do not end with a token that stops an answer",
            out_of(rows.total, data.rows, "row")
        ),
        format!(
            "their last token is not in the stop set; {} {} where to stop",
            out_of(data.rows_ending_in_stop, data.rows, "row"),
            if data.rows_ending_in_stop == 1 {
                "teaches"
            } else {
                "teach"
            }
        ),
        format!("{stop_set} behind every answer"),
    )
    .at(rows)
    .with("rows", data.rows)
    .with("rows_without_end", rows)
    .with("rows_ending_in_stop", data.rows_ending_in_stop)
    .with("format", data.format.as_str())
    .fix(Fix::by_hand(format!(
        "end every answer with {stop_set}: let the chat template close the last turn, or append the token"
    )));
    finding.lowered_severity = if data.format == "text" || share <= ENDLESS_SHARE {
        Some(Severity::Info)
    } else if share <= MOST {
        Some(Severity::Warning)
    } else {
        None
    };
    finding.into()
}
