//! How much memory the model, its training and the process take.

use super::training::Steps;
use super::{BenchError, Measured, Measurement, Samples, Unit, Workbench};
use crate::memory::{MlxMemory, process_memory};

/// Measures arrays at rest and during training steps, and the whole process.
pub fn measure(bench: &Workbench<'_>) -> Result<Measured, BenchError> {
    let mut measured = Measured::default();
    bytes(
        &mut measured,
        "arrays-of-model",
        Samples::new(vec![MlxMemory::read()?.active as f64]),
        "what MLX holds in arrays once the model is loaded",
    );
    let settings = &bench.options.settings;
    let mut steps = Steps::new(bench, bench.adapted()?, &bench.batch());
    let mut peaks = Samples::default();
    for repeat in 0..settings.warm_ups + bench.repeats {
        bench.go_on()?;
        MlxMemory::read_and_reset_peak()?;
        steps.step()?;
        if repeat >= settings.warm_ups {
            peaks.push(MlxMemory::read()?.peak as f64);
        }
    }
    bytes(
        &mut measured,
        "peak-of-training-step",
        peaks,
        "the most that MLX holds in arrays during a training step, by its own count",
    );
    let memory = process_memory();
    for (name, found, note) in [
        (
            "resident",
            memory.resident,
            "what the system counts for this process, after those steps",
        ),
        (
            "peak-resident",
            memory.peak,
            "the most that the system counted for this process up to the end of those steps",
        ),
    ] {
        match found {
            Some(found) => bytes(&mut measured, name, Samples::new(vec![found as f64]), note),
            None => measured.lack(name, "the system does not tell"),
        }
    }
    Ok(measured)
}

fn bytes(measured: &mut Measured, name: &str, samples: Samples, note: &str) {
    measured.add(name, Measurement::new(name, Unit::Bytes, samples, note));
}
