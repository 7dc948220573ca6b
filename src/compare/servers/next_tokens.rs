//! The likeliest next tokens, in the shapes in which servers tell them.

use std::cmp::Ordering;

use serde_json::Value;

use super::NextTokens;
use crate::compare::client::{HttpClient, items, number, text};
use crate::compare::{Failure, FailureKind};

/// The server tells no log-probabilities.
pub(super) fn unsupported(server: &str) -> Failure {
    Failure::of(
        FailureKind::Unsupported,
        format!("{server} tells no log-probabilities of tokens"),
    )
}

/// From a list of objects with `token` and `logprob`: llama-server, `mlx_lm.server`, Ollama.
pub(super) fn from_entries(entries: &[Value]) -> Result<NextTokens, Failure> {
    let token = |entry: &Value| {
        let incomplete = || {
            Failure::of(
                FailureKind::Malformed,
                format!("the server's token is none with a log-probability: {entry}"),
            )
        };
        let name = text(entry, "token")?.ok_or_else(incomplete)?;
        Ok((name.to_owned(), number(entry, "logprob")?.ok_or_else(incomplete)?))
    };
    sorted(entries.iter().map(token).collect::<Result<_, Failure>>()?)
}

/// From OpenAI's completion: the first token's object of texts and log-probabilities.
///
/// # Errors
/// The answer tells none.
pub(super) fn from_completion(answer: &Value, server: &str) -> Result<NextTokens, Failure> {
    let choice = items(answer, "choices")?.first();
    let logprobs = choice.and_then(|choice| choice.get("logprobs")).unwrap_or(&Value::Null);
    let tops = items(logprobs, "top_logprobs")?;
    let Some(first) = tops.first().and_then(Value::as_object) else {
        return Err(unsupported(server));
    };
    let token = |(name, value): (&String, &Value)| {
        value.as_f64().map(|value| (name.clone(), value)).ok_or_else(|| {
            Failure::of(
                FailureKind::Malformed,
                format!("the server's log-probability of `{name}` is no number: {value}"),
            )
        })
    };
    sorted(first.iter().map(token).collect::<Result<_, Failure>>()?)
}

/// Asks for one token of a completion (<https://platform.openai.com/docs/api-reference/completions>).
pub(super) fn ask_completion(
    client: &HttpClient,
    model: Option<&str>,
    prompt: &str,
    count: usize,
    seconds: f64,
) -> Result<Value, Failure> {
    let mut body = serde_json::json!({
        "prompt": prompt,
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": count,
    });
    if let Some(model) = model {
        body["model"] = model.into();
    }
    client.request("/v1/completions", Some(&body), seconds)?.json()
}

/// The likeliest first; of equally likely ones, by their text.
fn sorted(mut tokens: Vec<(String, f64)>) -> Result<NextTokens, Failure> {
    if tokens.is_empty() {
        return Err(Failure::of(FailureKind::Empty, "the server tells no next token"));
    }
    tokens.sort_by(|(left_text, left), (right_text, right)| match right.total_cmp(left) {
        Ordering::Equal => left_text.cmp(right_text),
        order => order,
    });
    Ok(NextTokens { tokens })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{from_completion, from_entries};
    use crate::compare::FailureKind;

    #[test]
    fn the_likeliest_comes_first_whatever_the_order() {
        let entries = [
            json!({ "token": " a", "logprob": -3.0 }),
            json!({ "token": " Paris", "logprob": -0.25 }),
            json!({ "token": " the", "logprob": -3.0 }),
        ];
        let tokens = from_entries(&entries).unwrap().tokens;
        assert_eq!(
            tokens.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>(),
            [" Paris", " a", " the"]
        );
    }

    #[test]
    fn a_completion_without_log_probabilities_is_unsupported() {
        let answer = json!({ "choices": [{ "text": " Paris", "logprobs": null }] });
        assert_eq!(
            from_completion(&answer, "it").unwrap_err().kind,
            FailureKind::Unsupported
        );
    }

    #[test]
    fn a_token_without_a_number_is_malformed() {
        let entries = [json!({ "token": " a", "prob": 0.5 })];
        assert_eq!(from_entries(&entries).unwrap_err().kind, FailureKind::Malformed);
        let answer = json!({ "choices": [{ "logprobs": { "top_logprobs": [{ " a": "x" }] } }] });
        assert_eq!(from_completion(&answer, "it").unwrap_err().kind, FailureKind::Malformed);
    }
}
