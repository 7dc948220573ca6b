use serde::Serialize;

use super::wrap::printable;
use crate::evidence::{Answer, Evidence, FinishReason};
use crate::rules::wording::counted;

/// One answer as a report shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShownAnswer {
    /// The answer, special tokens removed.
    pub text: String,
    /// Tokens generated, the stop token not counted.
    pub tokens: usize,
    /// Why it ended.
    pub finish: FinishReason,
    /// What comes when no token stops the model, special tokens shown.
    pub text_without_stop: String,
    /// Tokens of that text.
    pub tokens_without_stop: usize,
    /// How many of them are stop tokens before any other content.
    pub leading_end_of_text: usize,
    /// Voice score, 0 to 1.
    pub voice: Option<f64>,
    /// Mean negative log-likelihood per token of the reference answer, in nats.
    pub reference_nll: Option<f64>,
}

/// The answers to one prompt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AnswerPair {
    /// The prompt.
    pub prompt: String,
    /// The base's answer.
    pub before: Option<ShownAnswer>,
    /// The trained model's answer.
    pub after: Option<ShownAnswer>,
}

/// The answers to every prompt, in the user's order.
pub(super) fn answer_pairs(evidence: &Evidence) -> Vec<AnswerPair> {
    let before = evidence
        .baseline
        .ran()
        .map_or(&[][..], |generation| &generation.answers);
    let after = evidence
        .generation
        .ran()
        .map_or(&[][..], |generation| &generation.answers);
    let longer = if after.len() > before.len() { after } else { before };
    longer
        .iter()
        .enumerate()
        .map(|(index, answer)| AnswerPair {
            prompt: on_one_line(&answer.prompt, usize::MAX),
            before: before.get(index).map(shown),
            after: after.get(index).map(shown),
        })
        .collect()
}

fn shown(answer: &Answer) -> ShownAnswer {
    ShownAnswer {
        text: answer.text.clone(),
        tokens: answer.tokens,
        finish: answer.finish,
        text_without_stop: answer.free_run.text.clone(),
        tokens_without_stop: answer.free_run.tokens,
        leading_end_of_text: answer.free_run.leading_end_of_text,
        voice: answer.voice,
        reference_nll: answer.reference_nll,
    }
}

impl ShownAnswer {
    /// The answer on one line of at most `characters`, with a word on how it ended.
    pub(super) fn line(&self, characters: usize) -> String {
        if self.finish == FinishReason::NonFinite {
            return "(the logits are not finite)".to_owned();
        }
        if self.text.trim().is_empty() && self.leading_end_of_text > 0 {
            return format!(
                "(empty; with the stop set off it begins with {} of end-of-text)",
                counted(self.leading_end_of_text, "token")
            );
        }
        let (text, note) = match (self.finish, self.text.trim().is_empty()) {
            (_, true) => (&self.text_without_stop, " (with the stop set off; empty with it on)"),
            (FinishReason::Length, false) => (&self.text, " (cut at the limit)"),
            (FinishReason::Stop | FinishReason::NonFinite, false) => (&self.text, ""),
        };
        format!("{}{note}", on_one_line(text, characters.saturating_sub(note.len())))
    }
}

/// The text with its white space collapsed, cut to `characters`; what could steer a terminal is left out.
pub(super) fn on_one_line(text: &str, characters: usize) -> String {
    let line = printable(&text.split_whitespace().collect::<Vec<_>>().join(" "));
    if line.chars().count() <= characters {
        return line;
    }
    let start: String = line.chars().take(characters.saturating_sub("...".len())).collect();
    format!("{}...", start.trim_end())
}
