//! The reference trainer: loss, optimizer, schedule and the loop around them.

mod compiled;
mod data_parallel;
mod lanes;
mod loss;
mod loss_scale;
mod optimizer;
mod recompute;
mod schedule;
mod sketch;
mod trainer;

pub use compiled::CompiledLoss;
pub use data_parallel::{DataParallel, Others, Share};
pub use loss::{
    LossAndGradients, POSITIONS_PER_CHUNK, loss_and_gradients, mean_loss, row_losses, scaled_loss_and_gradients,
};
pub use loss_scale::LossScale;
pub use optimizer::{
    Adafactor, AdafactorSettings, AdamW, AdamWSettings, DecayScope, Lion, LionSettings, Muon, MuonSettings, Optimizer,
    OptimizerSettings, PerParameter, RestoreError, SettingError, Sgd, SgdSettings, StoredOptimizer, Update, UpdateRule,
};
pub use recompute::recomputed_loss_and_gradients;
pub use schedule::{Decay, Schedule};
pub use sketch::Sketch;
pub use trainer::{
    LossFunction, Observe, TrainError, TrainSettings, Trainer, TrainingOutcome, TrainingStep, UpdateOutcome,
};

pub use crate::lanes::Lanes;
