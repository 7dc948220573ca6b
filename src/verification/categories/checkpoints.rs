use std::collections::BTreeMap;
use std::path::Path;

use mlx_rs::module::ModuleParameters;
use mlx_rs::ops::zeros;
use mlx_rs::{Array, Dtype};

use super::super::check::{Check, CheckResult, NotPassed, failed, passed};
use super::super::golden_files::GoldenModel;
use super::super::session::{EXACT, Session};
use super::gradients::move_adapters;
use crate::adapter::{LoraSettings, attach, load_adapter, save_adapter};
use crate::checks::{file_is_covered, survives_saving};
use crate::double_precision::values;
use crate::model::{CausalModel, ModelSource, load_safetensors, save_safetensors, write_plain_folder};
use crate::readback::vector;
use crate::train::{DecayScope, OptimizerSettings};

pub(in super::super) const CHECKS: &[Check] = &[
    Check::once("every element type keeps its bits in a file", element_types),
    Check::for_each_model("a model written and loaded again", model),
    Check::once("every tensor of the carried model has its parameter", covered),
    Check::once("an adapter written and loaded again", adapter),
    Check::once("optimizers go on from what they stored", optimizers),
];

/// Bits that a program which reads numbers instead of bits would change: not a number, infinities, zeros, the smallest.
const PATTERNS: [u32; 8] = [
    0x7fc0_0001,
    0xff80_0000,
    0x8000_0000,
    0x0000_0001,
    0x7f7f_ffff,
    0x3f80_0001,
    0x0080_0000,
    0xdead_beef,
];

fn element_types(session: &Session<'_>) -> CheckResult {
    let path = session.folder("element-types.safetensors");
    let whole = Array::from_slice(&PATTERNS, &[PATTERNS.len() as i32]);
    let types = [
        Dtype::Float32,
        Dtype::Float16,
        Dtype::Bfloat16,
        Dtype::Uint32,
        Dtype::Int32,
        Dtype::Uint16,
        Dtype::Uint8,
    ];
    let mut tensors = BTreeMap::new();
    for dtype in types {
        tensors.insert(format!("{dtype:?}"), whole.view_dtype(dtype)?);
    }
    save_safetensors(&tensors, None, &path)?;
    let loaded = load_safetensors(&path)?;
    for (name, tensor) in &tensors {
        let again = loaded.get(name).filter(|again| again.dtype() == tensor.dtype());
        let bits = again
            .map(|again| vector::<u32>(&again.view_dtype(Dtype::Uint32)?))
            .transpose()?;
        if bits.as_deref() != Some(&PATTERNS[..]) {
            return Err(failed(
                format!("{name} is changed by writing and reading"),
                bits.map_or_else(|| "no tensor of this type".to_owned(), |bits| format!("{bits:08x?}")),
                format!("{PATTERNS:08x?}"),
                "no checkpoint of this machine can be trusted: see that disk and memory are sound",
            ));
        }
    }
    passed(format!("{} types", types.len()))
}

fn model(session: &Session<'_>, model: &'static GoldenModel) -> CheckResult {
    let golden = session.golden(model)?;
    let configuration = ModelSource::Folder(golden.folder.clone()).open()?.configuration()?;
    survives_saving(
        &golden.model,
        &[],
        |model, folder| write_plain_folder(model, &configuration, folder).map(drop),
        |folder| {
            ModelSource::Folder(folder.to_owned())
                .load(EXACT)
                .map(|loaded| loaded.model)
        },
    )?;
    passed(format!(
        "{} tensors, bit for bit",
        golden.model.parameters().flatten().len()
    ))
}

fn covered(session: &Session<'_>) -> CheckResult {
    let embedded = session.embedded()?;
    file_is_covered(&embedded.model, &embedded.folder.join("model.safetensors"), &[])?;
    passed("names and shapes of every tensor")
}

/// Into a model whose own adapters are others.
fn adapter(session: &Session<'_>) -> CheckResult {
    let embedded = session.embedded()?;
    let settings = LoraSettings::default();
    let adapted = |seed| -> Result<CausalModel, NotPassed> {
        let mut model = embedded.model.clone();
        attach(&mut model, &settings, seed)?;
        move_adapters(&mut model);
        Ok(model)
    };
    let (saved, mut other) = (adapted(1)?, adapted(2)?);
    survives_saving(
        &saved,
        &["*.lora_a", "*.lora_b"],
        |model, folder: &Path| save_adapter(model, &settings, "embedded", folder).map(drop),
        |folder| load_adapter(&mut other, folder).map(|_| other.clone()),
    )?;
    passed("every matrix, bit for bit")
}

/// Three updates without a stop against one, a file, and two more.
fn optimizers(session: &Session<'_>) -> CheckResult {
    let shapes: [(&str, &[i32]); 2] = [("matrix", &[6, 4]), ("vector", &[5])];
    let drawn = |seed: u32| -> BTreeMap<String, Array> {
        let tensor = |(name, shape): (&str, &[i32])| {
            let count: i32 = shape.iter().product();
            (name.to_owned(), Array::from_slice(&values(count as usize, seed), shape))
        };
        shapes.map(tensor).into_iter().collect()
    };
    for name in OptimizerSettings::NAMES {
        let build = || OptimizerSettings::named(name).map(|settings| settings.build(DecayScope::Everything));
        let (Some(mut whole), Some(mut first), Some(mut second)) = (build(), build(), build()) else {
            return Err(NotPassed::Skipped(format!("there is no optimizer `{name}`")));
        };
        let (mut expected, mut parameters) = (drawn(1), drawn(1));
        for update in 2..=4 {
            whole.update(&mut expected, &drawn(update), 0.01)?;
        }
        first.update(&mut parameters, &drawn(2), 0.01)?;
        let path = session.folder(&format!("{name}.safetensors"));
        save_safetensors(&with_one(first.stored())?, None, &path)?;
        let mut stored = load_safetensors(&path)?;
        stored.remove(NEVER_EMPTY);
        second.restore(first.step_count(), &parameters, stored)?;
        for update in 3..=4 {
            second.update(&mut parameters, &drawn(update), 0.01)?;
        }
        for (parameter, expected) in &expected {
            let found = parameters.get(parameter).map(vector::<f32>).transpose()?;
            let expected: Vec<f32> = vector(expected)?;
            if found.as_ref() != Some(&expected) {
                return Err(failed(
                    format!("`{name}` does not go on as if it had never stopped"),
                    format!("{parameter}: {found:?}"),
                    format!("{expected:?}"),
                    "a run that is resumed ends otherwise here than one that is not",
                ));
            }
        }
    }
    passed(format!("{}, bit for bit", OptimizerSettings::NAMES.join(", ")))
}

/// A tensor beside the state: plain SGD keeps nothing, and a file holds something.
const NEVER_EMPTY: &str = "never-empty";

fn with_one(mut stored: BTreeMap<String, Array>) -> mlx_rs::error::Result<BTreeMap<String, Array>> {
    stored.insert(NEVER_EMPTY.to_owned(), zeros::<f32>(&[1])?);
    Ok(stored)
}
