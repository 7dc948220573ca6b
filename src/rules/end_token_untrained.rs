use super::foreign_architecture::not_seen;
use super::rule::declare_rule;
use super::{Applicability, Finding, Fix, Outcome, Rerun, Severity};
use crate::evidence::{Evidence, FineTuneKind, FinishReason, ModelEvidence, RunSettings, Slot, StopRow};
use crate::thresholds::{ALIKE_ROWS, FULL_LEARNING_RATE, OUTLYING_NORM, SAME_ROWS};

declare_rule! {
    /// ## What it finds
    ///
    /// A token that the chat template puts after every answer and whose output row the base never learned.
    ///
    /// ## Why it matters
    ///
    /// Adapters leave the output layer as it is. When the row of the end is that of another special token, both always
    /// have the same logit: the answers may get better, but the model cannot choose to stop. A row that is far shorter
    /// or longer than the others is never or always chosen. This is usual for a base model with a chat template that
    /// its own training never used.
    ///
    /// ## Evidence
    ///
    /// The output rows of the model as loaded. Two rows with a cosine above `SAME_ROWS` are one row. Above
    /// `ALIKE_ROWS`, or with a norm `OUTLYING_NORM` times above or below the median, it is an error unless the base
    /// ends some answer by itself. Where the output layer is trained too, it is information.
    ///
    /// ## How to fix
    ///
    /// Start from the chat version of the model, end turns with a token that the base knows, or train the output layer.
    ///
    /// ## References
    ///
    /// - <https://github.com/QwenLM/Qwen3/issues/1064>
    /// - <https://github.com/QwenLM/Qwen/issues/633>
    /// - <https://github.com/hiyouga/LlamaFactory/issues/2684>
    /// - <https://github.com/axolotl-ai-cloud/axolotl/issues/1570>
    /// - <https://github.com/huggingface/peft/issues/673>
    pub static END_TOKEN_UNTRAINED = {
        name: "end-token-untrained",
        code: "MODEL008",
        summary: "the base never learned the token that the chat template puts after an answer",
        phase: Baseline,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &["repetition-loop", "never-stops"],
        offers_command: true,
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(model) = &evidence.model else {
        return Outcome::not_measured("the model", &evidence.model);
    };
    if evidence.data.ran().is_some_and(|data| data.format == "text") {
        return Outcome::not_applicable("the rows are plain text, in which nobody takes turns");
    }
    if let Some(outcome) = not_seen(evidence, "rows of its output layer were not read") {
        return outcome;
    }
    let Some(row) = row_of_turn_end(model) else {
        return Outcome::not_applicable("the chat template ends no answer with a token that has an output row");
    };
    let alike = row
        .cosine
        .filter(|&cosine| cosine > ALIKE_ROWS)
        .zip(row.nearest.as_ref());
    let outlying = row.norm_ratio > OUTLYING_NORM || row.norm_ratio * OUTLYING_NORM < 1.0;
    let end = &row.text;
    let finding = if let Some((cosine, other)) = alike {
        Finding::new(
            format!("the output layer cannot tell the end `{end}` from `{other}`"),
            format!("a cosine of {cosine:.5} between the two output rows"),
            format!("a row of its own for the token that ends an answer, with a cosine of at most {ALIKE_ROWS}"),
        )
    } else if outlying {
        Finding::new(
            format!("the output row of the end `{end}` was not trained like the others"),
            format!("{:.2} times the median norm of all output rows", row.norm_ratio),
            format!("a norm within a factor of {OUTLYING_NORM} of the median"),
        )
    } else {
        return Outcome::Pass;
    };
    let finding = finding
        .with("token", end.as_str())
        .with("id", row.id)
        .with("norm_ratio", row.norm_ratio)
        .with("nearest", row.nearest.clone())
        .with("cosine", row.cosine);
    let mut finding = fixes(model, row, &evidence.settings)
        .into_iter()
        .fold(finding, Finding::fix)
        .predating_training();
    let same = row.cosine.is_some_and(|cosine| cosine > SAME_ROWS);
    if trains_output(&evidence.settings) || (base_stops(evidence) && !same) {
        finding = finding.lowered_to(Severity::Info);
    }
    finding.into()
}

fn row_of_turn_end(model: &ModelEvidence) -> Option<&StopRow> {
    let end = model.stop_tokens.iter().find(|token| token.is_written_by_template())?;
    model.stop_rows.iter().find(|row| row.id == end.id)
}

fn trains_output(settings: &RunSettings) -> bool {
    settings.fine_tune == FineTuneKind::Full || settings.keys.iter().any(|key| key == "lm_head")
}

/// Whether the untouched base ends some answer by itself.
fn base_stops(evidence: &Evidence) -> bool {
    let answers = evidence.baseline.ran().map_or(&[][..], |baseline| &baseline.answers);
    answers
        .iter()
        .any(|answer| answer.finish == FinishReason::Stop && !answer.starts_with_stop)
}

fn fixes(model: &ModelEvidence, row: &StopRow, settings: &RunSettings) -> Vec<Fix> {
    let other_end = model.stop_tokens.iter().find(|token| token.id != row.id);
    let mut fixes = vec![Fix::by_hand(match other_end {
        Some(token) => format!(
            "start from the chat version of this model, or end turns with `{}` in the chat template",
            token.text
        ),
        None => "start from the chat version of this model, which knows the token".to_owned(),
    })];
    if !trains_output(settings) && model.quantization.is_none() {
        fixes.push(Fix::command(
            "train all weights, the output row among them",
            Rerun::of(settings)
                .fine_tune(FineTuneKind::Full)
                .learning_rate(FULL_LEARNING_RATE),
            Applicability::MaybeIncorrect,
        ));
    }
    fixes
}
