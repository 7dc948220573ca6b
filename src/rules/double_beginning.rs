use super::rule::declare_rule;
use super::wording::out_of;
use super::{Finding, Fix, Outcome, Severity};
use crate::evidence::{Evidence, Slot};
use crate::thresholds::MOST;

declare_rule! {
    /// ## What it finds
    ///
    /// Rows that begin with the beginning-of-text token twice.
    ///
    /// ## Why it matters
    ///
    /// The chat template writes the token, and the tokenizer adds another. No model has seen this in pretraining, and
    /// other runtimes ask with one: the answers are a little worse, or off in one program and fine in the next.
    ///
    /// ## Evidence
    ///
    /// Identity: the first two tokens of a row are not both the beginning-of-text token. It is an error if most rows
    /// break it, a warning otherwise.
    ///
    /// ## How to fix
    ///
    /// Tokenise what the chat template wrote without special tokens (`add_special_tokens=False`), and let only one of
    /// template and tokenizer begin the text.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-examples/issues/1095>
    /// - <https://github.com/ml-explore/mlx-examples/issues/1189>
    /// - <https://github.com/huggingface/open-r1/issues/462>
    /// - <https://github.com/unslothai/unsloth/issues/10312>
    pub static DOUBLE_BEGINNING = {
        name: "double-beginning",
        code: "DATA005",
        summary: "rows begin with the beginning-of-text token twice",
        phase: Baseline,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &["end-of-text-spam", "repetition-loop", "never-stops"],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(data) = &evidence.data else {
        return Outcome::not_measured("the data", &evidence.data);
    };
    let rows = &data.rows_with_double_beginning;
    if rows.is_empty() {
        return Outcome::Pass;
    }
    let beginning = evidence
        .model
        .ran()
        .and_then(|model| model.beginning_of_text.as_deref());
    let token = beginning.map_or_else(String::new, |text| format!(" `{text}`"));
    let finding = Finding::new(
        format!(
            "{} begin with the beginning-of-text token twice",
            out_of(rows.total, data.rows, "row")
        ),
        format!("the token{token} two times in a row"),
        "one beginning of text, as in pretraining",
    )
    .at(rows)
    .with("rows", data.rows)
    .with("rows_with_double_beginning", rows)
    .with("beginning_of_text", beginning)
    .fix(Fix::by_hand(format!(
        "let one place write{token}: tokenise rendered conversations without special tokens, and look whether the chat \
         template writes it more than once"
    )));
    if rows.share_of(data.rows) >= MOST {
        finding.into()
    } else {
        finding.lowered_to(Severity::Warning).into()
    }
}
