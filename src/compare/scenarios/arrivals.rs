//! When requests are due.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// When requests are due.
#[derive(Debug, Clone, PartialEq)]
pub enum Arrivals {
    /// So many are under way at one time; each is due when one before it has ended.
    AtOnce(usize),
    /// Each is due so many seconds after the first could be, whether answers have come or not. Latencies count from then, so
    /// that a server that falls behind is not spared requests (coordinated omission).
    Due(Vec<f64>),
}

impl Arrivals {
    /// A Poisson process of `rate` requests in a second, as users who do not know of each other make, from a seed.
    pub fn poisson(rate: f64, count: usize, seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut due = 0.0;
        let times = (0..count).map(|_| {
            // 53 random bits are a number in (0, 1]; its logarithm is finite.
            let share = ((random.next_u64() >> 11) + 1) as f64 / (1_u64 << 53) as f64;
            due -= share.ln() / rate;
            due
        });
        Self::Due(times.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::Arrivals;

    /// The gaps of a Poisson process are exponential: their mean is 1/rate and their standard deviation too.
    #[test]
    fn arrivals_are_a_poisson_process_of_the_rate() {
        let Arrivals::Due(times) = Arrivals::poisson(4.0, 20_000, 3) else {
            panic!("they are due at times")
        };
        let mut last = 0.0;
        let gaps: Vec<f64> = times
            .iter()
            .map(|time| time - std::mem::replace(&mut last, *time))
            .collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!(gaps.iter().all(|gap| *gap >= 0.0));
        approx::assert_relative_eq!(mean, 0.25, max_relative = 0.03);
        approx::assert_relative_eq!(variance.sqrt(), 0.25, max_relative = 0.03);
    }

    #[test]
    fn one_seed_always_gives_the_same_arrivals() {
        assert_eq!(Arrivals::poisson(2.0, 50, 9), Arrivals::poisson(2.0, 50, 9));
        assert_ne!(Arrivals::poisson(2.0, 50, 9), Arrivals::poisson(2.0, 50, 10));
    }
}
