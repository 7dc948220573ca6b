//! Which request goes where, and which goes nowhere.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use super::api_error::ApiError;
use super::service::Service;
use super::{chat_completions, completions, health, metrics, models};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const MODELS: &str = "/v1/models";
const MODEL: &str = "/v1/models/{*id}";
const HEALTH: &str = "/health";
const METRICS: &str = "/metrics";

/// The places of a server, each behind the same guard.
pub(super) fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route(CHAT, post(chat_completions::create))
        .route(COMPLETIONS, post(completions::create))
        .route(MODELS, get(models::list))
        .route(MODEL, get(models::one))
        .route(HEALTH, get(health::health))
        .route(METRICS, get(metrics::metrics))
        .fallback(nowhere)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(Arc::clone(&service), guard))
        .with_state(service)
}

async fn nowhere(request: Request<Body>) -> ApiError {
    ApiError::no_such_place(request.uri().path())
}

async fn wrong_method(request: Request<Body>) -> ApiError {
    ApiError::wrong_method(request.method().as_str(), request.uri().path())
}

/// The name of a place for the counts, of which there must not be one for every path that somebody tries.
fn place(path: &str) -> &'static str {
    let places = [CHAT, COMPLETIONS, MODELS, HEALTH, METRICS];
    let is_model = || path.strip_prefix(MODELS).is_some_and(|rest| rest.starts_with('/'));
    match places.into_iter().find(|place| *place == path) {
        Some(place) => place,
        None if is_model() => MODEL,
        None => "other",
    }
}

async fn guard(State(service): State<Arc<Service>>, request: Request<Body>, next: Next) -> Response {
    let place = place(request.uri().path());
    let response = match check(&service, &request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    service.responses.add(place, response.status().as_u16());
    response
}

fn check(service: &Service, request: &Request<Body>) -> Result<(), ApiError> {
    if request.uri().path() == HEALTH {
        return Ok(());
    }
    let header = |name| request.headers().get(name).map(header::HeaderValue::as_bytes);
    match &service.settings.api_key {
        Some(key) if header(header::AUTHORIZATION).is_some_and(|given| key.is_in(given)) => Ok(()),
        Some(_) => Err(ApiError::unauthorized()),
        None => match header(header::HOST).map(String::from_utf8_lossy) {
            Some(host) if !is_this_machine(&host) => Err(ApiError::foreign_host(&host)),
            _ => Ok(()),
        },
    }
}

/// Whether a host is an address or `localhost`, which nobody else's name server can make up.
fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}
