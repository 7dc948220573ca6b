//! `GET /health`: whether requests are taken.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde_json::json;

use super::api_error::{ApiError, json_response};
use super::service::Service;

pub(super) async fn health(State(service): State<Arc<Service>>) -> Result<Response, ApiError> {
    service.check_open()?;
    if !service.model.engine.is_running() {
        return Err(ApiError::engine_stopped());
    }
    Ok(json_response(&json!({ "status": "ok" })))
}
