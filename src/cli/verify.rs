use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use clap::Subcommand;
use serde_json::json;

use super::run::resolve_model;
use super::training_memory;
use super::training_memory::TrainingMemoryArguments;
use crate::adapter::StoredAdapter;
use crate::atomic_write::write_file;
use crate::device::{Backend, PrecisionChoice};
use crate::model::LoadedModel;

/// Figures for comparison with other programs.
#[derive(Debug, Subcommand)]
pub enum Verify {
    /// The logits of a row of token ids
    Logits {
        /// Folder or GGUF file
        #[arg(long)]
        model: PathBuf,
        /// Adapter folder of mlx-lm or PEFT
        #[arg(long)]
        adapter: Option<PathBuf>,
        /// Token ids, separated by commas
        #[arg(long, value_delimiter = ',', required = true)]
        ids: Vec<u32>,
        /// Where to write them, as JSON
        #[arg(long)]
        out: PathBuf,
    },
    /// The memory of a training step, as predicted and as MLX counts it, on rows of made-up tokens
    TrainingMemory(TrainingMemoryArguments),
}

/// Computes one figure.
pub fn run(what: Verify) -> Result<()> {
    match what {
        Verify::Logits {
            model,
            adapter,
            ids,
            out,
        } => logits(&model, adapter.as_deref(), &ids, &out),
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
