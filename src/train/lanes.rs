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
        let mut parts = self.parts(batch);
        parts.retain(|part| !part.rows.is_empty());
        self.each(&parts, work)
    }

    /// `batch` dealt out so that the lanes have about as many tokens each: longest first, to the emptiest lane.
    fn parts(&self, batch: &Batch) -> Vec<Batch> {
        let mut by_length: Vec<usize> = (0..batch.rows.len()).collect();
        by_length.sort_by_key(|&position| std::cmp::Reverse(batch.lengths[position]));
        let mut parts: Vec<(usize, Vec<usize>)> = vec![(0, Vec::new()); self.count()];
        for position in by_length {
            if let Some((tokens, part)) = parts.iter_mut().min_by_key(|(tokens, _)| *tokens) {
                *tokens += batch.lengths[position];
                part.push(position);
            }
        }
        parts
            .into_iter()
            .map(|(_, positions)| batch.select(&positions))
            .collect()
    }
}
