use serde::Serialize;

use super::record::Trialled;
use crate::quantile::upper_median;

/// What a self-test cost: all that differs between two of the same seed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Times {
    /// Seconds for everything.
    pub seconds: f64,
    /// Median seconds of a run.
    pub median_run: f64,
    /// The longest run.
    pub longest_run: f64,
    /// Median share of a run that its probes take beyond what the run needs without them; `None` without a run.
    pub median_probe_share: Option<f64>,
}

impl Times {
    /// Sums up the runs, which took `seconds` in all.
    pub fn new(seconds: f64, runs: &[Trialled]) -> Self {
        let of_runs = || runs.iter().map(|run| run.record.seconds);
        let shares = runs
            .iter()
            .map(|run| (run.record.probe_seconds, run.record.seconds - run.record.probe_seconds))
            .filter(|(_, without)| *without > 0.0)
            .map(|(probes, without)| probes / without);
        Self {
            seconds,
            median_run: upper_median(of_runs()).unwrap_or(0.0),
            longest_run: of_runs().fold(0.0, f64::max),
            median_probe_share: upper_median(shares),
        }
    }
}
