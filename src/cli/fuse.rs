//! `diagnose fuse`: a model with its adapter in its own weights.

use anyhow::Result;

use super::arguments::FuseArguments;
use super::output::{note, print};
use super::run::resolve_model;
use crate::adapter::{StoredAdapter, fuse_into_folder};

/// Share of the adapter's effect that fusing may lose before it is worth a word.
const NOTABLE_LOSS: f32 = 0.1;

/// Fuses, and says what was written and how much of the adapter's effect it has.
pub fn run(arguments: &FuseArguments) -> Result<()> {
    let files = resolve_model(&arguments.model)?.open()?;
    let adapter = StoredAdapter::read(&arguments.adapter)?;
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
