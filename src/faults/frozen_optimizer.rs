use std::collections::BTreeMap;

use mlx_rs::Array;
use mlx_rs::error::Result;

use crate::train::{AdamWSettings, Optimizer};
use crate::workflow::Workflow;

/// An optimizer that counts its steps and drops its updates.
#[derive(Debug)]
pub struct FrozenOptimizer;

impl Workflow for FrozenOptimizer {
    fn optimizer(&self, _settings: AdamWSettings) -> Box<dyn Optimizer> {
        Box::new(CountsOnly { steps: 0 })
    }
}

#[derive(Debug)]
struct CountsOnly {
    steps: u64,
}

impl Optimizer for CountsOnly {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn update(
        &mut self,
        _parameters: &mut BTreeMap<String, Array>,
        _gradients: &BTreeMap<String, Array>,
        _learning_rate: f64,
    ) -> Result<()> {
        self.steps += 1;
        Ok(())
    }

    fn step_count(&self) -> u64 {
        self.steps
    }

    fn state(&self) -> Vec<&Array> {
        Vec::new()
    }
}
