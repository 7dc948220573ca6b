//! `diagnose fuse`: a model with its adapter in its own weights.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use clap::{ArgGroup, Args};

use super::output::{note, print};
use super::run::resolve_model;
use crate::adapter::{StoredAdapter, fuse_into_folder};
use crate::fine_tuning::{Configuration, FineTuneSettings, Method, RunFolder};

/// Options of fusing.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("fused").required(true).args(["run", "adapter"]))]
pub struct FuseArguments {
    /// The folder of a run of `diagnose train`, which knows its base
    #[arg(conflicts_with_all = ["model", "adapter"])]
    pub run: Option<PathBuf>,
    /// The base: model folder, GGUF file or hub id
    #[arg(long, value_name = "DIR|FILE.gguf|HUB_ID", requires = "adapter")]
    pub model: Option<String>,
    /// The finished adapter: a folder of mlx-lm, mlx-examples or PEFT
    #[arg(long, value_name = "DIR", requires = "model")]
    pub adapter: Option<PathBuf>,
    /// A new folder for the fused model
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Make packed weights plain, so that nothing of the adapter is lost to rounding
    #[arg(long)]
    pub dequantize: bool,
}

/// Share of the adapter's effect that fusing may lose before it is worth a word.
const NOTABLE_LOSS: f32 = 0.1;

/// Fuses, and says what was written and how much of the adapter's effect it has.
pub fn run(arguments: &FuseArguments) -> Result<()> {
    let (model, adapter) = match (&arguments.run, &arguments.model, &arguments.adapter) {
        (Some(run), ..) => of_run(run)?,
        (None, Some(model), Some(adapter)) => (model.clone(), adapter.clone()),
        (None, ..) => return Err(anyhow!("no adapter was given")),
    };
    let files = resolve_model(&model)?.open()?;
    let adapter = StoredAdapter::read(&adapter)?;
    let fused = fuse_into_folder(&files, &adapter, &arguments.out, arguments.dequantize)?;
    if fused.is_packed && fused.fuse_error > NOTABLE_LOSS * fused.adapter_effect {
        note(
            "packing the fused weights again loses a good part of the adapter: `--dequantize` keeps it, or serve the adapter \
             beside its base",
        );
    }
    print(&format!(
        "{} tensors, {} layers fused: {}\nthe adapter moves the logits of a sample pass by up to {:.4}; fused they are off by up to {:.4}\n",
        fused.tensors,
        fused.fused,
        arguments.out.display(),
        fused.adapter_effect,
        fused.fuse_error,
    ))
}

/// The base and the adapter of a run.
fn of_run(folder: &Path) -> Result<(String, PathBuf)> {
    let (run, record) = RunFolder::open(folder)?;
    let (settings, _) = FineTuneSettings::read(&Configuration::from_json(&record.settings, "run.json"))?;
    match settings.method {
        Method::Lora | Method::Dora => Ok((settings.model, folder.to_owned())),
        Method::Full => Err(anyhow!(
            "there is no adapter to fuse in `{}`\n  found: a run that trained all weights\n  hint: `{}` is a whole model already",
            folder.display(),
            run.model().display()
        )),
    }
}
