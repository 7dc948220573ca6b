use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use serde::Deserialize;
use serde_json::json;

use super::arguments::Verify;
use super::output::print;
use super::run::resolve_model;
use super::training_memory;
use crate::adapter::{LoraSettings, StoredAdapter, attach};
use crate::atomic_write::write_file;
use crate::data::{Batches, Example};
use crate::device::{Backend, PrecisionChoice};
use crate::interrupt::Interrupt;
use crate::model::{CausalModel, LoadedModel};
use crate::train::{AdamW, AdamWSettings, Schedule, TrainSettings, Trainer, TrainingStep, loss_and_gradients};

/// Learning rate of the speed measurement, mlx-lm's default.
const LEARNING_RATE: f64 = 1e-5;

/// Computes one figure.
pub fn run(what: Verify) -> Result<()> {
    match what {
        Verify::Logits {
            model,
            adapter,
            ids,
            out,
        } => logits(&model, adapter.as_deref(), &ids, &out),
        Verify::TrainingSpeed {
            model,
            ids,
            batch_size,
            sequence_length,
            steps,
            rank,
        } => training_speed(&model, &ids, batch_size, sequence_length, steps, rank),
        Verify::TrainingMemory(arguments) => training_memory::run(&arguments),
    }
}

pub(super) fn load(model: &Path) -> Result<(Backend, LoadedModel)> {
    let backend = Backend::select();
    let files = resolve_model(&model.to_string_lossy())?.open()?;
    let configuration = files.configuration()?;
    let precision = backend.precision(&configuration, PrecisionChoice::default());
    Ok((backend, files.load(configuration, precision)?))
}

fn logits(model: &Path, adapter: Option<&Path>, ids: &[u32], out: &Path) -> Result<()> {
    let (_, mut loaded) = load(model)?;
    if let Some(folder) = adapter {
        let adapter = StoredAdapter::read(folder)?;
        let application = adapter.apply(&mut loaded.model)?;
        let left_out = [
            adapter.problems,
            adapter.set_aside,
            application.unused,
            application.other_shape,
            application.missing,
        ];
        if let Some(first) = left_out.into_iter().flatten().next() {
            return Err(anyhow!(
                "the adapter in `{}` does not fit the model\n  found: {first}",
                folder.display()
            ));
        }
    }
    check_ids(ids, loaded.configuration.vocab_size)?;
    let tokens: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
    let logits = loaded
        .model
        .logits(&mlx_rs::Array::from_slice(&tokens, &[1, tokens.len() as i32]))?;
    let values: Vec<f32> = logits.as_dtype(mlx_rs::Dtype::Float32)?.to_vec_exact()?;
    let text = json!({ "shape": [ids.len(), loaded.configuration.vocab_size], "logits": values }).to_string();
    write_file(out, text.as_bytes()).with_context(|| format!("cannot write `{}`", out.display()))
}

fn check_ids(ids: &[u32], vocabulary: usize) -> Result<()> {
    match ids.iter().find(|&&id| id as usize >= vocabulary) {
        Some(id) => Err(anyhow!("token id {id} is out of range\n  expected: below {vocabulary}")),
        None => Ok(()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rows {
    rows: Vec<Vec<u32>>,
}

fn training_speed(
    model: &Path,
    ids: &Path,
    batch_size: usize,
    sequence_length: usize,
    steps: usize,
    rank: usize,
) -> Result<()> {
    let text = std::fs::read_to_string(ids).with_context(|| format!("cannot read `{}`", ids.display()))?;
    let rows: Rows = serde_json::from_str(&text).with_context(|| format!("`{}` has no usable rows", ids.display()))?;
    let (backend, mut loaded) = load(model)?;
    let examples = rows
        .rows
        .into_iter()
        .map(|tokens| supervised_row(tokens, sequence_length, loaded.configuration.vocab_size))
        .collect::<Result<Vec<Example>>>()?;
    let settings = LoraSettings {
        rank,
        ..LoraSettings::default()
    };
    attach(&mut loaded.model, &settings, 0)?;
    let mut seconds = Vec::new();
    let mut losses = Vec::new();
    let mut observe = |step: &TrainingStep, _: &CausalModel| {
        seconds.push(step.seconds);
        losses.push(step.loss);
        Ok(())
    };
    mlx_rs::memory::reset_peak_memory()?;
    Trainer {
        optimizer: &mut AdamW::new(AdamWSettings::default()),
        loss: &loss_and_gradients,
        lanes: backend.lanes(),
        settings: TrainSettings {
            steps,
            schedule: Schedule::constant(LEARNING_RATE),
            clip_norm: None,
        },
        interrupt: &Interrupt::default(),
    }
    // In the order of the file, so that every program sees the same first batch.
    .train(
        &mut loaded.model,
        &mut Batches::in_order(&examples, batch_size),
        &mut observe,
    )?;
    let report = BTreeMap::from([
        ("first_loss", json!(losses.first())),
        ("losses", json!(losses)),
        ("step_seconds", json!(seconds)),
        ("tokens_per_step", json!(batch_size * sequence_length)),
        ("peak_memory_bytes", json!(mlx_rs::memory::peak_memory()?)),
    ]);
    print(&format!("{}\n", serde_json::to_string(&report)?))
}

/// A row of `length` predictions, all of which count.
fn supervised_row(mut tokens: Vec<u32>, length: usize, vocabulary: usize) -> Result<Example> {
    check_ids(&tokens, vocabulary)?;
    if tokens.len() <= length {
        return Err(anyhow!(
            "a row is too short\n  found: {} ids\n  expected: {}",
            tokens.len(),
            length + 1
        ));
    }
    tokens.truncate(length + 1);
    Ok(Example::of_tokens(tokens))
}
