use thiserror::Error;

use crate::line_process::{LineProcessError, shown};
use crate::model::WeightFileError;
use crate::python::Python;

/// Why PyTorch did not compute what it was asked for.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// There is no such python.
    #[error(
        "`{python}` cannot be run: {source}\n  expected: a python with torch and transformers\n  hint: name one with {}",
        Python::VARIABLE
    )]
    NoPython {
        /// What it is called by.
        python: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A package is not installed.
    #[error(
        "PyTorch is not installed for `{python}`\n  found: {found}\n  expected: torch, transformers and safetensors\n  hint: `{python} -m pip install torch transformers`, or name another python with {}",
        Python::VARIABLE
    )]
    NotInstalled {
        /// What the python is called by.
        python: String,
        /// What python said.
        found: String,
    },
    /// It speaks another version of the protocol.
    #[error("`{python}` runs another version of the PyTorch worker\n  found: protocol {found}\n  expected: {expected}")]
    OtherProtocol {
        /// What the python is called by.
        python: String,
        /// Its version.
        found: u64,
        /// This program's version.
        expected: u64,
    },
    /// It wrote something that is no reply.
    #[error("PyTorch's worker wrote something that is no reply to `{request}`\n  found: {found}")]
    Garbled {
        /// What it was asked for.
        request: &'static str,
        /// What it wrote.
        found: String,
    },
    /// It ended.
    #[error("PyTorch's worker ended while it was asked for `{request}`{}", shown(last_lines))]
    Ended {
        /// What it was asked for.
        request: &'static str,
        /// The last lines of its standard error.
        last_lines: Vec<String>,
    },
    /// It took too long and was ended.
    #[error(
        "PyTorch's worker did not answer `{request}` within {seconds:.0} s and was ended{}",
        shown(last_lines)
    )]
    TimedOut {
        /// What it was asked for.
        request: &'static str,
        /// How long it had.
        seconds: f64,
        /// The last lines of its standard error.
        last_lines: Vec<String>,
    },
    /// It refused, or could not do it.
    #[error("PyTorch could not do `{request}`: {message}")]
    Refused {
        /// What it was asked for.
        request: &'static str,
        /// The kind of the refusal, one word.
        kind: String,
        /// Why.
        message: String,
    },
    /// The user ended it.
    #[error("PyTorch's worker was interrupted")]
    Interrupted,
    /// A file for it, or from it, could not be used.
    #[error("a file for PyTorch's worker cannot be used: {0}")]
    Io(#[from] std::io::Error),
    /// A file of tensors could not be written or read.
    #[error(transparent)]
    Tensors(#[from] WeightFileError),
}

impl WorkerError {
    /// What it means that no line answered `request`.
    pub(super) fn of_process(error: LineProcessError, request: &'static str, python: &Python) -> Self {
        match error {
            LineProcessError::Start(source) => Self::NoPython {
                python: python.name(),
                source,
            },
            LineProcessError::Ended { last_lines, .. } => Self::Ended { request, last_lines },
            LineProcessError::TimedOut { seconds, last_lines } => Self::TimedOut {
                request,
                seconds,
                last_lines,
            },
            LineProcessError::Interrupted => Self::Interrupted,
        }
    }
}
