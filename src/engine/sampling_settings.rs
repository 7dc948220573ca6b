//! How the next token of one request is chosen.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::model::Problem;

/// A filter or penalty at its neutral value is off, and the neutral values are mlx-lm's (`mlx_lm/sample_utils.py`).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingSettings {
    /// Divides the log-probabilities after every filter; 0 takes the likeliest token and leaves the filters out.
    pub temperature: f32,
    /// The likeliest tokens that stay; 0 keeps all.
    pub top_k: usize,
    /// The likeliest tokens that together reach this share of the probability stay (Holtzman et al. 2020, arXiv
    /// 1904.09751); 0 and 1 keep all.
    pub top_p: f32,
    /// Tokens below this share of the likeliest token's probability go (Nguyen et al. 2024, arXiv 2407.01082); 0 keeps
    /// all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen lately (Keskar et al. 2019, arXiv 1909.05858);
    /// 0 and 1 change nothing.
    pub repetition_penalty: f32,
    /// Is subtracted from the logits of tokens seen lately, once for each token.
    pub presence_penalty: f32,
    /// Is subtracted from the logits of tokens seen lately, as often as they were seen.
    pub frequency_penalty: f32,
    /// How many of the last tokens, those of the prompt among them, count as seen lately; 0 means all.
    pub repetition_context: usize,
    /// Is added to the logits of single tokens before everything else.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Where the draws start; the same seed gives the same tokens whatever else runs. Without one the engine draws it.
    #[serde(skip_deserializing)]
    pub seed: Option<u64>,
}

impl Default for SamplingSettings {
    /// Greedy, with mlx-lm's context of 20 tokens for penalties.
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 0.0,
            min_p: 0.0,
            repetition_penalty: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_context: 20,
            logit_bias: BTreeMap::new(),
            seed: None,
        }
    }
}

impl SamplingSettings {
    /// Whether the token is the likeliest one of the logits as they come from the model.
    pub fn takes_the_largest_logit(&self) -> bool {
        self.temperature == 0.0 && self.logit_bias.is_empty() && !self.penalises()
    }

    /// Whether tokens seen lately become less likely.
    pub fn penalises(&self) -> bool {
        self.scales_repeated() || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }

    /// Whether the logits of tokens seen lately are multiplied or divided.
    pub fn scales_repeated(&self) -> bool {
        self.repetition_penalty != 0.0 && self.repetition_penalty != 1.0
    }

    /// Every setting that cannot be used with a vocabulary of `vocabulary` tokens.
    pub fn problems(&self, vocabulary: usize) -> Vec<Problem> {
        let at_least_zero = |value: f32| value >= 0.0 && value.is_finite();
        let share = |value: f32| (0.0..=1.0).contains(&value);
        let checks = [
            (
                "temperature",
                self.temperature,
                at_least_zero as fn(f32) -> bool,
                "0 or more",
            ),
            ("top_p", self.top_p, share, "0 to 1"),
            ("min_p", self.min_p, share, "0 to 1"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                at_least_zero,
                "0 or more",
            ),
            (
                "presence_penalty",
                self.presence_penalty,
                f32::is_finite,
                "a finite number",
            ),
            (
                "frequency_penalty",
                self.frequency_penalty,
                f32::is_finite,
                "a finite number",
            ),
        ];
        let mut problems: Vec<Problem> = checks
            .into_iter()
            .filter(|(_, value, is_usable, _)| !is_usable(*value))
            .map(|(name, value, _, expected)| Problem::new(name, value.to_string(), expected))
            .collect();
        for (&id, &bias) in &self.logit_bias {
            let location = format!("logit_bias.{id}");
            if id as usize >= vocabulary {
                problems.push(Problem::new(
                    location,
                    "no such token",
                    format!("an id below {vocabulary}"),
                ));
            } else if !bias.is_finite() {
                problems.push(Problem::new(location, bias.to_string(), "a finite number"));
            }
        }
        problems
    }
}
