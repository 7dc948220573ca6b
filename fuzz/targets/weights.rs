//! Files of weights.

use std::collections::BTreeMap;

use mlx_diagnose::model::{
    ModelFiles, ModelSource, Precision, StoredShape, dequantize, load_npz, load_safetensors, load_torch, stored_shapes,
};
use mlx_rs::{Array, Dtype};

use super::Verdict;
use super::scratch::file;

/// The header, by which shapes are told, and MLX, which reads the values, must agree.
pub(super) fn safetensors(bytes: &[u8]) -> Verdict {
    let (_folder, path) = file("model.safetensors", bytes);
    let told = stored_shapes(&path);
    let loaded = load_safetensors(&path);
    if let (Ok(told), Ok(loaded)) = (&told, &loaded) {
        assert_eq!(shapes(loaded), told.iter().map(shape).collect::<Vec<_>>());
    }
    assert!(told.is_ok() || loaded.is_err(), "values without a header");
    Verdict::of(loaded)
}

fn shapes(tensors: &BTreeMap<String, Array>) -> Vec<(&str, Vec<usize>)> {
    let sizes = |array: &Array| array.shape().iter().map(|&size| size as usize).collect();
    tensors
        .iter()
        .map(|(name, array)| (name.as_str(), sizes(array)))
        .collect()
}

fn shape<'told>((name, stored): (&'told String, &StoredShape)) -> (&'told str, Vec<usize>) {
    (name, stored.shape.clone())
}

pub(super) fn npz(bytes: &[u8]) -> Verdict {
    let (_folder, path) = file("weights.npz", bytes);
    Verdict::of(load_npz(&path))
}

pub(super) fn torch(bytes: &[u8]) -> Verdict {
    let (_folder, path) = file("pytorch_model.bin", bytes);
    Verdict::of(load_torch(&path))
}

/// Header, tensors, configuration, tokenizer and model, each as far as the file has it.
pub(super) fn gguf(bytes: &[u8]) -> Verdict {
    let (_folder, path) = file("model.gguf", bytes);
    let files = match ModelSource::Gguf(path).open() {
        Ok(files) => files,
        refused @ Err(_) => return Verdict::of(refused),
    };
    let ModelFiles::Gguf(header) = &files else {
        unreachable!("a GGUF file opens as one")
    };
    for tensor in &header.tensors {
        let bytes = header
            .tensor_bytes(tensor)
            .expect("the header was checked against the file");
        let values = dequantize(tensor.tensor_type, &bytes).expect("the header was checked");
        assert_eq!(values.len(), tensor.values(), "{}", tensor.name);
    }
    let tokenizer = Verdict::of(files.tokenizer());
    let model = match files.configuration() {
        Ok(configuration) => {
            let precision = Precision {
                dtype: Dtype::Float32,
                keep_packed: true,
            };
            Verdict::of(files.load(configuration, precision))
        }
        refused => Verdict::of(refused),
    };
    model.or(tokenizer)
}
