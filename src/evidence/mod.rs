//! What a run measured: numbers and names, never tensors.
//!
//! Probes write evidence and rules read it; neither knows the other. The whole tree is plain serde data, so
//! `evidence.json` from a user's machine replays without a model and serves as a test fixture.
//!
//! A measurement that was not made is never a default value: every group sits in a [`Slot`] that says whether it
//! [ran](Slot::Ran), was [skipped](Slot::Skipped) or [crashed](Slot::Crashed).

mod adapter_files;
mod checks;
mod cost;
mod cross_check;
mod data;
mod external;
mod file;
mod fit;
mod generation;
mod listing;
mod log;
mod machine;
mod model;
mod parameters;
mod ranks;
mod refusal;
mod run;
mod slot;
mod state;
mod swap;
mod training;

pub use adapter_files::{AdapterFilesEvidence, ResumedAdapter, ScaledLoss};
pub use checks::{GradientCheck, LossCheck, LossReading, OptimizerCheck, ReadLoss, ReadUpdate, Slope, UpdateReading};
pub use cost::ProbeCost;
pub use cross_check::{CrossCheckEvidence, CrossCheckWeights, GradientDifference};
pub use data::{BoundaryEvidence, DataEvidence, PromptDifference, TemplateEvidence, ValidationEvidence};
pub use external::ExternalTraining;
pub use file::EvidenceFileError;
pub use fit::{FitComparison, FitEvidence, PairingFit, ValidationLoss};
pub use generation::{Answer, FinishReason, FreeRun, GenerationEvidence, GenerationSummary, Repetition};
pub use listing::Listing;
pub use log::{LogEntry, LogEvidence, LoggedNumber};
pub use machine::{
    AppleChipEvidence, BudgetBound, BudgetEvidence, ChipVariant, ChoiceEvidence, CudaEvidence, CudaSource, Detected,
    MACHINE_SCHEMA_VERSION, MachineEvidence, MachineMemory, MetalEvidence, MlxMemoryEvidence, ProcessorEvidence,
};
pub use model::{ModelEvidence, Quantization, StopRow, StopToken};
pub use parameters::{AdapterEvidence, GroupChange, ModuleUpdate, ParameterEvidence, TensorChange};
pub use ranks::{LostRank, RankUpdate, RanksEvidence, RanksUpdate, VectorSketch};
pub use refusal::{Refusal, RefusalKind};
pub use run::{FineTuneKind, RunEnvironment, RunSettings};
pub use slot::Slot;
pub use state::{
    DivergenceEvidence, Evaluation, EvaluationMeans, FuseEvidence, GenerationBinding, ReloadEvidence, StateEvidence,
};
pub use swap::{
    CellAnswer, CellState, GeneratorReading, Party, ReadAnswers, ReadCount, ReferenceRun, Side, SwapCell, SwapEvidence,
    alike,
};
pub use training::{
    FittingBatch, GradientEvidence, MemoryEvidence, OptimizerEvidence, StepRecord, StoppedEarly, TrainingEvidence,
};

use serde::{Deserialize, Serialize};

/// Version of the evidence format; raised whenever a field is added, renamed or changes meaning.
pub const EVIDENCE_SCHEMA_VERSION: u32 = 5;

/// Everything one run measured, in the order of the five phases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// [`EVIDENCE_SCHEMA_VERSION`] of the program that wrote it.
    pub schema_version: u32,
    /// The machine and the libraries the run used.
    pub environment: RunEnvironment,
    /// What the run was asked to do.
    pub settings: RunSettings,
    /// Why nothing could be measured; `None` when the inputs could be used.
    pub refusal: Option<Refusal>,
    /// The model as loaded, before anything was changed.
    pub model: Slot<ModelEvidence>,
    /// The training rows after tokenisation and masking.
    pub data: Slot<DataEvidence>,
    /// The training by another program; `Skipped` when this one trained, or nobody.
    pub external: Slot<ExternalTraining>,
    /// The finished adapter that was given or left by another program; `Skipped` when there is none.
    pub adapter_files: Slot<AdapterFilesEvidence>,
    /// The adapter that its training went on from; `Skipped` when there is none, or when its file is not here any more.
    pub resumed: Slot<ResumedAdapter>,
    /// The log of the training that was given; `Skipped` when none was.
    pub log: Slot<LogEvidence>,
    /// Logits, loss and gradients by another backend; `Skipped` when that was not asked for.
    pub cross_check: Slot<CrossCheckEvidence>,
    /// Phase 1: the answers of the untouched base.
    pub baseline: Slot<GenerationEvidence>,
    /// What training was predicted to need, before it began.
    pub memory: Slot<MemoryEvidence>,
    /// Phase 2: the short training run.
    pub training: Slot<TrainingEvidence>,
    /// Phase 2: what each of several processes did; `Skipped` when one trained alone.
    pub ranks: Slot<RanksEvidence>,
    /// Phase 2: how well rows of the data are predicted before and after.
    pub fit: Slot<FitComparison>,
    /// Phase 3: parameters before against after.
    pub parameters: Slot<ParameterEvidence>,
    /// Phase 4: the answers after training.
    pub generation: Slot<GenerationEvidence>,
    /// Phase 5: which state is live, and whether it survives saving.
    pub state: Slot<StateEvidence>,
    /// The user's trainer or generator in the place of this program's; `Skipped` when neither was given.
    pub swap: Slot<SwapEvidence>,
    /// What each probe cost, in the order in which they ran.
    pub costs: Vec<ProbeCost>,
    /// Why the run ended before its last phase, in words (an interrupt, for one); `None` when it did not.
    pub interrupted: Option<String>,
}

impl Evidence {
    /// Loss in nats before any update: of the first rows when it was measured, of the first step otherwise.
    pub fn loss_before(&self) -> Option<f64> {
        let measured = self.fit.ran().and_then(FitComparison::loss_before);
        measured.or_else(|| self.training.ran()?.steps.first()?.loss)
    }
}
