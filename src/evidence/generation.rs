use serde::{Deserialize, Serialize};

use crate::thresholds::{DISTINCT_RUNS, LOOPED_SHARE};

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// A token of the stop set came.
    Stop,
    /// The limit of tokens was reached.
    Length,
    /// The logits held a NaN or an infinity.
    NonFinite,
}

/// Repetition of an answer with its stop set on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repetition {
    /// Distinct tokens over all tokens, 0 to 1; 1 for an empty answer.
    pub distinct_1: f64,
    /// Distinct token pairs over all pairs, 0 to 1.
    pub distinct_2: f64,
    /// Distinct runs of four tokens over all such runs, 0 to 1.
    pub distinct_4: f64,
    /// Share of the answer's tail that one repeated span of 1 to 32 tokens covers, 0 to 1; 0 when nothing comes three times.
    pub looped_share: f64,
    /// The repeated span as text; empty when there is none.
    pub looped_span: String,
    /// Bytes of the answer's text over its bytes after zlib, as Whisper judges loops (Radford et al. 2022, arXiv
    /// 2212.04356); 1 for an empty answer.
    pub compression: f64,
}

/// The same prompt with the stop set off: what the model would say behind the curtain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FreeRun {
    /// Tokens generated.
    pub tokens: usize,
    /// End-of-text tokens that come before any other content.
    pub leading_end_of_text: usize,
    /// End-of-text tokens anywhere: stop tokens, and special tokens that end a text by their name.
    pub end_of_text: usize,
    /// The text, special tokens shown.
    pub text: String,
}

/// One prompt and what came of it, greedy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// The prompt as the user wrote it.
    pub prompt: String,
    /// The answer, special tokens removed.
    pub text: String,
    /// Tokens generated, the stop token not counted.
    pub tokens: usize,
    /// Why it ended.
    pub finish: FinishReason,
    /// The first token of the stop set that came and did not end the answer, as text; `None` when there was none.
    pub ignored_stop: Option<String>,
    /// Whether the very first token was a stop token, so that the answer is empty.
    pub starts_with_stop: bool,
    /// Repetition within the answer.
    pub repetition: Repetition,
    /// The same prompt with the stop set off.
    pub free_run: FreeRun,
    /// Mean negative log-likelihood per token of the reference answer, in nats; `None` without a reference.
    pub reference_nll: Option<f64>,
    /// Voice score against the reference answers, 0 to 1; `None` without references or without words.
    pub voice: Option<f64>,
}

impl Repetition {
    /// Whether one span fills most of the answer's end, or the answer goes in circles between a few tokens.
    pub fn is_looping(&self) -> bool {
        self.looped_share >= LOOPED_SHARE || self.distinct_4 < DISTINCT_RUNS
    }
}

impl Answer {
    /// Whether it loops; see [`Repetition::is_looping`].
    pub fn is_looping(&self) -> bool {
        self.repetition.is_looping()
    }
}

/// The answers to all prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenerationEvidence {
    /// One entry per prompt, in the user's order; never empty.
    pub answers: Vec<Answer>,
    /// Tokens of the stop set that do not end an answer here; `None` when the generator does not tell.
    pub missing_stops: Option<Vec<String>>,
    /// Seconds for all prompts, both passes.
    pub seconds: f64,
    /// Tokens generated per second, both passes.
    pub tokens_per_second: f64,
}

/// Figures over all answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GenerationSummary {
    /// Number of answers.
    pub answers: usize,
    /// Answers without any text.
    pub empty: usize,
    /// Answers that ended on a stop token.
    pub stopped: usize,
    /// Answers whose logits were not finite.
    pub non_finite: usize,
    /// Answers whose first token was a stop token.
    pub start_with_stop: usize,
    /// Answers that loop; see [`Answer::is_looping`].
    pub looping: usize,
    /// Leading stop tokens over all free runs.
    pub leading_end_of_text: usize,
    /// Stop tokens anywhere over all free runs.
    pub end_of_text: usize,
    /// Tokens over all free runs.
    pub free_run_tokens: usize,
    /// Mean voice score over answers that have one.
    pub voice: Option<f64>,
    /// Mean negative log-likelihood of the references, over answers that have one.
    pub reference_nll: Option<f64>,
    /// Mean of distinct token pairs.
    pub distinct_2: f64,
}

impl GenerationEvidence {
    /// Figures over all answers.
    pub fn summary(&self) -> GenerationSummary {
        let count = |condition: fn(&Answer) -> bool| self.answers.iter().filter(|answer| condition(answer)).count();
        let sum = |field: fn(&Answer) -> usize| self.answers.iter().map(field).sum();
        GenerationSummary {
            answers: self.answers.len(),
            empty: count(|answer| answer.text.trim().is_empty()),
            stopped: count(|answer| answer.finish == FinishReason::Stop),
            non_finite: count(|answer| answer.finish == FinishReason::NonFinite),
            start_with_stop: count(|answer| answer.starts_with_stop),
            looping: count(Answer::is_looping),
            leading_end_of_text: sum(|answer| answer.free_run.leading_end_of_text),
            end_of_text: sum(|answer| answer.free_run.end_of_text),
            free_run_tokens: sum(|answer| answer.free_run.tokens),
            voice: mean(self.answers.iter().filter_map(|answer| answer.voice)),
            reference_nll: mean(self.answers.iter().filter_map(|answer| answer.reference_nll)),
            distinct_2: mean(self.answers.iter().map(|answer| answer.repetition.distinct_2)).unwrap_or(1.0),
        }
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0_u32), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}
