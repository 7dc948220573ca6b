//! Going on with a comparison that was ended early.

use serde_json::Value;

use crate::compare::analysis::lacks;
use crate::compare::{Machine, Plan, Record};

/// Why a comparison cannot be gone on with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    /// Something else was asked for.
    #[error("these results are of another plan\n  found: another value of {}\n  expected: the plan that was measured\n  hint: measure anew without `--resume`, or change the plan back", .0.join(", "))]
    OtherPlan(Vec<String>),
    /// It was measured elsewhere.
    #[error("these results were measured on another machine or by another version\n  found: another value of {}\n  expected: the machine and the program that it began with\n  hint: measure anew without `--resume`", .0.join(", "))]
    OtherMachine(Vec<String>),
}

/// The record with only those tests that need not be run again.
pub(super) fn resumable(mut earlier: Record, plan: &Plan, machine: &Machine) -> Result<Record, ResumeError> {
    let differences = differing(&earlier.plan, plan);
    if !differences.is_empty() {
        return Err(ResumeError::OtherPlan(differences));
    }
    let differences = differing(&same_later(&earlier.machine), &same_later(machine));
    if !differences.is_empty() {
        return Err(ResumeError::OtherMachine(differences));
    }
    earlier.tests.retain(|test| !lacks(test));
    earlier.interrupted = false;
    Ok(earlier)
}

/// A machine without what may change while it stays the same.
fn same_later(machine: &Machine) -> Machine {
    Machine {
        system: None,
        load_average: None,
        ..machine.clone()
    }
}

/// Names of the fields that differ.
fn differing<T: serde::Serialize + PartialEq>(earlier: &T, now: &T) -> Vec<String> {
    if earlier == now {
        return Vec::new();
    }
    let (Ok(Value::Object(earlier)), Ok(Value::Object(now))) =
        (serde_json::to_value(earlier), serde_json::to_value(now))
    else {
        return vec!["something".to_owned()];
    };
    let names = now.iter().filter(|(name, value)| earlier.get(*name) != Some(value));
    names.map(|(name, _)| format!("`{}`", name.replace('_', "-"))).collect()
}
