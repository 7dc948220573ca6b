//! Faults of an input file, collected so that they are reported at once.

use std::fmt;

/// How many problems an error message shows before it counts the rest.
pub const SHOWN_PROBLEMS: usize = 10;

/// One fault of an input file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it is: a key, a tensor, a line.
    pub location: String,
    /// What was found there.
    pub found: String,
    /// What would have been right.
    pub expected: String,
}

impl Problem {
    /// A problem at `location`.
    pub fn new(location: impl Into<String>, found: impl Into<String>, expected: impl Into<String>) -> Self {
        Self {
            location: location.into(),
            found: found.into(),
            expected: expected.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}: found {}, expected {}",
            self.location, self.found, self.expected
        )
    }
}

/// All faults of one input file, in the order they were met.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Adds a problem.
    pub fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    /// Whether no problem was found.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many problems were found.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The problems in the order they were met.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl fmt::Display for Problems {
    /// One indented line per problem, at most [`SHOWN_PROBLEMS`], then the number of the others.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().take(SHOWN_PROBLEMS).enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(formatter, "{separator}  {problem}")?;
        }
        match self.0.len().saturating_sub(SHOWN_PROBLEMS) {
            0 => Ok(()),
            more => write!(formatter, "\n  and {more} more"),
        }
    }
}
