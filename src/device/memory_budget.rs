use crate::evidence::{BudgetBound, BudgetEvidence, FittingBatch};
use crate::memory::SystemMemory;
use crate::model::ModelConfiguration;

use super::training_memory::{TrainingMemory, TrainingSize, fitting_batch};

/// Part of a small machine's memory that is kept free, where the reserve that was asked for would take half of it or more.
const RESERVE_OF_SMALL_MACHINES: u64 = 4;

/// How much memory training may take, and what fits into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryBudget {
    /// The figures, and which of them decides; `report::budget_in_words` says them.
    pub figures: BudgetEvidence,
}

/// A step that was fitted into a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FittedStep {
    /// The part of the batch that fits; 0 rows when not even one does.
    pub batch: FittingBatch,
    /// What the whole batch that was asked for is predicted to take.
    pub asked: TrainingMemory,
    /// What the rows that fit are predicted to take; `None` when not even one does.
    pub fitted: Option<TrainingMemory>,
}

impl FittedStep {
    /// Whether all rows that were asked for fit.
    pub fn is_whole(&self) -> bool {
        self.fitted == Some(self.asked)
    }
}

impl MemoryBudget {
    /// Bytes that are kept free for the system and other programs, unless the user says otherwise.
    pub const DEFAULT_RESERVE: u64 = 8_000_000_000;

    /// The budget of a machine with this memory, of which MLX holds `held` bytes already and of which `reserve` bytes are to
    /// stay free.
    ///
    /// `working_set` is what a GPU recommends as the most that programs hold on it. On a machine that is not twice as large
    /// as the reserve, a quarter of its memory is kept free instead.
    pub fn new(memory: SystemMemory, working_set: Option<u64>, held: u64, reserve: u64) -> Self {
        let kept_free = if reserve > memory.total / 2 {
            memory.total / RESERVE_OF_SMALL_MACHINES
        } else {
            reserve
        };
        let bounds = [
            (BudgetBound::Reserve, Some(memory.total - kept_free)),
            (BudgetBound::WorkingSet, working_set),
            (BudgetBound::Available, Some(memory.available.saturating_add(held))),
        ];
        // The first of equals: the reserve is what the user can change.
        let (bound, limit) = bounds
            .into_iter()
            .filter_map(|(bound, limit)| Some((bound, limit?)))
            .min_by_key(|(_, limit)| *limit)
            .unwrap_or((BudgetBound::Reserve, memory.total - kept_free));
        Self {
            figures: BudgetEvidence {
                limit,
                bound,
                reserve: kept_free,
                asked_reserve: reserve,
            },
        }
    }

    /// Bytes that MLX may hold in all.
    pub fn limit(&self) -> u64 {
        self.figures.limit
    }

    /// The largest part of a batch of `size` whose step is predicted to stay within the budget, on a model that takes
    /// `weights` bytes as it is loaded.
    pub fn fit(&self, configuration: &ModelConfiguration, weights: u64, size: TrainingSize) -> FittedStep {
        let batch = fitting_batch(configuration, size, self.limit().saturating_sub(weights));
        let predict =
            |batch_size: usize| TrainingMemory::predict(configuration, weights, TrainingSize { batch_size, ..size });
        let asked = predict(size.batch_size);
        FittedStep {
            batch,
            asked,
            fitted: (batch.rows > 0).then(|| predict(batch.rows)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::MemoryBudget;
    use crate::evidence::BudgetBound;
    use crate::memory::SystemMemory;
    use rstest::rstest;

    const GB: u64 = 1_000_000_000;

    #[rstest]
    #[case::a_mac_with_64_gb(64, 60, Some(51), BudgetBound::WorkingSet, 51, 8)]
    #[case::without_a_gpu(64, 60, None, BudgetBound::Reserve, 56, 8)]
    #[case::a_busy_machine(64, 20, Some(51), BudgetBound::Available, 20, 8)]
    #[case::twice_the_reserve(16, 16, None, BudgetBound::Reserve, 8, 8)]
    #[case::a_small_machine(8, 7, None, BudgetBound::Reserve, 6, 2)]
    fn the_least_of_three_bounds_is_the_budget(
        #[case] total: u64,
        #[case] available: u64,
        #[case] working_set: Option<u64>,
        #[case] bound: BudgetBound,
        #[case] limit: u64,
        #[case] reserve: u64,
    ) {
        let memory = SystemMemory {
            total: total * GB,
            available: available * GB,
        };
        let working_set = working_set.map(|bytes| bytes * GB);
        let figures = MemoryBudget::new(memory, working_set, 0, MemoryBudget::DEFAULT_RESERVE).figures;
        assert_eq!(
            (figures.bound, figures.limit, figures.reserve),
            (bound, limit * GB, reserve * GB)
        );
        assert_eq!(figures.asked_reserve, 8 * GB);
    }

    #[test]
    fn what_mlx_holds_already_is_not_taken_from_what_it_may_hold() {
        let memory = SystemMemory {
            total: 64 * GB,
            available: 20 * GB,
        };
        assert_eq!(MemoryBudget::new(memory, None, 5 * GB, 0).limit(), 25 * GB);
    }
}
