use serde::Serialize;

use super::record::Trialled;

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
        let sorted = |values: Vec<f64>| {
            let mut values = values;
            values.sort_by(f64::total_cmp);
            values
        };
        let middle = |values: &[f64]| values.get(values.len() / 2).copied();
        let seconds_of_runs = sorted(runs.iter().map(|run| run.record.seconds).collect());
        let shares = sorted(
            runs.iter()
                .map(|run| (run.record.probe_seconds, run.record.seconds - run.record.probe_seconds))
                .filter(|(_, without)| *without > 0.0)
                .map(|(probes, without)| probes / without)
                .collect(),
        );
        Self {
            seconds,
            median_run: middle(&seconds_of_runs).unwrap_or(0.0),
            longest_run: seconds_of_runs.last().copied().unwrap_or(0.0),
            median_probe_share: middle(&shares),
        }
    }
}
