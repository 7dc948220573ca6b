//! Batches dealt out to lanes.

use mlx_rs::error::Result;

use crate::data::Batch;
use crate::lanes::{Lanes, SharedCores};

impl Lanes {
    /// Whether `batch` is dealt out to several lanes.
    fn split(&self, batch: &Batch) -> bool {
        self.count() > 1 && batch.rows.len() > 1
    }

    /// Lets matrix products use one thread each for as long as the guard lives, when `batch` keeps several lanes busy.
    pub fn share_cores(&self, batch: &Batch) -> SharedCores {
        self.share_cores_among(if self.split(batch) { self.count() } else { 1 })
    }

    /// Runs `work` on each part of `batch`, one part per lane, and returns the results in order of the lanes.
    pub fn run<T>(&self, batch: &Batch, work: impl Fn(&Batch) -> Result<T>) -> Result<Vec<T>> {
        if !self.split(batch) {
            return Ok(vec![work(batch)?]);
        }
        let mut parts = batch.deal(self.count());
        parts.retain(|part| !part.rows.is_empty());
        self.each(&parts, work)
    }
}
