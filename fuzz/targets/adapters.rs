//! The configurations of adapters, beside tensors that are whole.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use mlx_diagnose::adapter::{Places, StoredAdapter, TargetFormat, convert, load_adapter};
use mlx_diagnose::model::{CausalModel, ModelSource, Precision, load_safetensors, save_safetensors};
use mlx_rs::Dtype;
use tempfile::TempDir;

use super::Verdict;
use super::scratch::{fixture, fixture_bytes, folder};

thread_local! {
    static MODEL: OnceCell<CausalModel> = const { OnceCell::new() };
    static PEFT_TENSORS: OnceCell<Vec<u8>> = const { OnceCell::new() };
}

fn model() -> CausalModel {
    let precision = Precision {
        dtype: Dtype::Float32,
        keep_packed: false,
    };
    let source = ModelSource::Folder(fixture("golden/tiny/llama"));
    source.load(precision).expect("the tiny model").model
}

/// What is stored, and what becomes of it on a model.
fn judged(folder: &TempDir) -> Verdict {
    let adapter = match StoredAdapter::read(folder.path()) {
        Ok(adapter) => adapter,
        refused @ Err(_) => return Verdict::of(refused),
    };
    let places = MODEL.with(|base| Places::of(base.get_or_init(model)));
    let application = adapter.application_to(&places);
    let faults = adapter.faults(&application);
    if faults.is_empty() {
        Verdict::Accepted
    } else {
        Verdict::Refused(faults.join("\n"))
    }
}

/// As a finished adapter, and as one of our own.
pub(super) fn mlx_lm(bytes: &[u8]) -> Verdict {
    let tensors = fixture_bytes("golden/tiny/llama/adapter-last-block/adapters.safetensors");
    let folder = folder(&[("adapter_config.json", bytes), ("adapters.safetensors", &tensors)]);
    let ours = load_adapter(&mut model(), folder.path());
    Verdict::of(ours).or(judged(&folder))
}

pub(super) fn peft(bytes: &[u8]) -> Verdict {
    let tensors = PEFT_TENSORS.with(|tensors| tensors.get_or_init(peft_tensors).clone());
    judged(&folder(&[
        ("adapter_config.json", bytes),
        ("adapter_model.safetensors", &tensors),
    ]))
}

/// The tensors, beside the configurations of both programs, and what they are converted to.
pub(super) fn tensors(bytes: &[u8]) -> Verdict {
    let ours = fixture_bytes("golden/tiny/llama/adapter-last-block/adapter_config.json");
    let verdicts = [
        ("adapters.safetensors", ours.as_slice()),
        ("adapter_model.safetensors", PEFT_CONFIGURATION),
    ]
    .map(|(name, configuration)| {
        let folder = folder(&[("adapter_config.json", configuration), (name, bytes)]);
        if let Ok(adapter) = StoredAdapter::read(folder.path()) {
            for (format, name) in [(TargetFormat::MlxLm, "mlx-lm"), (TargetFormat::Peft, "peft")] {
                // What cannot be converted is told; that it is told without a panic is all that is asked.
                let _ = convert(&adapter, format, Some(2), &folder.path().join(name));
            }
        }
        judged(&folder)
    });
    let [ours, peft] = verdicts;
    ours.or(peft)
}

/// What PEFT writes for the tiny adapter.
const PEFT_CONFIGURATION: &[u8] =
    br#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]}"#;

/// The tensors of the tiny adapter in PEFT's names and shapes.
fn peft_tensors() -> Vec<u8> {
    let path = fixture("golden/tiny/llama/adapter-last-block/adapters.safetensors");
    let stored = load_safetensors(&path).expect("the tiny adapter");
    let renamed: BTreeMap<_, _> = stored
        .iter()
        .map(|(name, tensor)| {
            let name = name
                .replace(".lora_a", ".lora_A.weight")
                .replace(".lora_b", ".lora_B.weight");
            let tensor = tensor.t().contiguous().expect("a turned matrix");
            (format!("base_model.model.{name}"), tensor)
        })
        .collect();
    let folder = folder(&[]);
    let path = folder.path().join("adapter_model.safetensors");
    save_safetensors(&renamed, None, &path).expect("a temporary file");
    std::fs::read(path).expect("a temporary file")
}
