//! What is wrong with a plan, all of it at once.

use std::fmt;

use crate::excerpt::beginning;

/// One thing that is wrong with a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanProblem {
    /// The line of the configuration, counted from 1; `None` where no file gave the value.
    pub line: Option<u64>,
    /// The path of the key, for example `pairs[0].gguf.server`.
    pub key: String,
    /// What was found there.
    pub found: String,
    /// What would have been right.
    pub expected: String,
    /// What was probably meant.
    pub hint: Option<String>,
}

impl PlanProblem {
    pub(super) fn new(key: impl Into<String>, found: impl Into<String>, expected: impl Into<String>) -> Self {
        Self {
            line: None,
            key: key.into(),
            found: found.into(),
            expected: expected.into(),
            hint: None,
        }
    }

    pub(super) fn at(mut self, line: u64) -> Self {
        self.line = Some(line);
        self
    }

    /// Says which name was probably meant, where one is near.
    pub(super) fn meaning(mut self, near: Option<&str>) -> Self {
        self.hint = near.map(|name| format!("did you mean `{name}`?"));
        self
    }
}

impl fmt::Display for PlanProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(formatter, "line {line}: ")?;
        }
        if !self.key.is_empty() {
            write!(formatter, "{}: ", beginning(&self.key))?;
        }
        write!(
            formatter,
            "found {}, expected {}",
            beginning(&self.found),
            self.expected
        )?;
        match &self.hint {
            Some(hint) => write!(formatter, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong with a plan, in the order of its lines.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the comparison cannot be run as it is asked for\n{}", self.lines())]
pub struct PlanProblems(pub Vec<PlanProblem>);

impl PlanProblems {
    /// One indented line for each problem.
    pub(super) fn lines(&self) -> String {
        let lines: Vec<String> = self.0.iter().map(|problem| format!("  {problem}")).collect();
        lines.join("\n")
    }
}
