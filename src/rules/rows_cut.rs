use super::rule::declare_rule;
use super::wording::{counted, grouped, out_of};
use super::{Applicability, Finding, Fix, Outcome, Rerun, Severity};
use crate::evidence::{DataEvidence, Evidence, Slot};
use crate::thresholds::{CUT_ROWS, MANY_CUT_ROWS};

declare_rule! {
    /// ## What it finds
    ///
    /// Rows that are longer than the length limit and lose their end.
    ///
    /// ## Why it matters
    ///
    /// What is cut off is the end of the answer and the token that closes it. The model learns answers that break off,
    /// and never learns to stop after a long one. mlx-lm prints one warning and goes on.
    ///
    /// ## Evidence
    ///
    /// The tokens of each row against those that its own messages make. Above a share of `CUT_ROWS` it is a warning,
    /// from `MANY_CUT_ROWS` on an error; single rows are information.
    ///
    /// ## How to fix
    ///
    /// Raise the length limit to the longest row, if memory and the model's context allow it. Otherwise split the rows
    /// or leave the longest out.
    ///
    /// ## References
    ///
    /// - <https://github.com/tloen/alpaca-lora/issues/439>
    /// - <https://github.com/ml-explore/mlx-examples/issues/373>
    /// - <https://github.com/shibing624/MedicalGPT/issues/157>
    /// - <https://github.com/zycyc/LAMBDA/issues/2>
    pub static ROWS_CUT = {
        name: "rows-cut",
        code: "DATA001",
        summary: "rows are longer than the length limit and lose their end",
        phase: Baseline,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &["nothing-supervised", "never-stops", "repetition-loop"],
        offers_command: true,
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(data) = &evidence.data else {
        return Outcome::not_measured("the data", &evidence.data);
    };
    if data.rows_truncated.is_empty() {
        return Outcome::Pass;
    }
    let share = data.rows_truncated.share_of(data.rows);
    let mut finding = Finding::new(
        format!(
            "{} lost their end to the length limit",
            out_of(data.rows_truncated.total, data.rows, "row")
        ),
        format!(
            "{} cut off; the longest row has {}, and {} lost the token that closes them",
            counted(data.tokens_lost, "token"),
            counted(data.longest_row, "token"),
            counted(data.rows_with_lost_end.total, "row")
        ),
        "every row fits into the limit",
    )
    .at(&data.rows_truncated)
    .with("rows", data.rows)
    .with("rows_truncated", &data.rows_truncated)
    .with("rows_with_lost_end", &data.rows_with_lost_end)
    .with("tokens_lost", data.tokens_lost)
    .with("longest_row", data.longest_row)
    .with("max_sequence_length", evidence.settings.max_sequence_length);
    finding.lowered_severity = if share >= MANY_CUT_ROWS {
        None
    } else if share > CUT_ROWS {
        Some(Severity::Warning)
    } else {
        Some(Severity::Info)
    };
    finding.fix(fix(data, evidence)).into()
}

fn fix(data: &DataEvidence, evidence: &Evidence) -> Fix {
    let limit = evidence.settings.max_sequence_length;
    let context = evidence.model.ran().and_then(|model| model.context_length);
    match context {
        Some(context) if context < data.longest_row => Fix::by_hand(format!(
            "split the longest rows or leave them out: the model's context is {}, the longest row has {}",
            counted(context, "token"),
            grouped(data.longest_row as u64)
        )),
        _ if limit < data.longest_row => Fix::command(
            format!("raise the length limit from {limit} to the longest row"),
            Rerun::of(&evidence.settings).max_sequence_length(data.longest_row),
            Applicability::MachineApplicable,
        ),
        _ => Fix::by_hand(format!(
            "look for what cuts the rows before they are trained on: the limit of {limit} is not what cuts them"
        )),
    }
}
