use serde::Serialize;

use super::PhaseReport;
use crate::evidence::ProbeCost;

/// What the probes cost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Costs {
    /// Each probe, in the order in which they ran.
    pub probes: Vec<ProbeCost>,
    /// Seconds of all probes.
    pub seconds: f64,
    /// Their share of the seconds of all phases, 0 to 1; `None` when no phase was timed.
    pub share: Option<f64>,
}

impl Costs {
    pub(super) fn new(probes: &[ProbeCost], phases: &[PhaseReport]) -> Self {
        // An empty sum of floats is -0.
        let seconds = probes.iter().map(|cost| cost.seconds).fold(0.0, |sum, cost| sum + cost);
        let run: f64 = phases.iter().filter_map(|phase| phase.seconds).sum();
        Self {
            probes: probes.to_vec(),
            seconds,
            share: (run > 0.0).then(|| seconds / run),
        }
    }

    /// The sum on one line, for example `4.1 s in all, 7% of the run`.
    pub(super) fn in_all(&self) -> String {
        let share = self
            .share
            .map_or_else(String::new, |share| format!(", {:.0}% of the run", 100.0 * share));
        format!("{} in all{share}", duration(self.seconds))
    }
}

/// A probe's name in words.
pub(super) fn probe_in_words(cost: &ProbeCost) -> String {
    cost.probe.replace('-', " ")
}

/// Seconds as `1.3 s`, and less than one as `300 ms`.
pub(super) fn duration(seconds: f64) -> String {
    if seconds < 1.0 {
        format!("{:.0} ms", 1000.0 * seconds)
    } else {
        format!("{seconds:.1} s")
    }
}
