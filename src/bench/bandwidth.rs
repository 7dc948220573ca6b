//! How fast the device reads its memory.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use mlx_rs::{Array, Dtype};

use super::{BenchError, Measured, Measurement, Samples, Unit, Workbench};
use crate::device::BackendKind;
use crate::memory::system_memory;

/// Sums that one thread keeps at the same time: as many as hide the time that an addition takes.
const SUMS: usize = 32;

/// Measures it.
pub fn measure(bench: &Workbench<'_>) -> Result<Measured, BenchError> {
    let mut measured = Measured::default();
    let bytes = bench.options.settings.sizes.bandwidth_bytes;
    let seen = match bench.backend.kind {
        BackendKind::Cpu | BackendKind::Torch => format!(
            "{} threads each sum their part of {} MB, each byte read once",
            bench.backend.cores,
            bytes / 1_000_000
        ),
        BackendKind::Metal | BackendKind::Cuda => {
            format!("MLX sums {} MB on the device, each byte read once", bytes / 1_000_000)
        }
    };
    let figure = bench.bandwidth()?.map(|bytes| bytes / 1e9);
    measured.add(
        "memory-read",
        Measurement::new("memory-read", Unit::GigabytesPerSecond, figure, seen),
    );
    Ok(measured)
}

/// Bytes in a second for each repeat.
pub(super) fn bytes_per_second(bench: &Workbench<'_>) -> Result<Samples, BenchError> {
    let bytes = bench.options.settings.sizes.bandwidth_bytes;
    let free = system_memory().map(|memory| memory.available);
    if let Some(free) = free.filter(|&free| free < 2 * bytes as u64) {
        return Err(BenchError::Unexpected(format!(
            "{} MB of memory are free, and the measurement needs twice {} MB",
            free / 1_000_000,
            bytes / 1_000_000
        )));
    }
    match bench.backend.kind {
        BackendKind::Cpu | BackendKind::Torch => {
            let values = vec![1_u64; bytes / size_of::<u64>()];
            let settings = &bench.options.settings;
            let mut seconds = Samples::default();
            for repeat in 0..settings.warm_ups + bench.repeats {
                bench.go_on()?;
                let took = summing_seconds(&values, bench.backend.cores)?;
                if repeat >= settings.warm_ups {
                    seconds.push(took);
                }
            }
            Ok(seconds.map(|seconds| size_of_val(values.as_slice()) as f64 / seconds))
        }
        BackendKind::Metal | BackendKind::Cuda => {
            let values = Array::full::<f32>(&[(bytes / size_of::<f32>()) as i32], Array::from_f32(1.0))?;
            let values = values.as_dtype(Dtype::Float32)?;
            values.eval()?;
            let seconds = bench.seconds_of(|| Ok(values.sum(None)?.eval()?))?;
            Ok(seconds.map(|seconds| values.nbytes() as f64 / seconds))
        }
    }
}

/// Seconds that `threads` threads take to read all of `values`, which are ones.
///
/// # Errors
/// The sum is wrong: not every value was read.
pub fn summing_seconds(values: &[u64], threads: usize) -> Result<f64, BenchError> {
    let part = values.len().div_ceil(threads.max(1)).max(1);
    let parts: Vec<&[u64]> = values.chunks(part).collect();
    // Threads wait for each other, so that starting them is not measured.
    let start = Barrier::new(parts.len());
    let read: Option<Vec<(u64, Instant, Instant)>> = thread::scope(|scope| {
        let workers: Vec<_> = parts
            .iter()
            .map(|part| {
                scope.spawn(|| {
                    start.wait();
                    let begun = Instant::now();
                    (sum(black_box(part)), begun, Instant::now())
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().ok()).collect()
    });
    let read = read.unwrap_or_default();
    let total: u64 = read.iter().map(|(sum, ..)| sum).sum();
    // By the clocks of the workers: a thread that waits for them may not run before they are done.
    let begun = read.iter().map(|(_, begun, _)| begun).min();
    let ended = read.iter().map(|(_, _, ended)| ended).max();
    let seconds = begun
        .zip(ended)
        .map_or(0.0, |(begun, ended)| ended.duration_since(*begun).as_secs_f64());
    if total == values.len() as u64 {
        Ok(seconds)
    } else {
        Err(BenchError::Unexpected(format!(
            "the sum of {} ones came out as {total}",
            values.len()
        )))
    }
}

fn sum(values: &[u64]) -> u64 {
    let (whole, rest) = values.as_chunks::<SUMS>();
    let mut sums = [0_u64; SUMS];
    for chunk in whole {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*value);
        }
    }
    sums.iter()
        .chain(rest)
        .fold(0, |total, value| total.wrapping_add(*value))
}
