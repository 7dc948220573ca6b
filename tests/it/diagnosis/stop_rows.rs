//! The output rows of stop tokens, against norms and cosines made from the files by hand.

use std::fs;
use std::path::Path;

use mlx_diagnose::evidence::StopRow;
use mlx_diagnose::model::{
    ModelSource, Packing, Precision, StopSet, Tokenizer, load_safetensors, pack_folder, save_safetensors,
};
use mlx_diagnose::probes::stop_rows::measure;
use mlx_rs::ops::dequantize;
use mlx_rs::{Array, Dtype};
use rstest::rstest;
use serde_json::Value;

use crate::support::golden::{EXACT_PRECISION, PACKED_PRECISION, root};

const FOUR_BITS: Packing = Packing::affine(64, 4);
/// Rounding of norms and cosines in f32.
const ROUNDING: f64 = 1e-5;

fn rows(matrix: &Array) -> Vec<Vec<f64>> {
    let values: Vec<f32> = matrix.as_dtype(Dtype::Float32).unwrap().to_vec_exact().unwrap();
    values
        .chunks(matrix.dim(1) as usize)
        .map(|row| row.iter().map(|&value| f64::from(value)).collect())
        .collect()
}

fn product(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}

fn norm(row: &[f64]) -> f64 {
    product(row, row).sqrt()
}

/// The ids and texts of the tokens that `tokenizer.json` adds.
fn added_tokens(folder: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(folder.join("tokenizer.json")).unwrap();
    let definition: Value = serde_json::from_str(&text).unwrap();
    let tokens = definition["added_tokens"].as_array().unwrap();
    tokens
        .iter()
        .map(|token| {
            let id = usize::try_from(token["id"].as_u64().unwrap()).unwrap();
            (id, token["content"].as_str().unwrap().to_owned())
        })
        .collect()
}

fn measured(folder: &Path, precision: Precision) -> Vec<StopRow> {
    let tokenizer = Tokenizer::from_folder(folder).unwrap();
    let stop_set = StopSet::of(&tokenizer).unwrap();
    let model = ModelSource::Folder(folder.to_owned()).load(precision).unwrap().model;
    measure(&model, &stop_set, &tokenizer).unwrap()
}

fn assert_close(found: &[StopRow], output: &Array, folder: &Path) {
    let rows = rows(output);
    let mut norms: Vec<f64> = rows.iter().map(|row| norm(row)).collect();
    norms.sort_by(f64::total_cmp);
    let median = norms[(norms.len() - 1) / 2];
    assert!(!found.is_empty());
    for stop in found {
        let row = &rows[stop.id as usize];
        assert!((stop.norm_ratio - norm(row) / median).abs() < ROUNDING, "{stop:?}");
        let (cosine, nearest) = added_tokens(folder)
            .into_iter()
            .filter(|(id, _)| found.iter().all(|stop| stop.id as usize != *id))
            .map(|(id, text)| (product(row, &rows[id]) / (norm(row) * norm(&rows[id])), text))
            .max_by(|left, right| left.0.total_cmp(&right.0))
            .unwrap();
        assert_eq!(stop.nearest.as_ref(), Some(&nearest));
        assert!((stop.cosine.unwrap() - cosine).abs() < ROUNDING, "{stop:?}");
    }
}

#[rstest]
#[case::of_the_embedding_where_it_is_tied("fixtures/embedded/model", "model.embed_tokens.weight")]
#[case::its_own_where_it_is_not("fixtures/selftest/qwen3", "lm_head.weight")]
fn rows_of_the_output_layer_are(#[case] folder: &str, #[case] weight: &str) {
    let folder = root().join(folder);
    let weights = load_safetensors(&folder.join("model.safetensors")).unwrap();
    let found = measured(&folder, EXACT_PRECISION);
    assert_close(&found, &weights[weight], &folder);
}

#[test]
fn packed_rows_are_compared_in_plain_form() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("packed");
    pack_folder(&root().join("fixtures/selftest/qwen3"), &folder, FOUR_BITS).unwrap();
    let weights = load_safetensors(&folder.join("model.safetensors")).unwrap();
    let [scales, biases] =
        ["lm_head.scales", "lm_head.biases"].map(|name| weights[name].as_dtype(Dtype::Float32).unwrap());
    let plain = dequantize(
        &weights["lm_head.weight"],
        scales,
        &biases,
        FOUR_BITS.group_size,
        FOUR_BITS.bits,
    );
    assert_close(&measured(&folder, PACKED_PRECISION), &plain.unwrap(), &folder);
}

#[test]
fn a_matrix_of_zeros_has_no_row_to_compare_with() {
    let source = root().join("fixtures/embedded/model");
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(&source).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let path = folder.path().join("model.safetensors");
    let mut weights = load_safetensors(&path).unwrap();
    let embedding = weights.get_mut("model.embed_tokens.weight").unwrap();
    *embedding = mlx_rs::ops::zeros_like(&*embedding).unwrap();
    save_safetensors(&weights, None, &path).unwrap();
    assert_eq!(measured(folder.path(), EXACT_PRECISION), []);
}
