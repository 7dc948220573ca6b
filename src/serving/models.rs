//! `GET /v1/models`: the model, and with each adapter as a model of its own.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use serde_json::{Value, json};

use super::api_error::{ApiError, json_response};
use super::service::Service;

fn described(service: &Service, id: &str) -> Value {
    let base = &service.settings.model_id;
    json!({
        "id": id,
        "object": "model",
        "created": service.started,
        "owned_by": "mlx-diagnose",
        // Of other servers with adapters; OpenAI's has none.
        "parent": (id != base).then_some(base),
        "max_model_len": service.model.engine.request_limits().context,
    })
}

pub(super) async fn list(State(service): State<Arc<Service>>) -> Response {
    let models: Vec<Value> = service.model_ids().map(|id| described(&service, id)).collect();
    json_response(&json!({ "object": "list", "data": models }))
}

/// One of them. An id may have slashes.
pub(super) async fn one(State(service): State<Arc<Service>>, Path(id): Path<String>) -> Result<Response, ApiError> {
    service.adapter_of(Some(&id))?;
    Ok(json_response(&described(&service, &id)))
}
