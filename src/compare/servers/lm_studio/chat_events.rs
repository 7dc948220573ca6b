//! The events of LM Studio's chat, v1.
//!
//! Source: <https://lmstudio.ai/docs/developer/rest/streaming-events>. Events have names, and the last one is `chat.end`; an
//! `error` comes before it.

use serde_json::Value;

use super::OVERFLOW_HINT;
use crate::compare::client::{
    Answer, AnswerReader, Event, Framing, Step, check_model, count, duration, error_of, parse, rate, text, told,
};
use crate::compare::{Failure, ServerTimings, Usage};

/// Reads the events of one answer.
#[derive(Debug)]
pub(super) struct ChatEvents {
    instance: String,
    failure: Option<Failure>,
    load_seconds: Option<f64>,
}

impl ChatEvents {
    /// Of an answer that only this instance may give.
    pub(super) fn of_instance(instance: &str) -> Self {
        Self {
            instance: instance.to_owned(),
            failure: None,
            load_seconds: None,
        }
    }

    fn read_end(&mut self, result: &Value, answer: &mut Answer) -> Result<(), Failure> {
        let stats = result.get("stats").unwrap_or(&Value::Null);
        let generated = count(stats, "total_output_tokens")?;
        if let (Some(prompt_tokens), Some(completion_tokens)) = (count(stats, "input_tokens")?, generated) {
            answer.usage = Some(Usage {
                prompt_tokens,
                completion_tokens,
                cached_tokens: None,
            });
        }
        answer.timings = Some(ServerTimings {
            first_token: duration(stats, "time_to_first_token_seconds", 1.0)?,
            generated_tokens: generated,
            tokens_per_second: rate(stats, "tokens_per_second")?,
            load: duration(stats, "model_load_time_seconds", 1.0)?.or(self.load_seconds),
            ..ServerTimings::default()
        });
        if let Some(found) = text(result, "model_instance_id")? {
            check_model(&self.instance, found)?;
        }
        Ok(())
    }
}

impl AnswerReader for ChatEvents {
    fn framing(&self) -> Framing {
        Framing::EventStream
    }

    fn read(&mut self, event: &Event, at: f64, answer: &mut Answer) -> Result<Step, Failure> {
        let data = parse(&event.data)?;
        match event.name.as_str() {
            "chat.start" | "model_load.start" => {
                if let Some(found) = text(&data, "model_instance_id")? {
                    check_model(&self.instance, found)?;
                }
            }
            "model_load.end" => self.load_seconds = duration(&data, "load_time_seconds", 1.0)?,
            "message.delta" | "reasoning.delta" => answer.add_piece(text(&data, "content")?.unwrap_or(""), at),
            "tool_call.arguments" => {
                if let Some(arguments) = data.get("arguments") {
                    answer.add_piece(&arguments.to_string(), at);
                }
            }
            "error" => {
                let message = error_of(&data).unwrap_or_else(|| event.data.clone());
                self.failure.get_or_insert(told(&message));
            }
            "chat.end" => {
                self.read_end(data.get("result").unwrap_or(&Value::Null), answer)?;
                return self.failure.take().map_or(Ok(Step::Last), Err);
            }
            // Progress, and events of versions to come.
            _ => {}
        }
        Ok(Step::More)
    }

    fn told_failure(&mut self) -> Option<Failure> {
        self.failure.take()
    }

    fn hint_for_nothing(&self) -> Option<&'static str> {
        Some(OVERFLOW_HINT)
    }
}
