//! What it costs to remember all parameters, and to compare them.

use mlx_rs::module::{ModuleParameters, update_parameters};
use mlx_rs::ops::multiply;
use mlx_rs::transforms::eval;
use mlx_rs::{Array, Dtype};

use super::{BenchError, Measured, Measurement, Samples, Unit, Workbench};
use crate::memory::MlxMemory;
use crate::param_diff::compare;
use crate::param_snapshot::ParameterSnapshot;

/// Makes every value of a parameter another one in any element type.
const FACTOR: f32 = 1.5;

/// Measures a snapshot of the whole model, its memory, and the comparison with one in which every value differs.
pub fn measure(bench: &Workbench<'_>) -> Result<Measured, BenchError> {
    const CAPTURE: &str = "capture";
    const MEMORY: &str = "memory-of-capture";
    let mut measured = Measured::default();
    let model = &bench.loaded.model;
    let seconds = bench.seconds_of_short(|| {
        drop(ParameterSnapshot::capture(model));
        Ok(())
    })?;
    let before = MlxMemory::read()?.active;
    let base = ParameterSnapshot::capture(model);
    let after = MlxMemory::read()?.active;
    let note = format!(
        "handles of {} tensors with {} values",
        base.parameters().len(),
        base.values()
    );
    measured.add(CAPTURE, Measurement::new(CAPTURE, Unit::Seconds, seconds, note));
    measured.add(
        MEMORY,
        Measurement::new(
            MEMORY,
            Unit::Bytes,
            Samples::new(vec![after.saturating_sub(before) as f64]),
            "what MLX holds in arrays after the snapshot beyond what it held before",
        ),
    );
    difference(bench, &mut measured, &base)?;
    Ok(measured)
}

fn difference(bench: &Workbench<'_>, measured: &mut Measured, base: &ParameterSnapshot) -> Result<(), BenchError> {
    const DIFFERENCE: &str = "full-difference";
    const RATE: &str = "full-difference-rate";
    const SHARE: &str = "full-difference-share-of-memory-read";
    let mut other = bench.loaded.model.clone();
    let changed: Vec<(std::rc::Rc<str>, Array)> = other
        .parameters()
        .flatten()
        .into_iter()
        .map(|(name, array)| Ok((name, changed(array)?)))
        .collect::<Result<_, BenchError>>()?;
    eval(changed.iter().map(|(_, array)| array))?;
    update_parameters(&mut other, changed);
    let other = ParameterSnapshot::capture(&other);
    let mut found = None;
    let seconds = bench.seconds_of(|| {
        found = Some(compare(base, &other)?);
        Ok(())
    })?;
    let changed = found
        .iter()
        .flat_map(|found| &found.compared)
        .filter(|one| one.changed_values > 0);
    if changed.count() != base.parameters().len() {
        return Err(BenchError::Unexpected(
            "the comparison missed tensors that differ".to_owned(),
        ));
    }
    let bytes: usize = [base, &other]
        .iter()
        .flat_map(|snapshot| snapshot.parameters().values())
        .map(Array::nbytes)
        .sum();
    let note = format!(
        "{:.1} MB: all values of two snapshots, each of which differs",
        bytes as f64 / 1e6
    );
    let rates = seconds.map(|seconds| bytes as f64 / seconds);
    match bench.bandwidth().map(Samples::median) {
        Ok(Some(bandwidth)) => {
            let shares = rates.map(|rate| rate / bandwidth);
            let note = "bytes of both snapshots in a second, by those that the device reads";
            measured.add(SHARE, Measurement::new(SHARE, Unit::Share, shares, note));
        }
        Ok(None) => measured.lack(SHARE, "the memory's speed was not measured"),
        Err(error) => measured.lack(SHARE, format!("the memory's speed was not measured: {error}")),
    }
    let figure = Measurement::new(
        RATE,
        Unit::GigabytesPerSecond,
        rates.map(|bytes| bytes / 1e9),
        note.clone(),
    );
    measured.add(RATE, figure);
    measured.add(DIFFERENCE, Measurement::new(DIFFERENCE, Unit::Seconds, seconds, note));
    Ok(())
}

/// An array of its own memory in which every value that is not zero is another one.
fn changed(array: &Array) -> Result<Array, BenchError> {
    Ok(match array.dtype() {
        Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16 => {
            multiply(array, Array::from_f32(FACTOR).as_dtype(array.dtype())?)?
        }
        // Packed values.
        other => array.add(Array::from_int(1).as_dtype(other)?)?,
    })
}
