//! The measurements, one subject after the other, in rounds.

use std::path::PathBuf;
use std::time::Instant;

use super::subject::Turns;
use super::{
    BENCH_SCHEMA_VERSION, BenchError, BenchResults, BenchSettings, Subject, SubjectResult, SystemDescription, Workbench,
};
use crate::device::Selection;
use crate::diagnosis::DiagnosisOptions;
use crate::evidence::Slot;
use crate::interrupt::Interrupt;
use crate::model::ModelSource;
use crate::time_stamp::time_stamp;

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

/// What is about to be measured.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    /// Counted from 0.
    pub round: usize,
    /// Place of the subject among those that are measured, counted from 0.
    pub place: usize,
    /// The subject.
    pub subject: &'static Subject,
}

/// Measures `subjects` on the selected backend of `system`, round after round, and tells `progress` of each before it begins.
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
    progress: &mut dyn FnMut(Turn),
) -> Result<BenchResults, BenchError> {
    let began = time_stamp();
    let started = Instant::now();
    let mut workbench = Workbench::new(options, selection, interrupt)?;
    let mut results: Vec<SubjectResult> = subjects.iter().map(|subject| not_begun(subject)).collect();
    let rounds = options.settings.repeats;
    for round in 0..rounds {
        workbench.begin_round();
        for (place, (subject, result)) in subjects.iter().zip(&mut results).enumerate() {
            let is_due = round == 0 || subject.turns == Turns::EveryRound;
            // One that failed would fail again.
            let has_failed = matches!(result.outcome, Slot::Crashed { .. });
            if !is_due || has_failed || interrupt.is_requested() {
                continue;
            }
            progress(Turn { round, place, subject });
            workbench.repeats = match subject.turns {
                Turns::EveryRound => 1,
                Turns::First => rounds,
            };
            let turn = Instant::now();
            let measured = (subject.measure)(&workbench);
            result.seconds += turn.elapsed().as_secs_f64();
            result.add_round(measured);
        }
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

fn not_begun(subject: &Subject) -> SubjectResult {
    SubjectResult {
        name: subject.name.to_owned(),
        title: subject.title.to_owned(),
        seconds: 0.0,
        outcome: Slot::skipped("the benchmark was interrupted before it"),
    }
}
