//! The golden files of `fixtures/golden`, made by other programs.

use std::path::{Path, PathBuf};

use mlx_diagnose::model::Precision;
use mlx_rs::{Array, Dtype};
use serde_json::Value;

use super::skip;

/// Everything in f32, as the golden files were computed.
pub const EXACT_PRECISION: Precision = Precision {
    dtype: Dtype::Float32,
    keep_packed: false,
};

/// Packed weights stay packed.
pub const PACKED_PRECISION: Precision = Precision {
    dtype: Dtype::Float32,
    keep_packed: true,
};

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The folder of a tiny model.
pub fn tiny(name: &str) -> PathBuf {
    root().join("fixtures/golden/tiny").join(name)
}

pub fn golden(path: &str) -> Value {
    let path = root().join("fixtures/golden").join(path);
    serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap()
}

/// All numbers in `value`, in order.
pub fn floats(value: &Value) -> Vec<f32> {
    match value {
        Value::Array(values) => values.iter().flat_map(floats).collect(),
        number => vec![number.as_f64().unwrap() as f32],
    }
}

pub fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| u32::try_from(id.as_u64().unwrap()).unwrap())
        .collect()
}

/// Token ids as one row `[1, tokens]`.
pub fn row(ids: &[u32]) -> Array {
    let ids: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
    Array::from_slice(&ids, &[1, ids.len() as i32])
}

pub fn largest_difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found
        .iter()
        .zip(expected)
        .map(|(found, expected)| (found - expected).abs())
        .fold(0.0, f32::max)
}

/// A path of the repository without the place of the repository.
pub fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// The real model, where it was fetched.
pub fn smollm2() -> Option<PathBuf> {
    let path = root().join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    if path.is_file() {
        return Some(path);
    }
    skip::because(&format!("{} is absent; scripts/fetch-smollm2 fetches it", shown(&path)));
    None
}
