//! The fields that chats and completions have in common.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde_json::Value;

use super::api_error::ApiError;
use super::event_stream::StreamOptions;
use super::fields::{Fields, kind, within};
use super::service::Service;
use crate::engine::{MAX_STOP_STRING_BYTES, MAX_STOP_STRINGS, MAX_TOP_LOG_PROBABILITIES, Request, SamplingSettings};

/// Answers that one request may ask for. The queue of an engine has room for several such requests.
pub(super) const MAX_CHOICES: usize = 64;

/// OpenAI's bounds of penalties that are subtracted.
const SUBTRACTED: RangeInclusive<f32> = -2.0..=2.0;
/// Factors beyond these make a logit that no token can be chosen by; 1 changes nothing.
const FACTOR: RangeInclusive<f32> = 0.01..=100.0;
/// A bias that no logit outweighs is far below this.
const BIAS: RangeInclusive<f32> = -1000.0..=1000.0;

/// OpenAI's fields that say who asks, or how the answer is billed and kept, and change nothing about it.
const WITHOUT_EFFECT: [&str; 7] = [
    "metadata",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
];

/// How prompts are to be answered.
#[derive(Debug)]
pub(super) struct GenerationOptions {
    sampling: SamplingSettings,
    stop_strings: Vec<String>,
    adapter: Option<String>,
    /// The model's id, for the answer.
    pub(super) model: String,
    /// Answers to each prompt.
    pub(super) choices: usize,
    /// How the answer is streamed, if it is.
    pub(super) stream: Option<StreamOptions>,
}

impl GenerationOptions {
    pub(super) fn read(fields: &mut Fields, service: &Service) -> Result<Self, ApiError> {
        let model = fields.text("model")?;
        let adapter = service.adapter_of(model.as_deref())?;
        fields.pass_over(&WITHOUT_EFFECT);
        let choices = fields.count("n", 1)?.unwrap_or(1);
        if choices > MAX_CHOICES {
            return Err(ApiError::field("n", &choices.to_string(), &at_most(MAX_CHOICES)));
        }
        Ok(Self {
            sampling: sampling(fields)?,
            stop_strings: stop_strings(fields.take("stop"))?,
            adapter,
            model: model.unwrap_or_else(|| service.settings.model_id.clone()),
            choices,
            stream: StreamOptions::read(fields)?,
        })
    }

    /// The requests for the answers to one prompt.
    pub(super) fn requests(
        &self,
        service: &Service,
        prompt: &[u32],
        max_tokens: usize,
        top_log_probabilities: Option<usize>,
    ) -> Vec<Request> {
        let request = |choice: usize| Request {
            prompt: prompt.to_vec(),
            max_tokens,
            stop_ids: service.model.stop_ids.clone(),
            stop_strings: self.stop_strings.clone(),
            sampling: SamplingSettings {
                // Answers to one prompt shall differ, and the first be that of `n` 1.
                seed: self.sampling.seed.map(|seed| seed.wrapping_add(choice as u64)),
                ..self.sampling.clone()
            },
            top_log_probabilities,
            adapter: self.adapter.clone(),
            priority: 0,
        };
        (0..self.choices).map(request).collect()
    }
}

fn at_most(most: usize) -> String {
    format!("{most} or fewer")
}

/// How many alternatives are asked for, by the field `name`.
pub(super) fn top_log_probabilities(
    fields: &mut Fields,
    service: &Service,
    name: &'static str,
) -> Result<Option<usize>, ApiError> {
    let asked = fields.count(name, 0)?;
    let most = MAX_TOP_LOG_PROBABILITIES.min(service.model.engine.request_limits().vocabulary);
    match asked {
        Some(asked) if asked > most => Err(ApiError::field(name, &asked.to_string(), &at_most(most))),
        asked => Ok(asked),
    }
}

/// OpenAI's defaults are the model's distribution as it is: temperature 1, and no filter.
fn sampling(fields: &mut Fields) -> Result<SamplingSettings, ApiError> {
    let top_p = fields.number("top_p")?.unwrap_or(1.0);
    // To the sampler, 0 is no filter; in OpenAI's interface it would be the narrowest.
    if !(top_p > 0.0 && top_p <= 1.0) {
        let expected = "a number above 0, up to 1; `temperature` 0 takes the likeliest token";
        return Err(ApiError::field("top_p", &top_p.to_string(), expected));
    }
    Ok(SamplingSettings {
        temperature: fields.number("temperature")?.unwrap_or(1.0),
        top_k: fields.count("top_k", 0)?.unwrap_or(0),
        top_p,
        min_p: fields.number("min_p")?.unwrap_or(0.0),
        repetition_penalty: fields.number_within("repetition_penalty", FACTOR)?.unwrap_or(1.0),
        presence_penalty: fields.number_within("presence_penalty", SUBTRACTED)?.unwrap_or(0.0),
        frequency_penalty: fields.number_within("frequency_penalty", SUBTRACTED)?.unwrap_or(0.0),
        // "The text so far", in the words of OpenAI's reference; the field is that of mlx_lm.server.
        repetition_context: fields.count("repetition_context_size", 0)?.unwrap_or(0),
        logit_bias: logit_bias(fields)?,
        seed: fields.seed("seed")?,
    })
}

fn logit_bias(fields: &mut Fields) -> Result<BTreeMap<u32, f32>, ApiError> {
    let Some(biases) = fields.object("logit_bias")? else {
        return Ok(BTreeMap::new());
    };
    let bias = |(id, bias): (String, Value)| {
        let place = format!("logit_bias.{id}");
        let id = id
            .parse()
            .map_err(|_| ApiError::field(&place, "this name", "the id of a token"))?;
        let value = bias.as_f64().map(|bias| bias as f32);
        match value.filter(|value| BIAS.contains(value)) {
            Some(value) => Ok((id, value)),
            None => Err(ApiError::field(&place, &kind(&bias), &within(&BIAS))),
        }
    };
    biases.into_rest().into_iter().map(bias).collect()
}

fn stop_strings(value: Option<Value>) -> Result<Vec<String>, ApiError> {
    let texts = match value {
        None => return Ok(Vec::new()),
        Some(Value::Array(texts)) => texts,
        Some(text) => vec![text],
    };
    if texts.len() > MAX_STOP_STRINGS {
        let expected = at_most(MAX_STOP_STRINGS);
        return Err(ApiError::field("stop", &format!("{} texts", texts.len()), &expected));
    }
    let checked = texts.into_iter().map(|text| match text {
        Value::String(text) if (1..=MAX_STOP_STRING_BYTES).contains(&text.len()) => Ok(text),
        other => {
            let expected = format!("texts of 1 to {MAX_STOP_STRING_BYTES} bytes");
            Err(ApiError::field("stop", &kind(&other), &expected))
        }
    });
    checked.collect()
}
