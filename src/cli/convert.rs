//! `diagnose convert`: the same thing in another program's format.

use std::path::Path;

use anyhow::{Context, Result, anyhow};

use super::arguments::{AdapterFormatArgument, Convert};
use super::output::print;
use super::run::resolve_model;
use crate::adapter::{StoredAdapter, TargetFormat, convert};

/// Converts, and says what was written.
pub fn run(what: &Convert) -> Result<()> {
    let Convert::Adapter { source, to, out, model } = what;
    refuse_used(out)?;
    refuse_within(out, source)?;
    let blocks = match model {
        Some(model) => Some(resolve_model(model)?.open()?.configuration()?.num_hidden_layers),
        None => None,
    };
    let adapter = StoredAdapter::read(source)?;
    let (target, name) = match to {
        AdapterFormatArgument::MlxLm => (TargetFormat::MlxLm, "mlx-lm"),
        AdapterFormatArgument::Peft => (TargetFormat::Peft, "PEFT"),
    };
    let tensors = convert(&adapter, target, blocks, out)?;
    print(&format!(
        "{tensors} tensors in the format of {name}: {}\n",
        out.display()
    ))
}

/// What is there already stays as it is.
fn refuse_used(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    let mut entries = folder
        .read_dir()
        .with_context(|| format!("cannot write to `{}`", folder.display()))?;
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(anyhow!(
            "`{}` is not empty\n  expected: a new folder\n  hint: choose another `--out`",
            folder.display()
        )),
    }
}

/// The folder that is converted stays as it is too.
fn refuse_within(folder: &Path, source: &Path) -> Result<()> {
    let source = source
        .canonicalize()
        .with_context(|| format!("cannot read `{}`", source.display()))?;
    let whole = std::path::absolute(folder)?;
    // What does not exist yet lies in the first folder above it that does.
    let place = whole.ancestors().find_map(|folder| folder.canonicalize().ok());
    if place.is_some_and(|place| place.starts_with(&source)) {
        return Err(anyhow!(
            "`{}` lies within the folder that is converted\n  expected: a folder outside `{}`\n  hint: choose another `--out`",
            folder.display(),
            source.display()
        ));
    }
    Ok(())
}
