//! Updates that several processes make together, each from rows of its own.

use std::collections::BTreeMap;

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::LossAndGradients;
use crate::data::Batch;

/// What a process of several has to do with a batch that all of them are given.
pub trait DataParallel {
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
