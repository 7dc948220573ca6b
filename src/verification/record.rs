use serde::{Deserialize, Serialize};

use super::category::Category;
use super::check::{CheckResult, Deviation, Failure, NotPassed, Passed};
use crate::evidence::RunEnvironment;

/// Version of the format; raised whenever a field is added, renamed or changes meaning.
pub const VERIFICATION_SCHEMA_VERSION: u32 = 1;

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verification {
    /// [`VERIFICATION_SCHEMA_VERSION`] of the program that wrote it.
    pub schema_version: u32,
    /// The program, its library and the device.
    pub environment: RunEnvironment,
    /// Whether the user ended it before the last check.
    pub interrupted: bool,
    /// Seconds that it took.
    pub seconds: f64,
    /// What was asked for, in the order of [`Category::ALL`].
    pub categories: Vec<CategoryRecord>,
}

/// The checks of a category.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CategoryRecord {
    /// Which.
    pub category: Category,
    /// Its checks, in the order in which they were made.
    pub checks: Vec<CheckRecord>,
}

/// One check, with one model where it is made with each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckRecord {
    /// What was checked, unique in its category.
    pub name: String,
    /// Seconds that it took.
    pub seconds: f64,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a check ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Outcome {
    /// All was as it should be.
    Passed {
        /// What was compared or found, in a few words.
        detail: String,
        /// How far off it was; `None` where it was compared exactly.
        deviation: Option<Deviation>,
    },
    /// Something is wrong.
    Failed(Failure),
    /// The check itself broke down, which counts as failed.
    Crashed {
        /// What it said.
        error: String,
    },
    /// It was not made.
    Skipped {
        /// Why: one sentence without a final period.
        reason: String,
    },
}

impl From<CheckResult> for Outcome {
    fn from(result: CheckResult) -> Self {
        match result {
            Ok(Passed { detail, deviation }) => Self::Passed { detail, deviation },
            Err(NotPassed::Failed(failure)) => Self::Failed(failure),
            Err(NotPassed::Skipped(reason)) => Self::Skipped { reason },
        }
    }
}

/// How many checks ended in which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// All as it should be.
    pub passed: usize,
    /// Wrong, or broken down.
    pub failed: usize,
    /// Not made.
    pub skipped: usize,
}

impl Tally {
    fn of<'record>(checks: impl Iterator<Item = &'record CheckRecord>) -> Self {
        let mut tally = Self::default();
        for check in checks {
            match check.outcome {
                Outcome::Passed { .. } => tally.passed += 1,
                Outcome::Failed(_) | Outcome::Crashed { .. } => tally.failed += 1,
                Outcome::Skipped { .. } => tally.skipped += 1,
            }
        }
        tally
    }
}

impl CategoryRecord {
    /// How many of its checks ended in which way.
    pub fn tally(&self) -> Tally {
        Tally::of(self.checks.iter())
    }

    /// Seconds of all its checks.
    pub fn seconds(&self) -> f64 {
        self.checks.iter().map(|check| check.seconds).sum()
    }
}

impl Verification {
    /// How many checks ended in which way.
    pub fn tally(&self) -> Tally {
        Tally::of(self.categories.iter().flat_map(|category| &category.checks))
    }
}

/// The verification as JSON, with a final line break.
///
/// # Errors
/// A number has no form in JSON.
pub fn to_json(verification: &Verification) -> serde_json::Result<String> {
    // Through a value, so that the fields stand in their order.
    Ok(format!("{:#}\n", serde_json::to_value(verification)?))
}
