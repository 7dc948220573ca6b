//! Refusals, as OpenAI's interface words them.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::engine::{AnswerError, Refusal, SubmitError};
use crate::suggestion::closest;

/// Seconds after which a client that was turned away may come again: about an answer's time.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Why a request gets no answer.
#[derive(Debug, Clone)]
pub(super) struct ApiError {
    status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
    param: Option<String>,
    message: String,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            code: None,
            param: None,
            message: message.into(),
        }
    }

    fn coded(self, code: &'static str) -> Self {
        Self {
            code: Some(code),
            ..self
        }
    }

    /// The request is wrong as a whole.
    pub(super) fn request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// One field of the request is wrong.
    pub(super) fn field(name: impl Into<String>, found: &str, expected: &str) -> Self {
        let name = name.into();
        Self {
            param: Some(name.clone()),
            ..Self::request(format!("`{name}` cannot be used: found {found}, expected {expected}"))
        }
        .coded("invalid_value")
    }

    /// A field that this server does not know.
    pub(super) fn unknown_field(name: &str, known: &[&str]) -> Self {
        let hint = closest(name, known.iter().copied());
        let hint = hint.map_or_else(String::new, |hint| format!("; did you mean `{hint}`?"));
        Self {
            param: Some(name.to_owned()),
            ..Self::request(format!("`{name}` is not known here{hint}"))
        }
        .coded("unknown_parameter")
    }

    /// A field of OpenAI's whose effect this server cannot give.
    pub(super) fn unsupported(name: &str, supported: &str) -> Self {
        Self {
            param: Some(name.to_owned()),
            ..Self::request(format!(
                "`{name}` is not supported by this server: leave it out, or give {supported}"
            ))
        }
        .coded("unsupported_parameter")
    }

    /// Prompt and answer do not fit.
    pub(super) fn context_length(param: &str, message: impl Into<String>) -> Self {
        Self {
            param: Some(param.to_owned()),
            ..Self::request(message)
        }
        .coded("context_length_exceeded")
    }

    /// The model is none of those served.
    pub(super) fn unknown_model<'a>(name: &str, served: impl Iterator<Item = &'a str> + Clone) -> Self {
        let hint = closest(name, served.clone()).map_or_else(
            || format!("; there are: {}", served.collect::<Vec<_>>().join(", ")),
            |hint| format!("; did you mean `{hint}`?"),
        );
        Self {
            param: Some("model".to_owned()),
            ..Self::new(
                StatusCode::NOT_FOUND,
                "invalid_request_error",
                format!("the model `{name}` does not exist{hint}"),
            )
        }
        .coded("model_not_found")
    }

    pub(super) fn no_such_place(path: &str) -> Self {
        let places = "/v1/chat/completions, /v1/completions, /v1/models, /health, /metrics";
        let message = format!("there is nothing at `{path}`; there are: {places}");
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message).coded("unknown_url")
    }

    pub(super) fn wrong_method(method: &str, path: &str) -> Self {
        let message = format!("`{path}` does not take {method}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", message).coded("method_not_supported")
    }

    pub(super) fn not_json() -> Self {
        let message = "the body is not declared as JSON; send the header `Content-Type: application/json`";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", message)
    }

    pub(super) fn encoded(encoding: &str) -> Self {
        let message = format!(
            "the body has the content encoding `{encoding}`, which this server does not read; send it as it is"
        );
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", message)
    }

    pub(super) fn body_too_large(limit: usize) -> Self {
        let message = format!("the body is too large: {limit} bytes are allowed");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", message).coded("request_too_large")
    }

    pub(super) fn body_too_slow(seconds: u64) -> Self {
        let message = format!("the body took longer than {seconds} s");
        Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", message).coded("request_timeout")
    }

    pub(super) fn unauthorized() -> Self {
        let message = "the key is missing or wrong; send the header `Authorization: Bearer KEY`";
        Self::new(StatusCode::UNAUTHORIZED, "invalid_request_error", message).coded("invalid_api_key")
    }

    /// A page of another site may have made a browser ask, with a name of its own for this machine.
    pub(super) fn foreign_host(host: &str) -> Self {
        let message =
            format!("a server without a key answers to `localhost` and to addresses, not to the host `{host}`");
        Self::new(StatusCode::FORBIDDEN, "invalid_request_error", message).coded("host_not_allowed")
    }

    pub(super) fn busy(waiting: usize) -> Self {
        let message = format!("{waiting} requests wait already; ask again later");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message).coded("rate_limit_exceeded")
    }

    pub(super) fn stopping() -> Self {
        let message = "the server is shutting down";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", message).coded("shutting_down")
    }

    /// Nothing is answered any more; whoever watches the server starts it again.
    pub(super) fn engine_stopped() -> Self {
        let message = "the engine has stopped, and the server has to be started again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", message).coded("engine_stopped")
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// As it stands in a body or an event.
    pub(super) fn to_json(&self) -> Value {
        json!({ "error": { "message": self.message, "type": self.kind, "param": self.param, "code": self.code } })
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Invalid(invalid) => {
                let param = invalid.problems.iter().next().map(|problem| problem.location.clone());
                let problems: Vec<String> = invalid.problems.iter().map(ToString::to_string).collect();
                Self {
                    param,
                    ..Self::request(problems.join("; "))
                }
                .coded("invalid_value")
            }
            SubmitError::Refused(Refusal::QueueFull { waiting }) => Self::busy(waiting),
            SubmitError::Refused(Refusal::NeverFits { needed, available }) => Self::context_length(
                "max_tokens",
                format!("prompt and answer may take {needed} tokens together, and the server has room for {available}"),
            ),
            SubmitError::Stopped => Self::engine_stopped(),
            error => Self::internal(error.to_string()),
        }
    }
}

impl From<AnswerError> for ApiError {
    fn from(error: AnswerError) -> Self {
        match error {
            AnswerError::Stopped => Self::engine_stopped(),
            error => Self::internal(error.to_string()),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = json_response(&self.to_json());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        match self.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, RETRY_AFTER);
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => (),
        }
        response
    }
}

/// A JSON document with status 200.
pub(super) fn json_response(value: &Value) -> Response {
    let mut response = Response::new(Body::from(value.to_string()));
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
