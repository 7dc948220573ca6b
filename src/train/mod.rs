//! The reference trainer: loss, optimizer, schedule and the loop around them.

mod lanes;
mod loss;
mod optimizer;
mod schedule;
mod trainer;

pub use lanes::Lanes;
pub use loss::{loss_and_gradients, mean_loss, LossAndGradients};
pub use optimizer::{AdamW, AdamWSettings, Optimizer};
pub use schedule::Schedule;
pub use trainer::{train, TrainError, TrainSettings, TrainingOutcome, TrainingStep};
