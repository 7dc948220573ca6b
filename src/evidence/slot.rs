use serde::{Deserialize, Serialize};

/// A group of measurements that may not have been made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Slot<T> {
    /// The probe ran to its end.
    Ran(T),
    /// The probe was not run, for a reason worth showing.
    Skipped {
        /// One sentence without a final period.
        reason: String,
    },
    /// The probe was run and failed.
    Crashed {
        /// The error as it is shown to the user.
        error: String,
    },
}

impl<T> Slot<T> {
    /// A slot whose probe was not run.
    pub fn skipped(reason: impl Into<String>) -> Self {
        Self::Skipped { reason: reason.into() }
    }

    /// A slot whose probe failed.
    pub fn crashed(error: impl std::fmt::Display) -> Self {
        Self::Crashed {
            error: error.to_string(),
        }
    }

    /// What a probe returned: its measurements, or why it failed.
    pub fn of(result: Result<T, impl std::fmt::Display>) -> Self {
        match result {
            Ok(measured) => Self::Ran(measured),
            Err(error) => Self::crashed(error),
        }
    }

    /// The same with other measurements, where there are any.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Slot<U> {
        match self {
            Self::Ran(value) => Slot::Ran(change(value)),
            Self::Skipped { reason } => Slot::Skipped { reason },
            Self::Crashed { error } => Slot::Crashed { error },
        }
    }

    /// The measurements, when they were made.
    pub fn ran(&self) -> Option<&T> {
        match self {
            Self::Ran(value) => Some(value),
            Self::Skipped { .. } | Self::Crashed { .. } => None,
        }
    }

    /// Why the measurements are absent; `None` when they are present.
    pub fn absence(&self) -> Option<String> {
        match self {
            Self::Ran(_) => None,
            Self::Skipped { reason } => Some(format!("skipped: {reason}")),
            Self::Crashed { error } => Some(format!("failed: {error}")),
        }
    }
}
