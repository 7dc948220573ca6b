//! Who follows a comparison while it runs.

use super::Remaining;
use crate::compare::scenarios::Progress;
use crate::compare::{Failure, Outcome, TestKey, TestRecord};
use crate::report::printable;

/// Something that happens.
#[derive(Debug)]
pub enum Event<'run> {
    /// A test begins.
    TestBegins {
        /// Which.
        key: &'run TestKey,
        /// Its number among all tests of the plan, counted from 1.
        number: usize,
        /// How many tests the plan has.
        of: usize,
        /// What it and those after it will take.
        remaining: Remaining,
    },
    /// Something happens within a test.
    Progress(&'run TestKey, Progress<'run>),
    /// A test has ended in some way.
    TestEnds(&'run TestRecord),
    /// Something could not be written.
    NotWritten(&'run Failure),
    /// The user ended it.
    Interrupted,
}

/// Follows a comparison.
pub trait Observer {
    /// Something happens.
    fn hear(&self, event: &Event<'_>);
}

impl Event<'_> {
    /// What the log says of it, with failures in full and without what steers a terminal; `None` where it says nothing.
    pub fn line(&self) -> Option<String> {
        let text = self.text()?;
        // What servers print and what users call their models may hold anything.
        let lines: Vec<String> = text.split('\n').map(printable).collect();
        Some(lines.join("\n"))
    }

    fn text(&self) -> Option<String> {
        match self {
            Self::TestBegins { key, number, of, .. } => {
                Some(format!("{}: test {number} of {of} begins", key.file_name()))
            }
            Self::Progress(key, Progress::Phase(name)) => Some(format!("{}: {name}", key.file_name())),
            Self::Progress(key, Progress::Request(request)) => {
                let failure = request.failure.as_ref()?;
                Some(format!(
                    "{}: a request of `{}` failed: {}",
                    key.file_name(),
                    request.group,
                    in_full(failure)
                ))
            }
            Self::TestEnds(test) => {
                let seconds = test.seconds;
                let ending = match &test.outcome {
                    Outcome::Completed => format!("completed after {seconds:.1} s"),
                    Outcome::Skipped { reason } => format!("nothing to measure: {reason}"),
                    Outcome::Failed { failure } => format!("failed after {seconds:.1} s: {}", in_full(failure)),
                    Outcome::Interrupted => format!("interrupted after {seconds:.1} s"),
                };
                let mut line = format!("{}: {ending}", test.key.file_name());
                for note in &test.notes {
                    line.push_str("\nnote: ");
                    line.push_str(note);
                }
                Some(line)
            }
            Self::NotWritten(failure) => Some(in_full(failure)),
            Self::Interrupted => Some("the user ended the comparison".to_owned()),
        }
    }
}

fn in_full(failure: &Failure) -> String {
    match &failure.hint {
        Some(hint) => format!("{failure}\nhint: {hint}"),
        None => failure.to_string(),
    }
}
