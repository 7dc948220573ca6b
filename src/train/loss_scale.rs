/// Updates without an overflow after which the factor is doubled, as in PyTorch's `GradScaler`.
const GROWTH_INTERVAL: usize = 2000;

/// The factor by which a loss in 16 bits is raised, so that small gradients do not vanish (Micikevicius et al. 2018, arXiv
/// 1710.03740); gradients are divided by it before anything else sees them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossScale {
    factor: f64,
    updates: usize,
}

impl LossScale {
    /// A factor that stood for so many updates.
    pub fn new(factor: f64, updates: usize) -> Self {
        Self { factor, updates }
    }

    /// The factor, a power of two.
    pub fn factor(&self) -> f64 {
        self.factor
    }

    /// Updates since it was last changed.
    pub fn updates(&self) -> usize {
        self.updates
    }

    /// Takes notice of an update without an overflow.
    pub fn updated(&mut self) {
        self.updates += 1;
        if self.updates >= GROWTH_INTERVAL {
            *self = Self::new(self.factor * 2.0, 0);
        }
    }

    /// Halves the factor after an overflow; returns whether it could be lowered.
    pub fn lower(&mut self) -> bool {
        if self.factor <= 1.0 {
            return false;
        }
        *self = Self::new(self.factor / 2.0, 0);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{GROWTH_INTERVAL, LossScale};

    #[test]
    fn the_factor_halves_at_an_overflow_and_doubles_after_a_long_calm() {
        let mut scale = LossScale::new(4.0, 0);
        assert!(scale.lower());
        assert_eq!((scale.factor(), scale.updates()), (2.0, 0));
        for _ in 0..GROWTH_INTERVAL {
            scale.updated();
        }
        assert_eq!((scale.factor(), scale.updates()), (4.0, 0));
    }

    #[test]
    fn a_saved_scale_goes_on_counting() {
        let mut scale = LossScale::new(4.0, GROWTH_INTERVAL - 2);
        scale.updated();
        assert_eq!((scale.factor(), scale.updates()), (4.0, GROWTH_INTERVAL - 1));
        scale.updated();
        assert_eq!((scale.factor(), scale.updates()), (8.0, 0));
    }

    #[test]
    fn a_factor_of_one_is_the_last() {
        assert!(!LossScale::new(1.0, 0).lower());
    }
}
