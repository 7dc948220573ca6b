//! Weights that another library packed, by the settings and the tensors that it leaves in a folder.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use thiserror::Error;

use super::configuration::read_object;
use super::weight_file::stored_shapes;
use crate::shell_word::quoted;

/// Libraries whose packing is known by its tensors, with the endings of their names; the first that fits counts.
const TENSOR_ENDINGS: [(&str, &[&str]); 6] = [
    (
        "bitsandbytes",
        &[
            ".absmax",
            ".nested_absmax",
            ".quant_map",
            ".quant_state.bitsandbytes__nf4",
            ".quant_state.bitsandbytes__fp4",
            ".SCB",
        ],
    ),
    ("gptq", &[".g_idx"]),
    ("awq", &[".qweight", ".qzeros"]),
    ("compressed-tensors", &[".weight_packed", ".weight_shape"]),
    ("hqq", &[".W_q"]),
    ("fp8", &[".weight_scale_inv"]),
];
/// The settings in a file of their own that NVIDIA's exports have.
const MODELOPT_FILE: &str = "hf_quant_config.json";

/// The weights of a folder are packed in another library's way.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the weights in `{}` are packed by {library}\n  found: {found}\n  expected: plain weights, or MLX's own packing (`mlx_lm.convert -q`)\n  hint: {hint}", folder.display())]
pub struct ForeignPacking {
    /// The folder.
    pub folder: PathBuf,
    /// The library or format as people call it.
    pub library: String,
    /// The setting or the tensor that shows it.
    pub found: String,
    /// The conversion to run.
    pub hint: String,
}

impl ForeignPacking {
    /// The packing of another library in `folder`; `None` when there is none, also where files cannot be read.
    pub fn of_folder(folder: &Path) -> Option<Self> {
        let configuration = read_object(&folder.join("config.json")).ok();
        let (method, found) = configuration
            .as_ref()
            .and_then(declared)
            .or_else(|| {
                let exported = read_object(&folder.join(MODELOPT_FILE)).ok()?;
                let method = exported.get("quantization")?.get("quant_algo")?;
                Some((
                    "modelopt".to_owned(),
                    format!("`quant_algo` {method} in {MODELOPT_FILE}"),
                ))
            })
            .or_else(|| by_tensors(folder))?;
        let original = configuration
            .as_ref()
            .and_then(|object| object.get("_name_or_path")?.as_str())
            .filter(|name| !name.is_empty());
        Some(Self {
            folder: folder.to_owned(),
            library: in_words(&method).to_owned(),
            found,
            hint: conversion(&method, folder, original),
        })
    }
}

/// The method that `quantization_config` names, and where; MLX's own `quantization` comes first, as in mlx-lm.
fn declared(configuration: &Map<String, Value>) -> Option<(String, String)> {
    let packs = |object: &Map<String, Value>| object.get("quantization").is_some_and(Value::is_object);
    let nested = configuration.get("text_config").and_then(Value::as_object);
    if packs(configuration) || nested.is_some_and(packs) {
        return None;
    }
    let settings = [Some(configuration), nested]
        .into_iter()
        .flatten()
        .find_map(|object| object.get("quantization_config")?.as_object())?;
    if let Some(method) = settings.get("quant_method").and_then(Value::as_str) {
        let method = if method.starts_with("bitsandbytes") {
            "bitsandbytes"
        } else {
            method
        };
        return Some((method.to_owned(), format!("`quant_method` \"{method}\" in config.json")));
    }
    ["load_in_4bit", "load_in_8bit"]
        .into_iter()
        .find(|key| settings.get(*key) == Some(&Value::Bool(true)))
        .map(|key| ("bitsandbytes".to_owned(), format!("`{key}` in config.json")))
}

fn by_tensors(folder: &Path) -> Option<(String, String)> {
    let entries = folder.read_dir().ok()?.flatten().map(|entry| entry.path());
    let files: BTreeSet<PathBuf> = entries
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
        .collect();
    let names: BTreeSet<String> = files
        .iter()
        .filter_map(|path| stored_shapes(path).ok())
        .flat_map(std::collections::BTreeMap::into_keys)
        .collect();
    TENSOR_ENDINGS.iter().find_map(|(method, endings)| {
        let has_ending = |name: &&String| endings.iter().any(|ending| name.ends_with(ending));
        let name = names.iter().find(has_ending)?;
        Some(((*method).to_owned(), format!("the tensor `{name}`")))
    })
}

fn in_words(method: &str) -> &str {
    match method {
        "gptq" => "GPTQ",
        "awq" => "AWQ",
        "hqq" => "HQQ",
        "fp8" | "fbgemm_fp8" | "finegrained_fp8" => "an FP8 quantiser",
        "modelopt" => "NVIDIA ModelOpt",
        "mxfp4" => "an MXFP4 quantiser",
        other => other,
    }
}

/// What to run.
///
/// mlx-lm 0.32 itself reads some of these packings and writes them as MLX has them (GPTQ's `g_idx` it refuses), and
/// transformers 5 dequantises those of bitsandbytes alone.
fn conversion(method: &str, folder: &Path, original: Option<&str>) -> String {
    let source = quoted(&folder.display().to_string());
    let sibling = |ending: &str| {
        quoted(&format!(
            "{}-{ending}",
            folder.display().to_string().trim_end_matches('/')
        ))
    };
    let (plain, converted) = (sibling("plain"), sibling("mlx"));
    let dequantize = format!(
        "python3 -c \"import sys; from transformers import AutoModelForCausalLM, AutoTokenizer; \
         AutoModelForCausalLM.from_pretrained(sys.argv[1]).dequantize().save_pretrained(sys.argv[2]); \
         AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])\" {source} {plain} && \
         mlx_lm.convert --hf-path {plain} --mlx-path {converted} -q"
    );
    let from_original = match original {
        Some(name) => format!(
            "`mlx_lm.convert --hf-path {} --mlx-path {converted} -q` if that is the unpacked original",
            quoted(name)
        ),
        None => format!("`mlx_lm.convert --hf-path ORIGINAL --mlx-path {converted} -q` with the unpacked original"),
    };
    let direct = format!("`mlx_lm.convert --hf-path {source} --mlx-path {converted}`");
    match method {
        "bitsandbytes" => {
            format!("run {from_original}, or dequantise this one where bitsandbytes is installed: `{dequantize}`")
        }
        "awq" | "compressed-tensors" | "modelopt" | "mxfp4" | "mxfp8" | "bitnet" => {
            format!("run {direct}; where mlx-lm refuses the format, run {from_original}")
        }
        _ => format!("run {from_original}: mlx-lm does not read this packing"),
    }
}
