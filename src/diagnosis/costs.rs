use std::time::Instant;

use crate::evidence::ProbeCost;

/// What each probe cost, in the order in which they first ran.
#[derive(Debug, Default)]
pub(super) struct Costs(Vec<ProbeCost>);

impl Costs {
    /// Runs `work` on the account of `probe`.
    pub(super) fn of<T>(&mut self, probe: &str, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let result = work();
        self.add(probe, started.elapsed().as_secs_f64());
        result
    }

    pub(super) fn add(&mut self, probe: &str, seconds: f64) {
        match self.0.iter_mut().find(|cost| cost.probe == probe) {
            Some(cost) => cost.seconds += seconds,
            None => self.0.push(ProbeCost {
                probe: probe.to_owned(),
                seconds,
            }),
        }
    }

    /// One entry for each probe.
    pub(super) fn into_list(self) -> Vec<ProbeCost> {
        self.0
    }
}
