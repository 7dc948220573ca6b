//! Updates that several processes make together, each from rows of its own.

use std::collections::BTreeMap;

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::{LossAndGradients, Sketch};
use crate::data::Batch;

/// What a process of several has to do with a batch that all of them are given.
pub trait DataParallel {
    /// The number of this process, from 0.
    fn rank(&self) -> usize;

    /// Processes in all.
    fn size(&self) -> usize;

    /// Whether any process says so, of which this one says `own`.
    ///
    /// # Errors
    /// The processes cannot reach each other.
    fn any(&self, own: bool) -> Result<bool, Exception>;

    /// The values that all processes begin with, where this one has `own`.
    ///
    /// # Errors
    /// The processes cannot reach each other.
    fn begin_alike(&self, own: BTreeMap<String, Array>) -> Result<BTreeMap<String, Array>, Exception>;

    /// The rows of `batch` that this process computes; every row is that of exactly one process.
    fn own_rows(&self, batch: &Batch) -> Batch;

    /// The mean over every process's supervised tokens: `own` is this one's mean over `tokens` of them, `None` where it has none.
    /// The same bits in every process.
    ///
    /// `parameters` are the trainable ones, which all processes have alike.
    ///
    /// # Errors
    /// The processes cannot reach each other, or none has a supervised token.
    fn average(
        &self,
        own: Option<LossAndGradients>,
        tokens: usize,
        parameters: &BTreeMap<String, Array>,
    ) -> Result<LossAndGradients, Exception>;
}

/// The processes that make an update with this one.
#[derive(Clone, Copy)]
pub struct Others<'run> {
    /// What this process has to do among them.
    pub processes: &'run dyn DataParallel,
    /// Whether its [`Share`] is wanted, for which all gradients are looked at twice.
    pub wants_share: bool,
}

/// What one of several processes gave to an update, and what it got.
#[derive(Debug, Clone, PartialEq)]
pub struct Share {
    /// The places in the data of the rows that it computed, from 0, in ascending order.
    pub rows: Vec<usize>,
    /// Rows of all processes.
    pub rows_of_all: usize,
    /// Targets in these rows.
    pub supervised_tokens: usize,
    /// Positions of these rows, padding counted.
    pub positions: usize,
    /// The gradient of its rows; `None` where they have no target.
    pub own: Option<Sketch>,
    /// The gradient that it was given for all rows, before clipping, by the same signs.
    pub applied: Sketch,
    /// Seconds until it was ready for the others.
    pub seconds: f64,
}
