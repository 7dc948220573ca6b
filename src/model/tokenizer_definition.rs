//! What is looked at in a `tokenizer.json` before the tokenizers library reads it, which panics where these parts are broken.

use serde::Deserialize;
use serde::de::Error;
use serde_json::Value;
use tokenizers::normalizers::Precompiled;

/// The kind of normalizer whose table the library takes for whole.
const PRECOMPILED: &str = "Precompiled";

/// The parts; `serde` passes over the others, the vocabulary among them.
#[derive(Deserialize)]
struct FragileParts {
    #[serde(default)]
    normalizer: Value,
    /// Read as a value, which finds what is no JSON.
    #[serde(default, rename = "decoder")]
    _decoder: Value,
}

/// # Errors
/// The definition is no JSON, or has a table of characters that is none.
pub(super) fn check(definition: &[u8]) -> Result<(), serde_json::Error> {
    let parts: FragileParts = serde_json::from_slice(definition)?;
    check_normalizer(&parts.normalizer)
}

fn check_normalizer(normalizer: &Value) -> Result<(), serde_json::Error> {
    if normalizer.get("type").and_then(Value::as_str) == Some(PRECOMPILED) {
        // As text, which is how the library reads it.
        serde_json::from_str::<Precompiled>(&normalizer.to_string())
            .map_err(|error| Error::custom(format!("a normalizer `{PRECOMPILED}` that is none: {error}")))?;
    }
    let inner = normalizer.get("normalizers").and_then(Value::as_array);
    inner.into_iter().flatten().try_for_each(check_normalizer)
}
