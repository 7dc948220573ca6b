//! What the reference engine says when it is asked in the ways in which other generators go wrong.

use std::collections::BTreeSet;

use mlx_rs::error::Exception;
use thiserror::Error;

use super::generation::Prompt;
use crate::engine::{DecodeLimits, decode_greedily};
use crate::evidence::{GeneratorReading, ReadAnswers};
use crate::interrupt::Interrupt;
use crate::model::{CausalModel, Message, StopSet, Tokenizer, TokenizerError};

/// Counted twice, as on a base that the adapter was fused into.
const TWICE: f32 = 2.0;

/// What answers are read with.
#[derive(Debug)]
pub struct ReadingProbe<'run> {
    /// The model without its adapter.
    pub base: &'run CausalModel,
    /// The same with it.
    pub adapted: &'run CausalModel,
    /// Text and tokens.
    pub tokenizer: &'run Tokenizer,
    /// Every token that ends a text.
    pub stop_set: &'run StopSet,
    /// The prompts.
    pub prompts: &'run [Prompt],
    /// Longest answer in tokens.
    pub max_tokens: usize,
}

/// Why the engine could not be asked.
#[derive(Debug, Error)]
pub enum ReadingError {
    /// MLX failed.
    #[error("generation failed: {0}")]
    Mlx(#[from] Exception),
    /// A prompt could not be made into tokens, or tokens into text.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The user ended it.
    #[error("interrupted")]
    Interrupted,
}

impl ReadingProbe<'_> {
    /// The answers in every way that this model has.
    ///
    /// # Errors
    /// The engine fails, or the user ends it.
    pub fn measure(&self, interrupt: &Interrupt) -> Result<Vec<ReadAnswers>, ReadingError> {
        use GeneratorReading::{
            AdapterTwice, StopsIgnored, WithoutAdapter, WithoutEither, WithoutHeader, WithoutTemplate,
        };
        let asked: Vec<Vec<u32>> = self.prompts.iter().map(|prompt| prompt.tokens.clone()).collect();
        let ends: BTreeSet<u32> = self.stop_set.ids().into_iter().collect();
        let none = BTreeSet::new();
        let twice = self.twice();
        let mut ways = vec![
            (WithoutAdapter, self.base, asked.clone(), &ends),
            (AdapterTwice, &twice, asked.clone(), &ends),
        ];
        let mut endless = Vec::with_capacity(asked.len());
        for tokens in &asked {
            endless.push(self.tokens(self.adapted, tokens, &none, interrupt)?);
        }
        if self.tokenizer.chat_template().is_some() {
            let plain = self.encoded(|text| self.tokenizer.encode(text, true))?;
            ways.push((WithoutTemplate, self.adapted, plain.clone(), &ends));
            ways.push((WithoutEither, self.base, plain, &ends));
            let message = |text: &str| self.tokenizer.encode_chat(&[Message::new("user", text)], None, false);
            ways.push((WithoutHeader, self.adapted, self.encoded(message)?, &ends));
        }
        let mut answers = Vec::new();
        for (reading, model, prompts, ends) in ways {
            let mut texts = Vec::with_capacity(prompts.len());
            for prompt in &prompts {
                let tokens = self.tokens(model, prompt, ends, interrupt)?;
                texts.push(self.tokenizer.decode(&tokens, true)?);
            }
            answers.push(ReadAnswers { reading, texts });
        }
        // A generator that knows no end token may print it, or leave it out as every special token.
        for skips_special in [true, false] {
            let texts = endless
                .iter()
                .map(|tokens| self.tokenizer.decode(tokens, skips_special));
            answers.push(ReadAnswers {
                reading: StopsIgnored,
                texts: texts.collect::<Result<_, _>>()?,
            });
        }
        Ok(answers)
    }

    fn encoded(
        &self,
        encode: impl Fn(&str) -> Result<Vec<u32>, TokenizerError>,
    ) -> Result<Vec<Vec<u32>>, TokenizerError> {
        self.prompts.iter().map(|prompt| encode(&prompt.text)).collect()
    }

    fn twice(&self) -> CausalModel {
        let mut twice = self.adapted.clone();
        for (_, layer) in twice.adaptable_mut() {
            if let Some(low_rank) = layer.low_rank_mut() {
                low_rank.scale *= TWICE;
            }
        }
        twice
    }

    /// The tokens of an answer up to its end.
    fn tokens(
        &self,
        model: &CausalModel,
        prompt: &[u32],
        ends: &BTreeSet<u32>,
        interrupt: &Interrupt,
    ) -> Result<Vec<u32>, ReadingError> {
        if prompt.is_empty() {
            return Ok(Vec::new());
        }
        let limits = DecodeLimits {
            answer: self.max_tokens,
            at_least: 0,
        };
        let mut decoded = decode_greedily(model, prompt, ends, limits, interrupt)?;
        if decoded.interrupted {
            return Err(ReadingError::Interrupted);
        }
        let end = decoded.tokens.iter().position(|token| ends.contains(token));
        decoded.tokens.truncate(end.unwrap_or(decoded.tokens.len()));
        Ok(decoded.tokens)
    }
}
