//! Answers: what the model says to each prompt, and what it would say if nothing stopped it.

use std::collections::BTreeSet;
use std::time::Instant;

use thiserror::Error;

use super::{repetition, voice};
use crate::data::{Batch, Example};
use crate::engine::{DecodeLimits, Decoded, decode_greedily};
use crate::evidence::{Answer, FinishReason, FreeRun, GenerationEvidence};
use crate::interrupt::Interrupt;
use crate::model::{CausalModel, StopSet, Tokenizer, TokenizerError};
use crate::torch::WorkerError;
use crate::train::{Lanes, mean_loss};

/// Tokens of the run with the stop set off.
pub const FREE_RUN_TOKENS: usize = 64;

/// A prompt, ready to be answered.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// As the user wrote it.
    pub text: String,
    /// As the model reads it, at least one token.
    pub tokens: Vec<u32>,
    /// The row of the data that this prompt comes from, with its answer supervised.
    pub reference: Option<Example>,
}

/// What answers are measured with.
#[derive(Debug)]
pub struct GenerationProbe<'run> {
    /// Text and tokens.
    pub tokenizer: &'run Tokenizer,
    /// Every token that ends a text.
    pub stop_set: &'run StopSet,
    /// The tokens that end an answer in this run.
    pub stop_ids: &'run BTreeSet<u32>,
    /// The prompts.
    pub prompts: &'run [Prompt],
    /// The data's answers, for the voice score.
    pub reference_answers: &'run [&'run str],
    /// Longest answer in tokens.
    pub max_tokens: usize,
}

/// What answers prompts.
pub trait Answerer {
    /// Decodes greedily after `prompt`, as [`decode_greedily`] does.
    fn decode(
        &mut self,
        prompt: &[u32],
        stop_ids: &BTreeSet<u32>,
        limits: DecodeLimits,
        interrupt: &Interrupt,
    ) -> Result<Decoded, GenerationError>;

    /// The mean loss of the supervised tokens of `batch`, in nats; `None` when it is not finite.
    fn loss(&mut self, batch: &Batch) -> Result<Option<f64>, GenerationError>;
}

impl Answerer for &CausalModel {
    fn decode(
        &mut self,
        prompt: &[u32],
        stop_ids: &BTreeSet<u32>,
        limits: DecodeLimits,
        interrupt: &Interrupt,
    ) -> Result<Decoded, GenerationError> {
        Ok(decode_greedily(self, prompt, stop_ids, limits, interrupt)?)
    }

    fn loss(&mut self, batch: &Batch) -> Result<Option<f64>, GenerationError> {
        let loss = mean_loss(self, batch, &Lanes::single())?;
        Ok(loss.is_finite().then_some(loss))
    }
}

/// Why answers could not be measured.
#[derive(Debug, Error)]
pub enum GenerationError {
    /// MLX failed.
    #[error("generation failed: {0}")]
    Mlx(#[from] mlx_rs::error::Exception),
    /// PyTorch failed.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// Tokens could not be made into text.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// An answer could not be compressed.
    #[error("an answer could not be compressed: {0}")]
    Compression(#[from] std::io::Error),
    /// The user ended it.
    #[error("generation was interrupted")]
    Interrupted,
}

impl GenerationProbe<'_> {
    /// Answers every prompt with `model`; `answered` is told the number of answers so far.
    pub fn measure(
        &self,
        model: &mut dyn Answerer,
        interrupt: &Interrupt,
        answered: &mut dyn FnMut(usize),
    ) -> Result<GenerationEvidence, GenerationError> {
        let started = Instant::now();
        let limits = DecodeLimits {
            answer: self.max_tokens,
            at_least: FREE_RUN_TOKENS,
        };
        let mut answers = Vec::with_capacity(self.prompts.len());
        let mut tokens = 0;
        for prompt in self.prompts {
            let decoded = model.decode(&prompt.tokens, self.stop_ids, limits, interrupt)?;
            if decoded.interrupted {
                return Err(GenerationError::Interrupted);
            }
            tokens += decoded.tokens.len();
            answers.push(self.answer(prompt, &decoded, reference_loss(model, prompt)?)?);
            answered(answers.len());
        }
        Ok(self.evidence(answers, tokens, started.elapsed().as_secs_f64()))
    }

    /// The answers that another program decoded, one entry per prompt: the tokens, and the loss of the reference where
    /// there is one.
    pub fn of_decoded(
        &self,
        decoded: &[(Decoded, Option<f64>)],
        seconds: f64,
    ) -> Result<GenerationEvidence, GenerationError> {
        let answers = self
            .prompts
            .iter()
            .zip(decoded)
            .map(|(prompt, (decoded, loss))| self.answer(prompt, decoded, *loss))
            .collect::<Result<_, _>>()?;
        let tokens = decoded.iter().map(|(decoded, _)| decoded.tokens.len()).sum();
        Ok(self.evidence(answers, tokens, seconds))
    }

    fn evidence(&self, answers: Vec<Answer>, tokens: usize, seconds: f64) -> GenerationEvidence {
        let missing = self.stop_set.ids().into_iter().filter(|id| !self.stop_ids.contains(id));
        GenerationEvidence {
            answers,
            missing_stops: Some(missing.map(|id| self.shown(&[id])).collect()),
            seconds,
            tokens_per_second: tokens as f64 / seconds,
        }
    }

    fn answer(
        &self,
        prompt: &Prompt,
        decoded: &Decoded,
        reference_nll: Option<f64>,
    ) -> Result<Answer, GenerationError> {
        let within_limit = &decoded.tokens[..decoded.tokens.len().min(self.max_tokens)];
        let end = within_limit.iter().position(|token| self.stop_ids.contains(token));
        let answer = &within_limit[..end.unwrap_or(within_limit.len())];
        let ignored_stop = answer.iter().find(|&&token| self.stop_set.contains(token));
        let text = self.tokenizer.decode(answer, true)?;
        Ok(Answer {
            prompt: prompt.text.clone(),
            tokens: answer.len(),
            finish: match end {
                Some(_) => FinishReason::Stop,
                None if decoded.not_finite => FinishReason::NonFinite,
                None => FinishReason::Length,
            },
            ignored_stop: ignored_stop.map(|&token| self.shown(&[token])),
            starts_with_stop: end == Some(0),
            repetition: repetition::measure(answer, &text, |span| self.shown(span))?,
            free_run: self.free_run(&decoded.tokens[..decoded.tokens.len().min(FREE_RUN_TOKENS)]),
            reference_nll,
            voice: voice::score(&text, self.reference_answers),
            text,
        })
    }

    fn free_run(&self, tokens: &[u32]) -> FreeRun {
        let ends = |token: &&u32| self.stop_set.is_end_of_text(**token);
        FreeRun {
            tokens: tokens.len(),
            leading_end_of_text: tokens.iter().take_while(ends).count(),
            end_of_text: tokens.iter().filter(ends).count(),
            text: self.shown(tokens),
        }
    }

    /// Text with special tokens shown; tokens that have none are shown by number.
    fn shown(&self, tokens: &[u32]) -> String {
        self.tokenizer
            .decode(tokens, false)
            .unwrap_or_else(|_| format!("{tokens:?}"))
    }
}

/// The loss of the prompt's reference answer; `None` without one, or when it is not finite.
fn reference_loss(model: &mut dyn Answerer, prompt: &Prompt) -> Result<Option<f64>, GenerationError> {
    let Some(example) = &prompt.reference else {
        return Ok(None);
    };
    model.loss(&Batch::new(std::slice::from_ref(example), &[0]))
}
