//! `diagnose verify training-memory`: the memory of a training step, as predicted and as MLX counts it.

use std::path::Path;

use anyhow::{Result, anyhow};
use clap::Args;
use mlx_rs::module::ModuleParameters;
use mlx_rs::transforms::eval;
use serde_json::json;

use super::bounded_numbers::at_least_one;
use super::output::print;
use super::verify::load;
use crate::adapter::{LoraSettings, attach};
use crate::data::{Batch, Example};
use crate::device::{TrainedPart, TrainingMemory, TrainingSize};
use crate::interrupt::Interrupt;
use crate::memory::{MemoryMonitor, MlxMemory};
use crate::model::CausalModel;
use crate::train::{AdamW, AdamWSettings, Schedule, TrainSettings, Trainer, TrainingStep, loss_and_gradients};

/// Options of the measurement of a training step's memory.
#[derive(Debug, Args)]
pub struct TrainingMemoryArguments {
    /// Folder, GGUF file or hub id
    #[arg(long, value_name = "DIR|FILE.gguf|HUB_ID")]
    pub model: String,
    /// Rows per step
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = at_least_one)]
    pub batch_size: usize,
    /// Tokens that are fed of each row
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = at_least_one)]
    pub sequence_length: usize,
    /// Tokens of each row that the loss counts, the last ones [default: all]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub supervised: Option<usize>,
    /// Rank of the adapters
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = at_least_one)]
    pub rank: usize,
    /// Blocks to adapt, counted from the last [default: all]
    #[arg(long, value_name = "N", value_parser = at_least_one, conflicts_with = "full")]
    pub layers: Option<usize>,
    /// Modules to adapt [default: every linear layer of a block]
    #[arg(long, value_name = "PATH,...", value_delimiter = ',', conflicts_with = "full")]
    pub keys: Vec<String>,
    /// Train all weights instead of adapters
    #[arg(long)]
    pub full: bool,
}

/// Steps that are measured: the first has no moments yet, and the later ones differ by what MLX works on at one time.
const STEPS: usize = 3;
/// A learning rate that keeps every step finite.
const LEARNING_RATE: f64 = 1e-5;

/// Trains some steps, and prints the predicted and the measured peak.
pub fn run(arguments: &TrainingMemoryArguments) -> Result<()> {
    let (backend, mut loaded) = load(Path::new(&arguments.model))?;
    let supervised = arguments.supervised.unwrap_or(arguments.sequence_length);
    if supervised > arguments.sequence_length {
        return Err(anyhow!(
            "more tokens are to be supervised than a row has\n  found: {supervised}\n  expected: at most {}",
            arguments.sequence_length
        ));
    }
    if arguments.full {
        loaded.model.unfreeze_parameters(true);
    } else {
        let settings = LoraSettings {
            rank: arguments.rank,
            layers: arguments.layers,
            keys: arguments.keys.clone(),
            ..LoraSettings::default()
        };
        attach(&mut loaded.model, &settings, 0)?;
    }
    eval(loaded.model.parameters().flatten().into_values())?;
    let examples: Vec<Example> = (0..arguments.batch_size)
        .map(|row| {
            made_up_row(
                row,
                arguments.sequence_length,
                supervised,
                loaded.configuration.vocab_size,
            )
        })
        .collect();
    let rows: Vec<usize> = (0..examples.len()).collect();
    let size = TrainingSize {
        part: TrainedPart::of(&loaded.model),
        optimizer_state: TrainingSize::ADAMW,
        batch_size: arguments.batch_size,
        tokens: arguments.sequence_length,
        supervised,
    };
    let predicted = TrainingMemory::predict(&loaded.configuration, MlxMemory::read()?.active, size);
    let mut monitor = MemoryMonitor::start(MemoryMonitor::INTERVAL)?;
    let mut peaks = Vec::new();
    let mut observe = |_: &TrainingStep, _: &CausalModel| {
        peaks.push(monitor.step()?.peak);
        Ok(())
    };
    Trainer {
        optimizer: &mut AdamW::new(AdamWSettings::default()),
        loss: &loss_and_gradients,
        lanes: backend.lanes(),
        others: None,
        settings: TrainSettings {
            steps: STEPS,
            schedule: Schedule::constant(LEARNING_RATE),
            clip_norm: None,
        },
        interrupt: &Interrupt::default(),
    }
    .train(
        &mut loaded.model,
        &mut std::iter::repeat(Batch::new(&examples, &rows)),
        &mut observe,
    )?;
    let measured = monitor.highest_peak()?;
    let report = json!({
        "trained_values": size.part.values,
        "trained_blocks": size.part.blocks,
        "predicted": {
            "weights": predicted.weights,
            "optimizer": predicted.optimizer,
            "gradients": predicted.gradients,
            "activations": predicted.activations,
            "logits": predicted.logits,
            "update": predicted.update,
            "peak": predicted.peak(),
        },
        "measured_peaks": peaks,
        "measured_peak": measured,
        "error": predicted.peak() as f64 / measured as f64 - 1.0,
        "error_beyond_the_model": predicted.beyond_the_model() as f64 / (measured as f64 - predicted.weights as f64) - 1.0,
    });
    print(&format!("{report:#}\n"))
}

/// `length` tokens that are fed and one more that is predicted; the last `supervised` predictions count.
fn made_up_row(row: usize, length: usize, supervised: usize, vocabulary: usize) -> Example {
    const STRIDE: usize = 7919;
    let mut example = Example::of_tokens(
        (0..=length)
            .map(|place| ((row + place * STRIDE) % vocabulary) as u32)
            .collect(),
    );
    for counts in example.supervised.iter_mut().take(length + 1 - supervised) {
        *counts = false;
    }
    example
}
