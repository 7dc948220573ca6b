use std::collections::BTreeMap;

use mlx_rs::Array;
use thiserror::Error;

use super::per_parameter::Kept;
use super::{Optimizer, PerParameter, UpdateRule};

/// Why an optimizer did not take its state back.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// Arrays have names that this optimizer does not give.
    #[error("the stored state is not one of {optimizer} for these parameters\n  found: `{found}`")]
    OtherNames {
        /// The optimizer's name.
        optimizer: &'static str,
        /// The first array that does not belong.
        found: String,
    },
    /// An array of some parameter is missing.
    #[error("the stored state of {optimizer} is not whole\n  found: no `{missing}`")]
    Missing {
        /// The optimizer's name.
        optimizer: &'static str,
        /// The first array that is missing.
        missing: String,
    },
}

/// An optimizer whose state can be written down and taken back, so that a run goes on as if it had never stopped.
pub trait StoredOptimizer: Optimizer {
    /// Every array that carries over, named `<parameter>.<slot>`.
    fn stored(&self) -> BTreeMap<String, Array>;

    /// Takes back what [`Self::stored`] gave for `parameters` after `step_count` updates.
    ///
    /// # Errors
    /// Arrays are missing or of another optimizer; nothing was changed then.
    fn restore(
        &mut self,
        step_count: u64,
        parameters: &BTreeMap<String, Array>,
        stored: BTreeMap<String, Array>,
    ) -> Result<(), RestoreError>;
}

impl<Rule: UpdateRule> StoredOptimizer for PerParameter<Rule> {
    fn stored(&self) -> BTreeMap<String, Array> {
        let named = |(name, kept): (&String, &Kept)| -> Vec<(String, Array)> {
            let slots = kept.slots.iter().zip(&kept.arrays);
            slots
                .map(|(slot, array)| (stored_name(name, slot), array.clone()))
                .collect()
        };
        self.kept.iter().flat_map(named).collect()
    }

    fn restore(
        &mut self,
        step_count: u64,
        parameters: &BTreeMap<String, Array>,
        mut stored: BTreeMap<String, Array>,
    ) -> Result<(), RestoreError> {
        let mut all = BTreeMap::new();
        // Before the first update nothing is kept.
        for (name, parameter) in parameters.iter().filter(|_| step_count > 0) {
            let slots = self.rule.slots(parameter);
            let take = |slot: &&str| {
                let name = stored_name(name, slot);
                stored.remove(&name).ok_or(RestoreError::Missing {
                    optimizer: Rule::NAME,
                    missing: name,
                })
            };
            let arrays = slots.iter().map(take).collect::<Result<_, _>>()?;
            all.insert(name.clone(), Kept { slots, arrays });
        }
        if let Some(found) = stored.into_keys().next() {
            return Err(RestoreError::OtherNames {
                optimizer: Rule::NAME,
                found,
            });
        }
        self.kept = all;
        self.step_count = step_count;
        Ok(())
    }
}

fn stored_name(parameter: &str, slot: &str) -> String {
    format!("{parameter}.{slot}")
}
