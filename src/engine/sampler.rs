//! One token out of one row of logits.
//!
//! Everything has mlx-lm's meaning and order (`mlx_lm/sample_utils.py` and `generate_step` of version 0.32.2): bias and
//! penalties change the logits; their log-softmax is what is reported; at temperature 0 its maximum is taken; otherwise
//! top-p, min-p and top-k leave some tokens, whose log-probabilities are divided by the temperature and drawn from.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use thiserror::Error;

use super::SamplingSettings;
use super::logit_adjustment::adjusted;
use super::token_filters::{Candidate, survivors};

/// A token, and how likely the model found it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// The token.
    pub id: u32,
    /// `None` unless asked for.
    pub log_probabilities: Option<LogProbabilities>,
}

/// Natural logarithms of probabilities after bias and penalties, before filters and temperature, as mlx-lm's
/// `generate_step` returns them. Without bias and penalties they are the model's own.
#[derive(Debug, Clone, PartialEq)]
pub struct LogProbabilities {
    /// The token's own.
    pub chosen: f32,
    /// As many of the likeliest tokens as were asked for, likeliest first and the lower id first of equals.
    pub top: Vec<(u32, f32)>,
}

/// Logits that no token can be chosen by.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum SamplerError {
    /// NaN or an infinity.
    #[error(
        "the logits of the next token are not finite\n  found: {value} for token {id}\n  expected: a finite number for each of {vocabulary} tokens\n  hint: run `diagnose` on the model; without bias and penalties the numbers are the model's own"
    )]
    NotFinite {
        /// The first such token.
        id: usize,
        /// Its logit after bias and penalties.
        value: f32,
        /// How many logits there are.
        vocabulary: usize,
    },
    /// A token that the model does not have.
    #[error(
        "a token to penalise or to favour does not exist\n  found: id {id}\n  expected: an id below {vocabulary}\n  hint: tokenize with the model's own tokenizer"
    )]
    UnknownToken {
        /// Its id.
        id: u32,
        /// Ids lie below it.
        vocabulary: usize,
    },
    /// There is no logit at all.
    #[error(
        "there are no logits to choose a token by\n  found: an empty row\n  expected: one logit for each token\n  hint: this is the caller's mistake"
    )]
    Empty,
}

/// Chooses the tokens of one request. What else runs has no part in it: the generator is the request's own.
#[derive(Debug, Clone)]
pub struct Sampler {
    settings: SamplingSettings,
    top_log_probabilities: Option<usize>,
    generator: ChaCha8Rng,
}

/// A row of logits, all finite, after bias and penalties.
struct Row<'row> {
    logits: &'row [f32],
    largest: f32,
}

impl<'row> Row<'row> {
    fn new(logits: &'row [f32]) -> Result<Self, SamplerError> {
        if logits.is_empty() {
            return Err(SamplerError::Empty);
        }
        let vocabulary = logits.len();
        if let Some(id) = logits.iter().position(|logit| !logit.is_finite()) {
            let value = logits[id];
            return Err(SamplerError::NotFinite { id, value, vocabulary });
        }
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        Ok(Self { logits, largest })
    }

    /// The sum of the exponentials of the logits less the largest.
    fn total(&self) -> f64 {
        self.logits
            .iter()
            .map(|logit| f64::from((logit - self.largest).exp()))
            .sum()
    }

    /// The `count` tokens with the largest logits, in order, the lower id first of equals.
    fn likeliest(&self, count: usize) -> Vec<u32> {
        let logit = |id: u32| self.logits[id as usize];
        let mut best: Vec<u32> = Vec::with_capacity(count.saturating_add(1).min(self.logits.len()));
        for (id, value) in (0..).zip(self.logits) {
            if best.len() == count && best.last().is_none_or(|&last| *value <= logit(last)) {
                continue;
            }
            let place = best.partition_point(|&better| logit(better) >= *value);
            best.insert(place, id);
            best.truncate(count);
        }
        best
    }

    fn log_probabilities(&self, chosen: u32, top: usize) -> LogProbabilities {
        let log_total = self.total().ln();
        let of = |id: u32| (f64::from(self.logits[id as usize] - self.largest) - log_total) as f32;
        LogProbabilities {
            chosen: of(chosen),
            top: self.likeliest(top).into_iter().map(|id| (id, of(id))).collect(),
        }
    }
}

impl Sampler {
    /// A sampler that reports as many of the likeliest tokens as `top_log_probabilities` says, and starts its draws at
    /// `fallback_seed` if the settings have no seed.
    pub fn new(settings: SamplingSettings, top_log_probabilities: Option<usize>, fallback_seed: u64) -> Self {
        let generator = ChaCha8Rng::seed_from_u64(settings.seed.unwrap_or(fallback_seed));
        Self {
            settings,
            top_log_probabilities,
            generator,
        }
    }

    /// Chooses the next token by `logits`, one for each token of the vocabulary, after `tokens_so_far` (prompt and answer).
    ///
    /// # Errors
    /// [`SamplerError`]; nothing was drawn then.
    pub fn sample(&mut self, logits: &[f32], tokens_so_far: &[u32]) -> Result<Sampled, SamplerError> {
        let logits = adjusted(&self.settings, logits, tokens_so_far)?;
        let row = Row::new(&logits)?;
        let id = match weighted(&row, &self.settings).as_slice() {
            [(only, _)] => *only,
            candidates => draw(&mut self.generator, candidates),
        };
        let log_probabilities = self.top_log_probabilities.map(|top| row.log_probabilities(id, top));
        Ok(Sampled { id, log_probabilities })
    }

    /// What [`Self::sample`] draws from: tokens in the order of their ids, each with its log-probability of being chosen.
    ///
    /// # Errors
    /// [`SamplerError`].
    pub fn distribution(&self, logits: &[f32], tokens_so_far: &[u32]) -> Result<Vec<(u32, f32)>, SamplerError> {
        let logits = adjusted(&self.settings, logits, tokens_so_far)?;
        let mut candidates = weighted(&Row::new(&logits)?, &self.settings);
        let total: f64 = candidates.iter().map(|(_, weight)| f64::from(*weight).exp()).sum();
        for (_, weight) in &mut candidates {
            *weight = (f64::from(*weight) - total.ln()) as f32;
        }
        Ok(candidates)
    }
}

/// The tokens that may be chosen with the logarithms of their weights, of which the largest is 0.
fn weighted(row: &Row, settings: &SamplingSettings) -> Vec<Candidate> {
    if settings.temperature == 0.0 {
        return row.likeliest(1).into_iter().map(|id| (id, 0.0)).collect();
    }
    let mut candidates = survivors(row.logits, row.largest, || row.total(), settings);
    for (_, relative) in &mut candidates {
        *relative /= settings.temperature;
    }
    candidates
}

/// Inverts the cumulative distribution at one uniform draw of 53 bits. A token of weight 0 is never chosen.
fn draw(generator: &mut ChaCha8Rng, candidates: &[Candidate]) -> u32 {
    let weight = |candidate: &Candidate| f64::from(candidate.1.exp());
    let total: f64 = candidates.iter().map(weight).sum();
    let uniform = (generator.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
    let mut left = uniform * total;
    let mut chosen = 0;
    for candidate in candidates {
        let weight = weight(candidate);
        if weight > 0.0 {
            chosen = candidate.0;
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
    }
    chosen
}
