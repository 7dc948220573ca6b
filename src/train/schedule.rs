use std::f64::consts::PI;

/// How the learning rate goes on after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Decay {
    /// It stays.
    Constant,
    /// It falls along half a cosine to `end` and stays there (Loshchilov and Hutter 2017, arXiv 1608.03983, one period).
    Cosine {
        /// Updates of the fall; at least 1.
        steps: usize,
        /// Learning rate at its end.
        end: f64,
    },
    /// It falls, or rises, along a line to `end` and stays there.
    Linear {
        /// Updates until then; at least 1.
        steps: usize,
        /// Learning rate then.
        end: f64,
    },
    /// It is multiplied by `factor` at every update.
    Exponential {
        /// The factor.
        factor: f64,
    },
    /// It is multiplied by `factor` once in `every` updates.
    Steps {
        /// The factor.
        factor: f64,
        /// Updates between; at least 1.
        every: usize,
    },
}

impl Decay {
    /// The learning rate `updates` after the peak was first used.
    fn after(self, updates: usize, peak: f64) -> f64 {
        let part = |steps: usize| (updates as f64 / steps as f64).min(1.0);
        match self {
            Self::Constant => peak,
            Self::Cosine { steps, end } => end + 0.5 * (1.0 + (PI * part(steps)).cos()) * (peak - end),
            Self::Linear { steps, end } => peak + part(steps) * (end - peak),
            Self::Exponential { factor } => peak * factor.powf(updates as f64),
            Self::Steps { factor, every } => peak * factor.powf((updates / every.max(1)) as f64),
        }
    }
}

/// The learning rate of every update: a linear warm-up to the peak, then a decay.
///
/// Everything is counted in updates of the optimizer, not in batches: with gradient accumulation the two differ.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Learning rate after the warm-up.
    pub peak: f64,
    /// Updates of the warm-up; 0 for none.
    pub warmup_steps: usize,
    /// Learning rate of the first update of the warm-up; `None` for one step of its equal parts,
    /// `peak / (warmup_steps + 1)`.
    pub warmup_init: Option<f64>,
    /// What follows.
    pub decay: Decay,
}

impl Schedule {
    /// The peak from the first update to the last.
    pub fn constant(peak: f64) -> Self {
        Self {
            peak,
            warmup_steps: 0,
            warmup_init: None,
            decay: Decay::Constant,
        }
    }

    /// Learning rate of update `step`, counted from 1.
    ///
    /// With a `warmup_init` this is mlx-lm's `lr_schedule`: the warm-up reaches the peak at update `warmup_steps + 1`, and
    /// the decay begins with the update behind it.
    pub fn learning_rate(&self, step: usize) -> f64 {
        let index = step.saturating_sub(1);
        if index < self.warmup_steps {
            let parts = self.warmup_steps as f64;
            let first = self.warmup_init.unwrap_or(self.peak / (parts + 1.0));
            return first + (self.peak - first) * index as f64 / parts;
        }
        let passed = match self.warmup_steps {
            0 => 0,
            warmup => warmup + 1,
        };
        self.decay.after(index.saturating_sub(passed), self.peak)
    }
}

#[cfg(test)]
mod tests {
    use super::{Decay, Schedule};
    use approx::assert_relative_eq;

    #[test]
    fn the_peak_holds_from_the_first_step_without_warm_up() {
        let schedule = Schedule::constant(4.0);
        assert_relative_eq!(schedule.learning_rate(1), 4.0);
        assert_relative_eq!(schedule.learning_rate(50), 4.0);
    }

    #[test]
    fn warm_up_rises_in_equal_parts_and_never_starts_at_zero() {
        let schedule = Schedule {
            warmup_steps: 3,
            ..Schedule::constant(4.0)
        };
        let rates: Vec<f64> = (1..=5).map(|step| schedule.learning_rate(step)).collect();
        assert_eq!(rates, [1.0, 2.0, 3.0, 4.0, 4.0]);
    }

    #[test]
    fn the_cosine_is_at_half_the_peak_in_the_middle_and_at_zero_in_the_end() {
        let schedule = Schedule {
            decay: Decay::Cosine { steps: 100, end: 0.0 },
            ..Schedule::constant(4.0)
        };
        assert_relative_eq!(schedule.learning_rate(1), 4.0);
        assert_relative_eq!(schedule.learning_rate(51), 2.0, epsilon = 1e-12);
        assert_relative_eq!(schedule.learning_rate(101), 0.0, epsilon = 1e-12);
        assert_relative_eq!(schedule.learning_rate(500), 0.0, epsilon = 1e-12);
    }

    #[test]
    fn a_decay_begins_behind_the_warm_up() {
        let schedule = Schedule {
            warmup_steps: 2,
            warmup_init: Some(0.0),
            decay: Decay::Linear { steps: 2, end: 0.0 },
            ..Schedule::constant(4.0)
        };
        let rates: Vec<f64> = (1..=7).map(|step| schedule.learning_rate(step)).collect();
        assert_eq!(rates, [0.0, 2.0, 4.0, 4.0, 2.0, 0.0, 0.0]);
    }
}
