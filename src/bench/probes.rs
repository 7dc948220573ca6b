//! What each probe of a diagnosis costs.

use std::time::Instant;

use super::{BenchError, Measured, Measurement, Samples, Unit, Workbench};
use crate::diagnosis::{DiagnosisOptions, Silent, diagnose};
use crate::workflow::ReferenceWorkflow;

/// Runs one whole diagnosis and reads what it says of its probes.
pub fn measure(bench: &Workbench<'_>) -> Result<Measured, BenchError> {
    let options = DiagnosisOptions {
        seed: bench.options.settings.seed,
        ..bench.options.diagnosis.clone()
    };
    let started = Instant::now();
    let evidence = diagnose(&options, &ReferenceWorkflow, bench.interrupt, &mut Silent);
    let seconds = started.elapsed().as_secs_f64();
    bench.go_on()?;
    let mut measured = Measured::default();
    if let Some(refusal) = &evidence.refusal {
        let reason = format!("the diagnosis refused this model: {}", refusal.headline);
        measured.lack("diagnosis", reason);
        return Ok(measured);
    }
    let mut one = |name: &str, unit: Unit, value: f64, note: String| {
        measured.add(name, Measurement::new(name, unit, Samples::new(vec![value]), note));
    };
    one(
        "diagnosis",
        Unit::Seconds,
        seconds,
        format!("one diagnosis of {} training steps", options.steps),
    );
    // An empty sum of floats is -0.
    let in_all = evidence
        .costs
        .iter()
        .map(|cost| cost.seconds)
        .fold(0.0, |sum, cost| sum + cost);
    one(
        "all-probes",
        Unit::Seconds,
        in_all,
        "beyond what the run needs without them".to_owned(),
    );
    one(
        "overhead",
        Unit::Share,
        in_all / (seconds - in_all),
        "all probes, by the rest of the run".to_owned(),
    );
    for cost in &evidence.costs {
        let note = format!("{:.1}% of the run", 100.0 * cost.seconds / seconds);
        one(&cost.probe, Unit::Seconds, cost.seconds, note);
    }
    Ok(measured)
}
