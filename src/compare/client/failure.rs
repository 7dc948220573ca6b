//! How what goes wrong with a server is worded.

use serde_json::Value;

use crate::compare::{Failure, FailureKind};
use crate::excerpt::beginning;

impl Failure {
    /// One without a hint.
    pub(in crate::compare) fn of(kind: FailureKind, reason: impl Into<String>) -> Self {
        Self {
            kind,
            reason: reason.into(),
            hint: None,
        }
    }

    /// The same with what may help.
    #[must_use]
    pub(in crate::compare) fn with_hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// The user ended it.
    pub(in crate::compare) fn interrupted() -> Self {
        Self::of(FailureKind::Interrupted, "the user ended it")
    }
}

/// What a status that is none of success means.
pub(super) fn of_status(status: u16, body: &[u8]) -> Failure {
    let detail = error_message(body);
    match status {
        401 | 403 => Failure::of(
            FailureKind::Refused,
            format!("the server refused with status {status}: {detail}"),
        )
        .with_hint("name the variable that holds the key to the server in `api-key-variable`"),
        400..=499 => Failure::of(
            FailureKind::Refused,
            format!("the server refused with status {status}: {detail}"),
        ),
        500.. => Failure::of(
            FailureKind::ServerError,
            format!("the server failed with status {status}: {detail}"),
        )
        .with_hint("look into the server's own log"),
        _ => Failure::of(
            FailureKind::Malformed,
            format!("the server answered with status {status}, which is neither a success nor a refusal: {detail}"),
        ),
    }
}

/// What a body says of an error: the message of a JSON object where there is one, else its beginning.
fn error_message(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let told = serde_json::from_str(&text).ok();
    let told = told.as_ref().and_then(error_of).map(|message| beginning(&message));
    told.unwrap_or_else(|| beginning(&text))
}

/// The error that a JSON object tells, in any of the ways of OpenAI, llama.cpp, LM Studio, Ollama and `FastAPI`.
pub(in crate::compare) fn error_of(value: &Value) -> Option<String> {
    let error = ["error", "detail"].into_iter().find_map(|name| value.get(name));
    let error = error.filter(|error| !error.is_null())?;
    let message = error.get("message").unwrap_or(error);
    Some(message.as_str().map_or_else(|| message.to_string(), str::to_owned))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{error_message, of_status};
    use crate::compare::{ConfiguredPlan, FailureKind};

    #[test]
    fn the_message_of_every_servers_errors_is_found() {
        let bodies = [
            (r#"{"error":{"code":503,"message":"Loading model"}}"#, "Loading model"),
            (r#"{"error":"model not found"}"#, "model not found"),
            (r#"{"detail":"no such route"}"#, "no such route"),
            ("<html>\n  Bad  gateway</html>", "<html> Bad gateway</html>"),
            ("", "nothing"),
        ];
        for (body, message) in bodies {
            assert_eq!(error_message(body.as_bytes()), message);
        }
    }

    #[test]
    fn a_missing_key_is_met_with_the_key_that_configurations_have() {
        let hint = of_status(401, b"{}").hint.unwrap();
        let key = hint.split('`').nth(1).unwrap();
        let text = format!(
            "pairs: [{{name: a, gguf: {{server: ollama, model: m, {key}: KEY}}, mlx: {{server: ollama, model: m}}}}]"
        );
        let plan = ConfiguredPlan::parse(&text, Path::new("")).unwrap().plan;
        assert_eq!(plan.pairs[0].gguf.api_key_variable.as_deref(), Some("KEY"));
    }

    #[test]
    fn each_status_is_its_own_kind_of_failure() {
        let kinds = [
            (307, FailureKind::Malformed),
            (401, FailureKind::Refused),
            (404, FailureKind::Refused),
            (500, FailureKind::ServerError),
            (503, FailureKind::ServerError),
        ];
        for (status, kind) in kinds {
            assert_eq!(of_status(status, b"{}").kind, kind, "{status}");
        }
    }
}
