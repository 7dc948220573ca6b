use std::path::PathBuf;

use thiserror::Error;

use crate::diagnosis::DiagnosisOptions;
use crate::workflow::Workflow;

/// What a faulty run differs in: options, files, and the steps of the workflow.
pub trait Fault: Workflow {
    /// Changes what the user sets; files may be changed through `files`.
    ///
    /// # Errors
    /// [`FaultError`] when the fault cannot be made in these files.
    fn alter(&self, _options: &mut DiagnosisOptions, _files: &RunFiles) -> Result<(), FaultError> {
        Ok(())
    }
}

/// Copies of the inputs that a fault may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFiles {
    /// A model folder.
    pub model: PathBuf,
    /// A data folder with `train.jsonl` and `valid.jsonl`.
    pub data: PathBuf,
}

/// Why a fault could not be made.
#[derive(Debug, Error)]
pub enum FaultError {
    /// A file could not be changed.
    #[error("cannot change `{}`: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The run has nothing that the fault could spoil.
    #[error("the fault does not fit the run: {reason}")]
    DoesNotFit {
        /// What is missing.
        reason: String,
    },
}

/// What kind of thing goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// The step from gradients to parameters.
    Optimizer,
    /// Which parameters are trained.
    Attachment,
    /// Overflow, rounding and element types.
    Numeric,
    /// How strong the adapters are.
    Scale,
    /// The rows.
    Data,
    /// Which tokens are targets.
    Mask,
    /// The tokens that end an answer.
    EndOfText,
    /// Training against evaluation.
    Mode,
    /// What is written and read.
    Files,
    /// Memory.
    Memory,
    /// The model that answers.
    Generation,
}

impl Family {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Optimizer => "optimizer",
            Self::Attachment => "attachment",
            Self::Numeric => "numeric",
            Self::Scale => "scale",
            Self::Data => "data",
            Self::Mask => "mask",
            Self::EndOfText => "end of text",
            Self::Mode => "mode",
            Self::Files => "files",
            Self::Memory => "memory",
            Self::Generation => "generation",
        }
    }
}

/// What a run must have for a fault to show in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Weights that are plain in their files.
    DenseBase,
    /// Weights that are packed in their files.
    PackedBase,
    /// All weights are trained.
    FullFineTuning,
    /// At least this many steps.
    Steps(usize),
}

/// Everything a run must have for a fault to show in it.
pub type Needs = &'static [Need];

/// A fault that can be done on purpose.
#[derive(Debug, Clone, Copy)]
pub struct Operator {
    /// The fault, in kebab case.
    pub name: &'static str,
    /// What kind of thing goes wrong.
    pub family: Family,
    /// One sentence without a final period.
    pub summary: &'static str,
    /// A real case.
    pub citation: &'static str,
    /// From mild to strong; the last one is the reference.
    pub severities: &'static [f64],
    /// The fault at a severity.
    pub make: fn(severity: f64) -> Box<dyn Fault>,
    /// Which runs it can be done in.
    pub needs: Needs,
}

/// Every operator, by family.
pub static OPERATORS: &[&Operator] = &[];

/// Faults whose seam does not exist yet: the name, and which seam is missing.
pub static NOT_BUILT: &[(&str, &str)] = &[];
