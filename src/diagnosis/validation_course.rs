use std::time::Instant;

use mlx_rs::error::Exception;

use crate::data::{Dataset, Example};
use crate::evidence::ValidationLoss;
use crate::model::CausalModel;
use crate::probes::validation;
use crate::train::Lanes;

/// Steps of a run from which on rows for validation are measured on the way: shorter ones hardly have a way.
const LONG_RUN: usize = 20;
/// Where on the way they are measured, as parts of the run: what is learnt by heart is learnt early.
const MOMENTS: [usize; 3] = [8, 4, 2];
/// Most tokens that are measured each time, beyond the first row.
const TOKENS: usize = 192;
/// The same in a long run, where a rise of a tenth of a nat is judged: one row alone may rise by that by chance.
const LONG_RUN_TOKENS: usize = 512;

/// Measures the loss of validation rows before, after, and in long runs also during training, since the ends alone do not
/// show a loss that fell and rose again.
pub struct ValidationCourse<'run> {
    rows: Option<&'run Dataset>,
    /// Most tokens that are measured each time.
    tokens: usize,
    /// Numbers of updates after which it is measured.
    due: Vec<usize>,
    losses: Vec<ValidationLoss>,
    seconds: f64,
}

impl<'run> ValidationCourse<'run> {
    /// The course of a run of `steps` steps.
    pub fn new(rows: Option<&'run Dataset>, steps: usize) -> Self {
        let (tokens, due) = if steps >= LONG_RUN {
            (LONG_RUN_TOKENS, MOMENTS.map(|part| steps / part).to_vec())
        } else {
            (TOKENS, Vec::new())
        };
        Self {
            rows,
            tokens,
            due,
            losses: Vec::new(),
            seconds: 0.0,
        }
    }

    /// The rows that are measured.
    pub fn measured_rows(&self) -> Vec<&'run Example> {
        let Some(rows) = self.rows else {
            return Vec::new();
        };
        let chosen = validation::rows(&rows.examples, self.tokens);
        chosen.into_iter().filter_map(|row| rows.examples.get(row)).collect()
    }

    /// The loss of `model` now; `None` without rows that have a target, or when it is not finite.
    pub fn loss(&mut self, model: &CausalModel, lanes: &Lanes) -> Result<Option<f64>, Exception> {
        let Some(rows) = self.rows else {
            return Ok(None);
        };
        let started = Instant::now();
        // Dropout would measure something else, and draw the random numbers of the next step.
        let mut still = model.clone();
        still.set_training(false);
        let loss = validation::loss(&still, &rows.examples, self.tokens, lanes)?;
        self.seconds += started.elapsed().as_secs_f64();
        Ok(loss)
    }

    /// Takes notice of `model` after so many updates.
    pub fn after_update(&mut self, updates: usize, model: &CausalModel, lanes: &Lanes) -> Result<(), Exception> {
        if self.rows.is_some() && self.due.contains(&updates) {
            let loss = self.loss(model, lanes)?;
            self.losses.push(ValidationLoss { updates, loss });
        }
        Ok(())
    }

    /// What was measured on the way, and the seconds that all of it took.
    pub fn finish(self) -> (Vec<ValidationLoss>, f64) {
        (self.losses, self.seconds)
    }
}
