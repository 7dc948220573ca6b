//! How long it takes to save a training run and to take it up again.

use std::collections::BTreeMap;

use mlx_rs::Array;
use mlx_rs::transforms::eval;

use super::training::Steps;
use super::{BenchError, Measured, Measurement, Unit, Workbench};
use crate::fine_tuning::{Progress, RunCheckpoint};
use crate::param_snapshot::ParameterSnapshot;
use crate::train::{Optimizer, StoredOptimizer};

/// Measures a checkpoint of adapters with the state of [`AdamW`](crate::train::AdamW).
pub fn measure(bench: &Workbench<'_>) -> Result<Measured, BenchError> {
    const SAVE: &str = "save";
    const LOAD: &str = "load";
    let mut measured = Measured::default();
    let mut steps = Steps::new(bench, bench.adapted()?, &bench.batch());
    steps.step()?;
    let (model, optimizer) = steps.into_parts();
    let checkpoint = RunCheckpoint {
        progress: Progress {
            update: 1,
            ..Progress::default()
        },
        parameters: ParameterSnapshot::capture_trainable(&model).into_parameters(),
        optimizer: optimizer.name().to_owned(),
        optimizer_updates: optimizer.step_count(),
        optimizer_state: optimizer.stored(),
    };
    let bytes = bytes(&checkpoint.parameters) + bytes(&checkpoint.optimizer_state);
    let what = format!("{:.1} MB of adapters and AdamW's moments", bytes as f64 / 1e6);
    let folder = tempfile::tempdir()?;
    let seconds = bench.seconds_of(|| Ok(checkpoint.write(folder.path(), 1).map(drop)?))?;
    let note = format!("{what}, until the disk has them");
    measured.add(SAVE, Measurement::new(SAVE, Unit::Seconds, seconds, note));
    let written = checkpoint.write(folder.path(), 1)?;
    let seconds = bench.seconds_of(|| {
        let read = RunCheckpoint::read(&written)?;
        Ok(eval(read.parameters.values().chain(read.optimizer_state.values()))?)
    })?;
    let note = format!("{what}, with their checksums, from memory where the system keeps files");
    measured.add(LOAD, Measurement::new(LOAD, Unit::Seconds, seconds, note));
    Ok(measured)
}

fn bytes(arrays: &BTreeMap<String, Array>) -> usize {
    arrays.values().map(Array::nbytes).sum()
}
