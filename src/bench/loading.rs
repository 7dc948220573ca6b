//! How long it takes until a model can be used.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mlx_rs::Array;

use super::{BenchError, Measured, Measurement, Unit, Workbench};
use crate::model::{
    ConversionSettings, ModelFiles, ModelSource, Packing, PackingChoice, QuantizationMode, convert_model,
};

/// Bits and group of the packed copy, mlx-lm's defaults.
const PACKING: Packing = Packing {
    group_size: 64,
    bits: 4,
    mode: QuantizationMode::Affine,
};
/// The token whose logits show that the model can be used.
const TOKEN: u32 = 1;

/// Measures the model's own files, the same model packed, and the program from its start.
pub fn measure(bench: &Workbench<'_>) -> Result<Measured, BenchError> {
    let mut measured = Measured::default();
    let path = bench.path().to_owned();
    let (own, said) = match &bench.files {
        ModelFiles::Folder(_) => ("load-folder", "a folder"),
        ModelFiles::Gguf(_) => ("load-gguf", "a GGUF file"),
    };
    load(bench, &mut measured, own, &bench.options.source.clone(), said)?;
    if matches!(bench.files, ModelFiles::Gguf(_)) {
        let plain = ConversionSettings {
            dequantize: true,
            ..ConversionSettings::default()
        };
        let said = "a folder of the same model in plain form";
        converted(bench, &mut measured, "load-folder", plain, said)?;
    }
    if bench.loaded.packings.is_empty() {
        let packed = ConversionSettings {
            packing: Some(PackingChoice {
                packing: PACKING,
                recipe: None,
            }),
            ..ConversionSettings::default()
        };
        let said = "a folder of the same model packed in 4 bits";
        converted(bench, &mut measured, "load-packed-folder", packed, said)?;
    } else {
        measured.lack("load-packed-folder", "the model's own files are packed");
    }
    match &bench.options.program {
        Some(program) => from_start(bench, &mut measured, program, &path)?,
        None => measured.lack("start-to-logits", "the program's own file is not known"),
    }
    Ok(measured)
}

/// Until the logits of a token are there: tokenizer, configuration and all weights are read, and the model computes.
fn load(
    bench: &Workbench<'_>,
    measured: &mut Measured,
    name: &str,
    source: &ModelSource,
    said: &str,
) -> Result<(), BenchError> {
    let seconds = bench.seconds_of(|| {
        let files = source.open()?;
        let tokenizer = files.tokenizer()?;
        let loaded = files.load(files.configuration()?, bench.precision)?;
        let token = (TOKEN as usize % loaded.configuration.vocab_size) as i32;
        loaded.model.logits(&Array::from_slice(&[token], &[1, 1]))?.eval()?;
        drop(tokenizer);
        Ok(())
    })?;
    let note =
        format!("{said}, from memory where the system keeps files: tokenizer, weights, and the logits of one token");
    measured.add(name, Measurement::new(name, Unit::Seconds, seconds, note));
    Ok(())
}

/// The model in another form, written by this program into a folder as mlx-lm has them.
fn converted(
    bench: &Workbench<'_>,
    measured: &mut Measured,
    name: &str,
    settings: ConversionSettings,
    said: &str,
) -> Result<(), BenchError> {
    let folder = tempfile::tempdir()?;
    let target = folder.path().join("converted");
    convert_model(&bench.files, &target, &settings)?;
    load(bench, measured, name, &ModelSource::Folder(target), said)
}

/// The whole program, from its start to its end.
fn from_start(bench: &Workbench<'_>, measured: &mut Measured, program: &Path, model: &Path) -> Result<(), BenchError> {
    const NAME: &str = "start-to-logits";
    let folder = tempfile::tempdir()?;
    let out: PathBuf = folder.path().join("logits.json");
    let seconds = bench.seconds_of(|| {
        let status = Command::new(program)
            .args(["verify", "logits", "--ids", "1", "--model"])
            .arg(model)
            .arg("--out")
            .arg(&out)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        if status.success() {
            Ok(())
        } else {
            Err(BenchError::Unexpected(format!(
                "`diagnose verify logits` ended with {status}"
            )))
        }
    })?;
    let note = "a process of its own, from its start to its end, that writes the logits of one token to a file";
    measured.add(NAME, Measurement::new(NAME, Unit::Seconds, seconds, note));
    Ok(())
}
