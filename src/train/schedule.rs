/// A learning rate that rises linearly to its peak and then stays, or falls along a cosine to zero.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Learning rate after the warm-up.
    pub peak: f64,
    /// Steps of the warm-up; 0 for none.
    pub warmup_steps: usize,
    /// The step after which the cosine would reach zero; `None` to stay at the peak.
    pub decay_steps: Option<usize>,
}

impl Schedule {
    /// Learning rate of `step`, counted from 1: `peak * step / (warmup_steps + 1)` until the peak is reached.
    ///
    /// The cosine spans the whole run, warm-up included (Loshchilov and Hutter 2017, arXiv 1608.03983, one period).
    pub fn learning_rate(&self, step: usize) -> f64 {
        let warmup = (step as f64 / (self.warmup_steps as f64 + 1.0)).min(1.0);
        let decay = self.decay_steps.map_or(1.0, |steps| {
            let progress = ((step - 1) as f64 / steps as f64).min(1.0);
            0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
        });
        self.peak * warmup * decay
    }
}

#[cfg(test)]
mod tests {
    use super::Schedule;
    use approx::assert_relative_eq;

    const CONSTANT: Schedule = Schedule {
        peak: 4.0,
        warmup_steps: 0,
        decay_steps: None,
    };

    #[test]
    fn the_peak_holds_from_the_first_step_without_warm_up() {
        assert_relative_eq!(CONSTANT.learning_rate(1), 4.0);
        assert_relative_eq!(CONSTANT.learning_rate(50), 4.0);
    }

    #[test]
    fn warm_up_rises_in_equal_parts_and_never_starts_at_zero() {
        let schedule = Schedule {
            warmup_steps: 3,
            ..CONSTANT
        };
        let rates: Vec<f64> = (1..=5).map(|step| schedule.learning_rate(step)).collect();
        assert_eq!(rates, [1.0, 2.0, 3.0, 4.0, 4.0]);
    }

    #[test]
    fn the_cosine_is_at_half_the_peak_in_the_middle_and_at_zero_in_the_end() {
        let schedule = Schedule {
            decay_steps: Some(100),
            ..CONSTANT
        };
        assert_relative_eq!(schedule.learning_rate(1), 4.0);
        assert_relative_eq!(schedule.learning_rate(51), 2.0, epsilon = 1e-12);
        assert_relative_eq!(schedule.learning_rate(101), 0.0, epsilon = 1e-12);
        assert_relative_eq!(schedule.learning_rate(500), 0.0, epsilon = 1e-12);
    }
}
