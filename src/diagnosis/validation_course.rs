use std::time::Instant;

use mlx_rs::error::Exception;

use crate::data::Dataset;
use crate::evidence::ValidationLoss;
use crate::model::CausalModel;
use crate::probes::validation;
use crate::train::Lanes;

/// Steps of a run from which on rows for validation are measured on the way: shorter ones hardly have a way.
const LONG_RUN: usize = 20;
/// Where on the way they are measured, as parts of the run: what is learnt by heart is learnt early.
const MOMENTS: [usize; 3] = [8, 4, 2];

/// Measures the loss of validation rows on the way, since the end alone does not show a loss that fell and rose again.
pub struct ValidationCourse<'run> {
    rows: Option<&'run Dataset>,
    /// Numbers of updates after which it is due.
    due: [usize; MOMENTS.len()],
    /// Updates made so far.
    updates: usize,
    losses: Vec<ValidationLoss>,
    seconds: f64,
}

impl<'run> ValidationCourse<'run> {
    /// The course of a run of `steps` steps.
    pub fn new(rows: Option<&'run Dataset>, steps: usize) -> Self {
        Self {
            rows: rows.filter(|_| steps >= LONG_RUN),
            due: MOMENTS.map(|part| steps / part),
            updates: 0,
            losses: Vec::new(),
            seconds: 0.0,
        }
    }

    /// Takes notice of `model` before its next update.
    pub fn before_update(&mut self, model: &CausalModel, lanes: &Lanes) -> Result<(), Exception> {
        if let Some(rows) = self.rows.filter(|_| self.due.contains(&self.updates)) {
            let started = Instant::now();
            // Dropout would measure something else, and draw the random numbers of the next step.
            let mut still = model.clone();
            still.set_training(false);
            self.losses.push(ValidationLoss {
                updates: self.updates,
                loss: validation::loss(&still, &rows.examples, lanes)?,
            });
            self.seconds += started.elapsed().as_secs_f64();
        }
        self.updates += 1;
        Ok(())
    }

    /// What was measured, and the seconds it took.
    pub fn finish(self) -> (Vec<ValidationLoss>, f64) {
        (self.losses, self.seconds)
    }
}
