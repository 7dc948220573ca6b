use serde::Serialize;
use serde_json::{Map, Value};

use super::Severity;
use crate::evidence::{Listing, RunSettings, Slot};

/// What a rule says about one run.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The fault is not there.
    Pass,
    /// The fault is there.
    Found(Box<Finding>),
    /// The rule could not judge, for a reason worth showing.
    NotApplicable(String),
}

impl Outcome {
    /// The answer of a rule whose measurements are absent; `what` names them, for example `training`.
    pub fn not_measured<T>(what: &str, slot: &Slot<T>) -> Self {
        Self::NotApplicable(match slot {
            Slot::Ran(_) => format!("{what} was not measured"),
            Slot::Skipped { reason } => format!("{what} was skipped: {reason}"),
            Slot::Crashed { error } => format!("{what} failed: {error}"),
        })
    }

    /// The answer of a rule that does not fit this run.
    pub fn not_applicable(reason: impl Into<String>) -> Self {
        Self::NotApplicable(reason.into())
    }
}

impl From<Finding> for Outcome {
    fn from(finding: Finding) -> Self {
        Self::Found(Box::new(finding))
    }
}

/// How safely a fix can be applied as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Applicability {
    /// Removes the fault that was found.
    MachineApplicable,
    /// Removes the fault in most cases.
    MaybeIncorrect,
    /// Needs something that only the user knows.
    HasPlaceholders,
}

/// What a fix runs.
#[derive(Debug, Clone, PartialEq)]
pub struct FixCommand {
    /// A command that can be pasted into a shell.
    pub text: String,
    /// The settings of a diagnosis that the command runs; `None` when it runs something else.
    pub settings: Option<RunSettings>,
}

impl From<String> for FixCommand {
    fn from(text: String) -> Self {
        Self { text, settings: None }
    }
}

/// One way to remove the fault.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fix {
    /// One sentence in the imperative, without a final period.
    pub text: String,
    /// A command that can be pasted into a shell.
    pub command: Option<String>,
    /// How safely it can be applied.
    pub applicability: Applicability,
    /// The settings of the diagnosis that `command` runs; `None` when it runs none.
    #[serde(skip)]
    pub settings: Option<RunSettings>,
}

impl Fix {
    /// A fix that is done by hand.
    pub fn by_hand(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            command: None,
            applicability: Applicability::HasPlaceholders,
            settings: None,
        }
    }

    /// A fix that one command tries out.
    pub fn command(text: impl Into<String>, command: impl Into<FixCommand>, applicability: Applicability) -> Self {
        let command = command.into();
        Self {
            text: text.into(),
            command: Some(command.text),
            applicability,
            settings: command.settings,
        }
    }

    /// The settings with which this fix removes the fault without anybody's help.
    pub fn mechanical(&self) -> Option<&RunSettings> {
        match self.applicability {
            Applicability::MachineApplicable => self.settings.as_ref(),
            Applicability::MaybeIncorrect | Applicability::HasPlaceholders => None,
        }
    }
}

/// A fault that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// Stands alone: lower case start, no final period.
    pub headline: String,
    /// What was measured.
    pub found: String,
    /// What a healthy run shows.
    pub expected: String,
    /// The tensors, rows, steps or prompts concerned.
    pub location: Option<String>,
    /// The measurements behind the finding.
    pub evidence: Map<String, Value>,
    /// Ways to remove the fault, the likeliest first.
    pub fixes: Vec<Fix>,
    /// A severity below the rule's own; `None` for the rule's own.
    pub lowered_severity: Option<Severity>,
    /// Whether the fault was there before training, so that no fault of training can explain it.
    pub predates_training: bool,
}

impl Finding {
    /// A finding without location, evidence and fixes.
    pub fn new(headline: impl Into<String>, found: impl Into<String>, expected: impl Into<String>) -> Self {
        Self {
            headline: headline.into(),
            found: found.into(),
            expected: expected.into(),
            location: None,
            evidence: Map::new(),
            fixes: Vec::new(),
            lowered_severity: None,
            predates_training: false,
        }
    }

    /// Says where by the first few names, unless the listing is empty.
    #[must_use]
    pub fn at(mut self, listing: &Listing) -> Self {
        const NAMED: usize = 4;
        let shorter = Listing {
            total: listing.total,
            first: listing.first.iter().take(NAMED).cloned().collect(),
        };
        self.location = (!listing.is_empty()).then(|| shorter.to_string());
        self
    }

    /// Adds one measurement.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.evidence.insert(key.to_owned(), value.into());
        self
    }

    /// Adds one fix after those there are.
    #[must_use]
    pub fn fix(mut self, fix: Fix) -> Self {
        self.fixes.push(fix);
        self
    }

    /// Lowers the severity below the rule's own.
    #[must_use]
    pub fn lowered_to(mut self, severity: Severity) -> Self {
        self.lowered_severity = Some(severity);
        self
    }

    /// Marks the fault as older than the training.
    #[must_use]
    pub fn predating_training(mut self) -> Self {
        self.predates_training = true;
        self
    }
}
