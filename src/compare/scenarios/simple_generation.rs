//! Short questions, one after the other.

use super::requests::load_for_prompts;
use super::{Arrivals, Order, Scenario, Stage, Stop};
use crate::compare::Plan;
use crate::compare::servers::LoadRequest;

/// Group and phase of what is measured.
const MEASURE: &str = "measure";

pub(super) struct SimpleGeneration;

impl Scenario for SimpleGeneration {
    fn name(&self) -> &'static str {
        "simple-generation"
    }

    fn summary(&self) -> &'static str {
        "short questions one after the other: time to first token, time for each token, tokens in a second"
    }

    fn needs(&self, plan: &Plan) -> LoadRequest {
        load_for_prompts(plan, 1)
    }

    fn run(&self, stage: &mut Stage<'_>) -> Result<(), Stop> {
        let plan = stage.plan();
        stage.load(&self.needs(plan))?;
        stage.warm_up()?;
        let orders = Order::in_turn(plan, plan.repeats);
        stage.phase(MEASURE, |stage| stage.ask_all(MEASURE, &orders, &Arrivals::AtOnce(1)))?;
        Ok(())
    }
}
