//! `diagnose convert`: the same thing in another program's format.

use std::path::Path;

use anyhow::{Context, Result, anyhow};

use super::convert_arguments::{AdapterFormatArgument, Convert, ConvertModelArguments};
use super::output::{note, print};
use super::run::resolve_model;
use crate::adapter::{StoredAdapter, TargetFormat, convert};
use crate::model::{ConversionSettings, MixedBits, Packing, PackingChoice, QuantizationMode, convert_model};

/// Converts, and says what was written.
pub fn run(what: &Convert) -> Result<()> {
    match what {
        Convert::Model(arguments) => model(arguments),
        Convert::Adapter { source, to, out, model } => adapter(source, *to, out, model.as_deref()),
    }
}

fn model(arguments: &ConvertModelArguments) -> Result<()> {
    let settings = settings(arguments)?;
    let files = resolve_model(&arguments.source)?.open()?;
    let conversion = convert_model(&files, &arguments.out, &settings)?;
    if !conversion.left_plain.is_empty() {
        note(&format!(
            "rows that are no whole groups stay plain: {}",
            conversion.left_plain.join(", ")
        ));
    }
    let dtype = conversion.dtype.name();
    let packed = match conversion.packed {
        0 => String::new(),
        packed => format!(
            ", {packed} modules packed, {:.3} bits per weight",
            conversion.bits_per_weight
        ),
    };
    print(&format!(
        "{} tensors in {dtype}{packed}: {}\na sample pass of {} tokens gives finite logits\n",
        conversion.tensors,
        arguments.out.display(),
        conversion.sample.tokens,
    ))
}

fn settings(arguments: &ConvertModelArguments) -> Result<ConversionSettings> {
    let mode = arguments.mode.map_or(QuantizationMode::Affine, QuantizationMode::from);
    let recipe = arguments.quant_predicate.map(MixedBits::from);
    if recipe.is_some() && mode != QuantizationMode::Affine {
        return Err(anyhow!(
            "weights cannot be packed by a recipe in mode `{0}`\n  found: `--quant-predicate` and `--mode {0}`\n  expected: \
             mode `affine`, the only one with several numbers of bits\n  hint: leave out one of the two",
            mode.name()
        ));
    }
    // What is not given is mlx-lm's default.
    let common = Packing::of_mode(mode);
    let group_size = arguments.group_size.unwrap_or(common.group_size);
    let is_packed = arguments.bits.is_some() || arguments.group_size.is_some() || arguments.mode.is_some();
    let packing = match recipe {
        Some(recipe) => Some(recipe.common(group_size)),
        None => is_packed.then(|| Packing {
            group_size,
            bits: arguments.bits.unwrap_or(common.bits),
            mode,
        }),
    };
    Ok(ConversionSettings {
        dtype: arguments.dtype.map(Into::into),
        packing: packing.map(|packing| PackingChoice { packing, recipe }),
        dequantize: arguments.dequantize,
    })
}

fn adapter(source: &Path, to: AdapterFormatArgument, out: &Path, model: Option<&str>) -> Result<()> {
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
