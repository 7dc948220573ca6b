use super::rule::declare_rule;
use super::wording::{counted, grouped};
use super::{Finding, Fix, Outcome, Severity};
use crate::evidence::{Evidence, Slot};
use crate::thresholds::{MOST, STOP_ONLY_ROWS};

declare_rule! {
    /// ## What it finds
    ///
    /// Training rows whose only targets are tokens that end the answer.
    ///
    /// ## Why it matters
    ///
    /// The loss falls fast and looks perfect, because one token is easy to learn. What was learnt is to end every
    /// answer before its first word: with the stop set on the answers are empty, with it off they are the end-of-text
    /// token over and over.
    ///
    /// ## Evidence
    ///
    /// Identity: a row with targets has at least one that is not in the stop set. When only some rows break it, their
    /// share decides between information, a warning and an error.
    ///
    /// ## How to fix
    ///
    /// Fill in the answers. If the file has them, the field is read under another name, the mask covers them, or the
    /// length limit cuts them and a stop token is appended after the cut.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-examples/issues/756>
    /// - <https://github.com/huggingface/trl/issues/976>
    pub static LABELS_ONLY_END_OF_TEXT = {
        name: "labels-only-end-of-text",
        code: "EOS001",
        summary: "the only targets of training rows are tokens that end the answer",
        phase: Training,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &["loss-not-decreasing", "end-of-text-spam", "repetition-loop"],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(data) = &evidence.data else {
        return Outcome::not_measured("the data", &evidence.data);
    };
    if data.supervised_tokens == 0 {
        return Outcome::not_applicable("no token is supervised at all");
    }
    // Where prompts are trained too, they are all that rows with an empty answer teach.
    let rows = if data.rows_with_empty_answer.total > data.rows_only_stop_tokens.total {
        &data.rows_with_empty_answer
    } else {
        &data.rows_only_stop_tokens
    };
    let only_stop = data.supervised_stop_tokens == data.supervised_tokens;
    let share = rows.total as f64 / data.rows.max(1) as f64;
    let lowered = if only_stop || share >= MOST {
        None
    } else if share > STOP_ONLY_ROWS {
        Some(Severity::Warning)
    } else if rows.is_empty() {
        return Outcome::Pass;
    } else {
        Some(Severity::Info)
    };
    let headline = if only_stop {
        "the training data teaches nothing but to end the answer".to_owned()
    } else {
        format!(
            "{} of {} teach nothing but to end the answer",
            grouped(rows.total as u64),
            counted(data.rows, "row")
        )
    };
    let stop_tokens: Vec<String> = evidence
        .model
        .ran()
        .into_iter()
        .flat_map(|model| &model.stop_tokens)
        .map(|token| token.text.clone())
        .collect();
    let mut finding = Finding::new(
        headline,
        format!(
            "{} of {} are stop tokens",
            grouped(data.supervised_stop_tokens as u64),
            counted(data.supervised_tokens, "supervised token")
        ),
        "every row also supervises the words of its answer",
    )
    .at(rows)
    .with("rows", data.rows)
    .with("rows_only_stop_tokens", &data.rows_only_stop_tokens)
    .with("rows_with_empty_answer", &data.rows_with_empty_answer)
    .with("supervised_tokens", data.supervised_tokens)
    .with("supervised_stop_tokens", data.supervised_stop_tokens)
    .with("stop_tokens", stop_tokens);
    finding.lowered_severity = lowered;
    let source = match evidence.settings.data.as_str() {
        "embedded" => String::new(),
        data => format!(" in `{data}`"),
    };
    finding = finding.fix(Fix::by_hand(format!(
        "write the answers into the rows that are named{source}; an answer of only white space or only a stop token \
         counts as empty"
    )));
    if !data.rows_truncated.is_empty() {
        finding = finding.fix(Fix::by_hand(format!(
            "raise `--max-seq-length` above {}: the cut removes answers and leaves their end",
            evidence.settings.max_sequence_length
        )));
    }
    finding.into()
}
