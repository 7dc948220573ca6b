//! The body of a request, within its bounds.

use axum::body::Body;
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use serde_json::Value;

use super::ServerSettings;
use super::api_error::ApiError;

/// Bytes that are read and thrown away behind a body that is too large. A client that is still sending when the connection
/// closes would not see the answer.
const READ_PAST: u64 = 64 << 20;

/// Reads a body that is declared as JSON.
///
/// A page of another site can make a browser send a body, but not one that is declared as JSON.
///
/// # Errors
/// It is declared as something else, encoded, too large, too slow, or breaks off.
pub(super) async fn read(headers: &HeaderMap, body: Body, settings: &ServerSettings) -> Result<Vec<u8>, ApiError> {
    let declared = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = declared.map(|declared| declared.split(';').next().unwrap_or(declared).trim());
    if !essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/json")) {
        return Err(ApiError::not_json());
    }
    if let Some(encoding) = headers
        .get(header::CONTENT_ENCODING)
        .filter(|encoding| *encoding != "identity")
    {
        return Err(ApiError::encoded(&String::from_utf8_lossy(encoding.as_bytes())));
    }
    let read = tokio::time::timeout(settings.read_time, read_within(body, settings.body_bytes));
    let too_slow = |_| ApiError::body_too_slow(settings.read_time.as_secs());
    read.await.map_err(too_slow)?
}

async fn read_within(mut body: Body, limit: usize) -> Result<Vec<u8>, ApiError> {
    let too_large = || ApiError::body_too_large(limit);
    // Nothing of it is asked for then.
    if body.size_hint().lower() > READ_PAST {
        return Err(too_large());
    }
    let (mut bytes, mut seen) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::request(format!("the body broke off: {error}")))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        seen += data.len() as u64;
        if seen > READ_PAST {
            return Err(too_large());
        }
        if seen <= limit as u64 {
            bytes.extend_from_slice(&data);
        } else {
            bytes = Vec::new();
        }
    }
    if seen > limit as u64 {
        return Err(too_large());
    }
    Ok(bytes)
}

/// # Errors
/// The body is no JSON, or nested more than 128 deep.
pub(super) fn parse(body: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::request(format!("the body is not JSON: {error}")))
}
