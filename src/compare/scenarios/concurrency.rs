//! Several requests at one time.

use super::requests::load_for_prompts;
use super::{Arrivals, Order, Scenario, Stage, Stop};
use crate::compare::servers::LoadRequest;
use crate::compare::{Failure, Plan};

/// Group and phase of requests that are sent at a rate.
const REQUEST_RATE: &str = "request-rate";

pub(super) struct Concurrency;

impl Scenario for Concurrency {
    fn name(&self) -> &'static str {
        "concurrency"
    }

    fn summary(&self) -> &'static str {
        "several requests at one time, or at a rate: throughput, and what each user waits"
    }

    fn needs(&self, plan: &Plan) -> LoadRequest {
        load(plan)
    }

    fn run(&self, stage: &mut Stage<'_>) -> Result<(), Stop> {
        let plan = stage.plan();
        stage.load(&self.needs(plan))?;
        stage.warm_up()?;
        match plan.request_rate {
            Some(rate) => at_rate(stage, rate)?,
            None => at_levels(stage)?,
        }
        Ok(())
    }
}

/// Room for as many requests at one time as the plan has.
pub(super) fn load(plan: &Plan) -> LoadRequest {
    load_for_prompts(plan, plan.concurrency.iter().copied().max().unwrap_or(1))
}

/// Requests of a level: at least as many as are repeated, so that all places are taken from beginning to end.
fn count(plan: &Plan, level: usize) -> usize {
    plan.repeats.next_multiple_of(level.max(1))
}

/// One group of requests for each number at one time.
pub(super) fn at_levels(stage: &mut Stage<'_>) -> Result<(), Failure> {
    let plan = stage.plan();
    for level in plan.concurrency.iter().copied() {
        let group = format!("concurrency-{level}");
        let orders = Order::in_turn(plan, count(plan, level));
        stage.phase(&group, |stage| stage.ask_all(&group, &orders, &Arrivals::AtOnce(level)))?;
    }
    Ok(())
}

/// As many requests as all levels together have, each at its time, which is the same for both formats.
fn at_rate(stage: &mut Stage<'_>, rate: f64) -> Result<(), Failure> {
    let plan = stage.plan();
    let total = plan.concurrency.iter().map(|level| count(plan, *level)).sum();
    stage.note(format!(
        "{total} requests were due at {rate} in a second on average, as a Poisson process, whether answers had come or not"
    ));
    let orders = Order::in_turn(plan, total);
    let arrivals = Arrivals::poisson(rate, total, plan.seed);
    stage.phase(REQUEST_RATE, |stage| stage.ask_all(REQUEST_RATE, &orders, &arrivals))
}
