use std::collections::BTreeSet;

use thiserror::Error;

use super::control::{CONTROLS, Control};
use super::expected::{Acts, EXPECTED, Expectation};
use crate::faults::{BENIGN, NOT_BUILT, NotBuilt, OPERATORS, Operator};
use crate::rules::Severity;
use crate::suggestion::closest;

/// What is expected of a benign mutant.
static NOTHING: Expectation = Expectation {
    operator: "",
    names: &[],
    least: Severity::Warning,
    acts: Acts::OnSteps,
};

/// Everything that the self-test can do.
#[derive(Debug, Clone, Copy)]
pub struct Catalogue {
    /// The faults.
    pub operators: &'static [&'static Operator],
    /// Mutants that are benign by design.
    pub benign: &'static [&'static Operator],
    /// What is expected of the faults.
    pub expected: &'static [Expectation],
    /// The healthy runs.
    pub controls: &'static [Control],
    /// Faults that cannot be done yet.
    pub not_built: &'static [NotBuilt],
}

/// The catalogue contradicts itself, or something was asked for that it does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CatalogueError {
    /// An operator without an expectation, or an expectation without its operator.
    #[error("operator `{name}` is not both declared and expected")]
    Unmatched {
        /// The operator.
        name: String,
    },
    /// A name that is neither an operator nor a control.
    #[error("there is no operator or control `{given}`\n  hint: {}", hint(*similar))]
    Unknown {
        /// What was asked for.
        given: String,
        /// The name that is most like it.
        similar: Option<&'static str>,
    },
}

fn hint(similar: Option<&str>) -> String {
    match similar {
        Some(name) => format!("did you mean `{name}`?"),
        None => "the report of a self-test lists all of them".to_owned(),
    }
}

impl Catalogue {
    /// What this program comes with.
    pub fn built_in() -> Self {
        Self {
            operators: OPERATORS,
            benign: BENIGN,
            expected: EXPECTED,
            controls: CONTROLS,
            not_built: NOT_BUILT,
        }
    }

    /// The faults and after them the benign mutants.
    pub fn all(&self) -> impl Iterator<Item = &'static Operator> {
        self.operators.iter().chain(self.benign).copied()
    }

    /// Every operator has an expectation and every expectation an operator.
    ///
    /// # Errors
    /// [`CatalogueError::Unmatched`] for the first name that is on one side only.
    pub fn check(&self) -> Result<(), CatalogueError> {
        let declared: BTreeSet<&str> = self.operators.iter().map(|operator| operator.name).collect();
        let expected: BTreeSet<&str> = self.expected.iter().map(|expectation| expectation.operator).collect();
        match declared.symmetric_difference(&expected).next() {
            Some(name) => Err(CatalogueError::Unmatched {
                name: (*name).to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// Every name is an operator's or a control's.
    ///
    /// # Errors
    /// [`CatalogueError::Unknown`] for the first that is not.
    pub fn check_names(&self, names: &[String]) -> Result<(), CatalogueError> {
        let known = || {
            let operators = self.all().map(|operator| operator.name);
            operators.chain(self.controls.iter().map(|control| control.name))
        };
        match names.iter().find(|name| !known().any(|known| known == name.as_str())) {
            Some(given) => Err(CatalogueError::Unknown {
                given: given.clone(),
                similar: closest(given, known()),
            }),
            None => Ok(()),
        }
    }

    /// What is expected of an operator: of a benign mutant nothing.
    pub fn expectation(&self, operator: &Operator) -> Option<&'static Expectation> {
        if self.benign.iter().any(|benign| benign.name == operator.name) {
            return Some(&NOTHING);
        }
        self.expected
            .iter()
            .find(|expectation| expectation.operator == operator.name)
    }
}
