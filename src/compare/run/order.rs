//! The order of tests.

use crate::compare::scenarios::Scenario;
use crate::compare::{Format, Plan, TestKey};

/// Every test of a plan in order: pairs, within them scenarios, within them rounds. The formats take turns, and so does who is
/// first, so that what changes on the machine with time falls on both.
pub fn tests(plan: &Plan, scenarios: &[&dyn Scenario]) -> Vec<TestKey> {
    let mut tests = Vec::new();
    for pair in &plan.pairs {
        for name in &plan.scenarios {
            let scenario = scenarios.iter().find(|scenario| scenario.name() == name);
            for round in 0..scenario.map_or(1, |scenario| scenario.rounds(plan)) {
                let formats = match round % 2 {
                    0 => Format::ALL,
                    _ => Format::ALL.map(Format::other),
                };
                let formats = formats.into_iter().filter(|format| plan.formats.contains(format));
                tests.extend(formats.map(|format| TestKey {
                    pair: pair.name.clone(),
                    scenario: name.clone(),
                    format,
                    round,
                }));
            }
        }
    }
    tests
}
