//! The measurements, one subject after the other.

use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use chrono::{DateTime, SecondsFormat};

use super::{
    BENCH_SCHEMA_VERSION, BenchError, BenchResults, BenchSettings, Measured, Subject, SubjectResult, SystemDescription,
    Workbench,
};
use crate::device::Selection;
use crate::diagnosis::DiagnosisOptions;
use crate::evidence::Slot;
use crate::interrupt::Interrupt;
use crate::model::ModelSource;

/// Everything that a benchmark is told.
#[derive(Debug, Clone)]
pub struct BenchOptions {
    /// The model.
    pub source: ModelSource,
    /// What results state.
    pub settings: BenchSettings,
    /// The diagnosis whose probes are measured.
    pub diagnosis: DiagnosisOptions,
    /// This program's file, to measure it from its start; `None` where it is not known.
    pub program: Option<PathBuf>,
    /// Where the system shows counters of energy, [`POWERCAP`](super::POWERCAP).
    pub powercap: PathBuf,
}

/// Measures `subjects` on the selected backend of `system`, and tells `progress` of each before it begins, with how many are done.
///
/// A subject that fails says so in its place, and the others are measured.
///
/// # Errors
/// The model cannot be loaded.
pub fn bench(
    options: &BenchOptions,
    subjects: &[&'static Subject],
    selection: &Selection,
    system: SystemDescription,
    interrupt: &Interrupt,
    progress: &mut dyn FnMut(usize, &Subject),
) -> Result<BenchResults, BenchError> {
    let began = now();
    let started = Instant::now();
    let workbench = Workbench::new(options, selection, interrupt)?;
    let mut results = Vec::new();
    for (done, subject) in subjects.iter().enumerate() {
        let of_subject = Instant::now();
        let outcome = if interrupt.is_requested() {
            Slot::skipped("the benchmark was interrupted before it")
        } else {
            progress(done, subject);
            outcome((subject.measure)(&workbench))
        };
        results.push(SubjectResult {
            name: subject.name.to_owned(),
            title: subject.title.to_owned(),
            seconds: of_subject.elapsed().as_secs_f64(),
            outcome,
        });
    }
    Ok(BenchResults {
        schema_version: BENCH_SCHEMA_VERSION,
        began,
        system,
        settings: options.settings.clone(),
        model: workbench.model_description(),
        interrupted: interrupt.is_requested(),
        seconds: started.elapsed().as_secs_f64(),
        subjects: results,
    })
}

/// The time in UTC as RFC 3339 has it.
fn now() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    // A clock before 1970 is not set.
    let seconds = since.map_or(0, |since| since.as_secs());
    DateTime::from_timestamp(seconds as i64, 0)
        .unwrap_or_default()
        .to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn outcome(measured: Result<Measured, BenchError>) -> Slot<Measured> {
    match measured {
        Err(BenchError::Interrupted) => Slot::skipped("the benchmark was interrupted during it"),
        other => Slot::of(other),
    }
}
