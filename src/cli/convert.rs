//! `diagnose convert`: the same thing in another program's format.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use clap::ValueEnum;

use super::arguments::{AdapterFormatArgument, Convert, ConvertModelArguments, ModeArgument};
use super::output::{note, print};
use super::run::resolve_model;
use crate::adapter::{StoredAdapter, TargetFormat, convert};
use crate::model::{ConversionSettings, MixedBits, Packing, PackingChoice, convert_model};

/// Group size and bits where only the other is given, as mlx-lm's.
const DEFAULT_GROUP_SIZE: i32 = 64;
const DEFAULT_BITS: i32 = 4;

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
    let mode = arguments.mode.unwrap_or(ModeArgument::Affine);
    if mode != ModeArgument::Affine {
        let name = mode.to_possible_value().map(|value| value.get_name().to_owned());
        let name = name.unwrap_or_default();
        return Err(anyhow!(
            "weights cannot be packed in mode `{name}`\n  found: the bindings of MLX that this program uses pack in mode `affine` \
             alone\n  hint: `mlx_lm.convert --hf-path SOURCE -q --q-mode {name}` does it"
        ));
    }
    let group_size = arguments.group_size.unwrap_or(DEFAULT_GROUP_SIZE);
    let recipe = arguments.quant_predicate.map(MixedBits::from);
    let packing = match (recipe, arguments.bits) {
        (Some(recipe), _) => Some(recipe.common(group_size)),
        (None, Some(bits)) => Some(Packing { group_size, bits }),
        (None, None) if arguments.group_size.is_some() || arguments.mode.is_some() => Some(Packing {
            group_size,
            bits: DEFAULT_BITS,
        }),
        (None, None) => None,
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
