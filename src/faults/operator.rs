use std::path::PathBuf;

use thiserror::Error;

use crate::diagnosis::DiagnosisOptions;
use crate::model::WeightFileError;
use crate::workflow::Workflow;

/// Why a fault could not be planted.
#[derive(Debug, Error)]
pub enum FaultError {
    /// A copied input could not be read or written.
    #[error("cannot change `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A copied input is not JSON.
    #[error("`{}` is not JSON: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A copied input lacks what the fault changes.
    #[error("`{}` has no {expected} to change", path.display())]
    Absent {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        expected: String,
    },
    /// A copied weight file could not be changed.
    #[error(transparent)]
    Weights(#[from] WeightFileError),
    /// MLX failed.
    #[error("MLX failed: {0}")]
    Mlx(#[from] mlx_rs::error::Exception),
}

/// Copies of the inputs of a run, which a fault may change.
#[derive(Debug, Clone)]
pub struct RunFiles {
    /// A model folder with `model.safetensors`.
    pub model: PathBuf,
    /// A data folder with `train.jsonl` of conversations and `valid.jsonl`.
    pub data: PathBuf,
}

/// What a faulty run differs in: options, files, and the steps of the workflow.
pub trait Fault: Workflow {
    /// Changes what the user sets and the files that the user has.
    fn alter(&self, _options: &mut DiagnosisOptions, _files: &RunFiles) -> Result<(), FaultError> {
        Ok(())
    }
}

/// Faults by the part of a run that they sit in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// Model folders.
    Files,
    /// Training rows.
    Data,
    /// Which tokens are targets.
    Mask,
    /// The tokens that end an answer.
    EndOfText,
    /// Which parameters carry adapters and are trained.
    Attachment,
    /// Loss and gradients.
    Loss,
    /// From gradients to parameters.
    Optimizer,
    /// Learning rates and scales.
    Scale,
    /// Element types.
    Numeric,
    /// Memory.
    Memory,
    /// Processes that train together.
    Ranks,
    /// The model that answers.
    Generation,
    /// Saving, loading and fusing.
    Saving,
}

impl Family {
    /// The name as reports print it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Data => "data",
            Self::Mask => "mask",
            Self::EndOfText => "end of text",
            Self::Attachment => "attachment",
            Self::Loss => "loss",
            Self::Optimizer => "optimizer",
            Self::Scale => "scale",
            Self::Numeric => "numeric",
            Self::Memory => "memory",
            Self::Ranks => "ranks",
            Self::Generation => "generation",
            Self::Saving => "saving",
        }
    }
}

/// What a run must have for a fault to be possible in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Any run of adapters.
    Adapters,
    /// A model whose files are not packed.
    DenseFiles,
    /// A model whose files are packed.
    PackedFiles,
    /// Several processes that train together.
    Processes,
}

/// A fault that can be planted in a run, more or less severely.
#[derive(Debug)]
pub struct Operator {
    /// The fault, in kebab case.
    pub name: &'static str,
    /// The part of a run it sits in.
    pub family: Family,
    /// One line without a final period; says what the severity means.
    pub summary: &'static str,
    /// A real case.
    pub citation: &'static str,
    /// From mild to the reference severity, at which it must be found.
    pub severities: &'static [f64],
    /// The fault at a severity.
    pub make: fn(f64) -> Box<dyn Fault>,
    /// Where it is possible.
    pub needs: Needs,
}

impl Operator {
    /// The severity at which the fault must be found.
    pub fn reference(&self) -> f64 {
        self.severities.last().copied().unwrap_or(1.0)
    }

    /// Whether the fault is in the handling of adapters, so that a run without adapters cannot have it.
    pub fn needs_adapters(&self) -> bool {
        matches!(self.family, Family::Attachment | Family::Saving)
    }
}
