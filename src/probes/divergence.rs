//! How far two models' predictions are apart.

use mlx_rs::error::{Exception, Result};
use mlx_rs::ops::indexing::take_along_axis;
use mlx_rs::ops::{exp, multiply, subtract};
use mlx_rs::transforms::eval;
use mlx_rs::{Array, Dtype};

use super::generation::Prompt;
use crate::evidence::GenerationEvidence;
use crate::model::{CausalModel, Tokenizer, TokenizerError};
use crate::readback::scalar;
use crate::train::Lanes;

/// Tokens of all held-out rows together.
const HELD_OUT_TOKENS: usize = 128;
/// Positions of a row at which whole distributions are compared.
const COMPARED_POSITIONS: i32 = 32;
/// Tokens of one answer, so that more than one prompt has its say.
const ANSWER_TOKENS: usize = 32;

/// Logarithms of the probabilities that logits `[..., vocabulary]` stand for, in f32.
pub fn log_probabilities(logits: &Array) -> Result<Array> {
    let logits = logits.as_dtype(Dtype::Float32)?;
    subtract(&logits, logits.logsumexp_axis(-1, true)?)
}

/// [`log_probabilities`] of at most `COMPARED_POSITIONS` positions of one row's logits `[1, positions, vocabulary]`,
/// evenly spread: exponentials over the vocabulary are most of what a comparison costs.
pub fn sampled_log_probabilities(logits: &Array) -> Result<Array> {
    let positions = logits.dim(-2);
    let step = (positions + COMPARED_POSITIONS - 1) / COMPARED_POSITIONS;
    let sample: Vec<i32> = (0..positions).step_by(step.max(1) as usize).collect();
    log_probabilities(&logits.take_axis(Array::from_slice(&sample, &[sample.len() as i32]), -2)?)
}

/// Mean over positions of the Kullback-Leibler divergence from `left` to `right`, two arrays of
/// [`log_probabilities`], in nats; `None` when it is not finite.
pub fn mean_divergence(left: &Array, right: &Array) -> Result<Option<f64>> {
    let mean = summed_divergence(left, right)? / positions(left);
    // Rounding can put the divergence of equal distributions a little below zero.
    Ok(mean.is_finite().then_some(mean.max(0.0)))
}

fn summed_divergence(left: &Array, right: &Array) -> Result<f64> {
    let sum = multiply(exp(left)?, subtract(left, right)?)?.sum(None)?;
    scalar::<f32>(&sum).map(f64::from)
}

fn positions(log_probabilities: &Array) -> f64 {
    log_probabilities.size() as f64 / f64::from(log_probabilities.dim(-1).max(1))
}

/// A prompt that is not of the training data, with the base's own answer to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldOutRow {
    /// Prompt and answer.
    pub tokens: Vec<u32>,
    /// Where the answer begins, at least 1.
    pub answer: usize,
}

/// The prompts without a reference in the data, each with the answer that `baseline` gave, as far as 128 tokens go.
pub fn held_out_rows(
    prompts: &[Prompt],
    baseline: &GenerationEvidence,
    tokenizer: &Tokenizer,
) -> std::result::Result<Vec<HeldOutRow>, TokenizerError> {
    let mut rows = Vec::new();
    let mut left = HELD_OUT_TOKENS;
    let answered = prompts.iter().zip(&baseline.answers);
    for (prompt, answer) in answered.filter(|(prompt, _)| prompt.reference.is_none()) {
        let Some(room) = left.checked_sub(prompt.tokens.len()) else {
            continue;
        };
        let answer = tokenizer.encode(&answer.text, false)?;
        let kept = &answer[..answer.len().min(room).min(ANSWER_TOKENS)];
        if kept.is_empty() {
            continue;
        }
        left = room - kept.len();
        rows.push(HeldOutRow {
            tokens: [prompt.tokens.as_slice(), kept].concat(),
            answer: prompt.tokens.len(),
        });
    }
    Ok(rows)
}

/// What training did to text that it had nothing to do with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeldOutShift {
    /// Mean divergence per token from the live model to the base, in nats; `None` when it is not finite.
    pub divergence: Option<f64>,
    /// Loss of the live model minus that of the base, in nats per token; `None` when it is not finite.
    pub rise: Option<f64>,
}

/// Compares `live` with `base` on the answers of `rows`, the true tokens before each; `None` without rows.
pub fn held_out_shift(
    base: &CausalModel,
    live: &CausalModel,
    rows: &[HeldOutRow],
    lanes: &Lanes,
) -> Result<Option<HeldOutShift>> {
    let models = [base, live];
    let _cores = lanes.share_cores_among(models.len());
    let (mut divergence, mut rise, mut tokens) = (0.0, 0.0, 0.0);
    for row in rows {
        let both = lanes.each(&models, |model| answer_log_probabilities(model, row))?;
        eval(&both)?;
        let [base, live] = both.as_slice() else {
            return Err(Exception::custom("two models have two predictions"));
        };
        let [base_loss, live_loss] = [summed_loss(base, row)?, summed_loss(live, row)?];
        eval([&base_loss, &live_loss])?;
        rise += f64::from(scalar::<f32>(&live_loss)?) - f64::from(scalar::<f32>(&base_loss)?);
        divergence += summed_divergence(live, base)?;
        tokens += positions(live);
    }
    let mean = |sum: f64| Some(sum / tokens).filter(|mean| mean.is_finite());
    Ok((!rows.is_empty()).then(|| HeldOutShift {
        divergence: mean(divergence).map(|mean| mean.max(0.0)),
        rise: mean(rise),
    }))
}

/// `[answer, vocabulary]`: what the model expected at each token of the row's answer.
fn answer_log_probabilities(model: &CausalModel, row: &HeldOutRow) -> Result<Array> {
    // The last token predicts nothing that is known, so it is not fed.
    let fed: Vec<i32> = row.tokens[..row.tokens.len() - 1]
        .iter()
        .map(|&token| token as i32)
        .collect();
    let hidden = model.hidden_states(&Array::from_slice(&fed, &[1, fed.len() as i32]))?;
    let predicting: Vec<i32> = (row.answer - 1..fed.len()).map(|position| position as i32).collect();
    let predicting = Array::from_slice(&predicting, &[predicting.len() as i32]);
    let hidden = hidden.reshape(&[-1, hidden.dim(-1)])?.take_axis(&predicting, 0)?;
    log_probabilities(&model.output(&hidden)?)
}

fn summed_loss(log_probabilities: &Array, row: &HeldOutRow) -> Result<Array> {
    let targets: Vec<i32> = row.tokens[row.answer..].iter().map(|&token| token as i32).collect();
    let targets = Array::from_slice(&targets, &[targets.len() as i32, 1]);
    take_along_axis(log_probabilities, targets, -1)?.sum(None)?.negative()
}

#[cfg(test)]
mod tests {
    use approx::assert_relative_eq;
    use mlx_rs::Array;

    use super::{log_probabilities, mean_divergence};

    fn divergence(left: &[f32], right: &[f32]) -> Option<f64> {
        let [left, right] = [left, right].map(|logits| {
            let logits = Array::from_slice(logits, &[logits.len() as i32 / 2, 2]);
            log_probabilities(&logits).unwrap()
        });
        mean_divergence(&left, &right).unwrap()
    }

    #[test]
    fn the_divergence_of_two_coins_is_the_closed_form() {
        // Probabilities 0.8 and 0.2 against 0.5 and 0.5.
        let expected = 0.8 * (0.8_f64 / 0.5).ln() + 0.2 * (0.2_f64 / 0.5).ln();
        let biased = [4.0_f32.ln(), 0.0];
        assert_relative_eq!(divergence(&biased, &[7.0, 7.0]).unwrap(), expected, max_relative = 1e-5);
    }

    #[test]
    fn the_divergence_is_a_mean_over_positions() {
        let one = divergence(&[1.0, 0.0], &[0.0, 1.0]).unwrap();
        let two = divergence(&[1.0, 0.0, 3.0, 3.0], &[0.0, 1.0, 3.0, 3.0]).unwrap();
        assert_relative_eq!(one, 2.0 * two, max_relative = 1e-6);
    }

    #[test]
    fn equal_logits_have_no_divergence() {
        assert_eq!(divergence(&[0.3, -2.0, 5.0, 1.0], &[0.3, -2.0, 5.0, 1.0]), Some(0.0));
    }

    #[test]
    fn a_divergence_from_nan_is_none() {
        assert_eq!(divergence(&[f32::NAN, 0.0], &[0.0, 0.0]), None);
    }
}
