use super::harm::Measured;
use super::plan::Trial;
use crate::rules::Severity;

/// How a run ended, as its user would see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Nothing is held against it.
    Healthy,
    /// A rule names at least one error or warning.
    Findings,
    /// Something is off and no rule names the cause.
    Abnormal,
    /// A phase failed.
    Incomplete,
    /// The inputs were refused with an error.
    Refused,
    /// The program itself failed.
    Crashed,
    /// The fault could not be made, so that there was no run.
    NotMade,
}

impl Ending {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Findings => "findings",
            Self::Abnormal => "abnormal",
            Self::Incomplete => "incomplete",
            Self::Refused => "refused",
            Self::Crashed => "crashed",
            Self::NotMade => "not made",
        }
    }
}

/// A finding that no other finding explains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The rule.
    pub name: &'static str,
    /// How bad it is.
    pub severity: Severity,
}

/// What came of applying a fix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cure {
    /// The rule whose fix was applied.
    pub rule: &'static str,
    /// How the run with the fix ended.
    pub ending: Ending,
    /// What is left.
    pub roots: Vec<Root>,
}

/// What came of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// How it ended.
    pub ending: Ending,
    /// Root causes, the worst first.
    pub roots: Vec<Root>,
    /// What was said where there is no verdict.
    pub error: Option<String>,
    /// The answers of the monitors, in their order.
    pub monitors: Vec<Option<bool>>,
    /// What the run is worth.
    pub measured: Measured,
    /// What came of the worst finding's mechanical fix; `None` when there is none or it was not tried.
    pub cure: Option<Cure>,
    /// Seconds for the run, the one with the fix not counted.
    pub seconds: f64,
    /// Seconds of these that probes cost.
    pub probe_seconds: f64,
}

impl Record {
    /// Root causes that are held against the run: errors and warnings.
    pub fn held(&self) -> impl Iterator<Item = &Root> {
        self.roots.iter().filter(|root| root.severity > Severity::Info)
    }
}

/// One run of the plan and what came of it.
#[derive(Debug, Clone)]
pub struct Trialled {
    /// The run.
    pub trial: Trial,
    /// What came of it.
    pub record: Record,
}
