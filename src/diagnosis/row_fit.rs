use mlx_rs::error::Exception;

use crate::data::{Batch, Dataset};
use crate::evidence::{FitEvidence, ReadLoss, Slot};
use crate::model::CausalModel;
use crate::probes::next_token::NextTokens;
use crate::probes::{fit, loss_check, pairing};
use crate::train::Lanes;

/// The rows whose prediction is measured before and after.
pub(super) struct RowFit<'run> {
    /// The rows that are trained on.
    pub(super) dataset: &'run Dataset,
    /// The first batch of them; `None` when there is no row.
    pub(super) batch: Option<&'run Batch>,
    /// Ids that end an answer.
    pub(super) stop_ids: &'run [u32],
    /// Where parts of the work are computed side by side.
    pub(super) lanes: &'run Lanes,
}

impl RowFit<'_> {
    /// The fit of `model` before training, with all that the untouched base says about the batch.
    pub(super) fn before(&self, model: &CausalModel) -> (Slot<FitEvidence>, Slot<Vec<ReadLoss>>) {
        let Some(batch) = self.batch else {
            return (no_row(), no_row());
        };
        match self.measure_before(model, batch) {
            Ok((fit, readings)) => (Slot::Ran(fit), Slot::Ran(readings)),
            Err(error) => (Slot::crashed(&error), Slot::crashed(&error)),
        }
    }

    fn measure_before(&self, model: &CausalModel, batch: &Batch) -> Result<(FitEvidence, Vec<ReadLoss>), Exception> {
        let tokens = NextTokens::read(model, batch, self.stop_ids, self.lanes)?;
        let fit = FitEvidence {
            pairing: pairing::measure(model, &self.dataset.examples, self.lanes)?,
            ..fit::measure(&tokens, &fit::first_rows(batch), self.stop_ids)
        };
        Ok((fit, loss_check::readings(&tokens, batch)))
    }

    /// The fit of `model` after training.
    pub(super) fn after(&self, model: &CausalModel) -> Slot<FitEvidence> {
        let Some(batch) = self.batch else {
            return no_row();
        };
        let rows = fit::first_rows(batch);
        match NextTokens::read(model, &rows, self.stop_ids, self.lanes) {
            Ok(tokens) => Slot::Ran(fit::measure(&tokens, &rows, self.stop_ids)),
            Err(error) => Slot::crashed(error),
        }
    }
}

fn no_row<T>() -> Slot<T> {
    Slot::skipped("there is no row to train on")
}
