//! Optimizers: they turn gradients into parameters, and their state outlives the process.
//!
//! The update rules are those of MLX 0.32.2's `mlx.optimizers`, whose defaults they share; a file for each.

mod adafactor;
mod adamw;
mod choice;
mod lion;
mod muon;
mod per_parameter;
mod sgd;
mod stored;

pub use adafactor::{Adafactor, AdafactorSettings};
pub use adamw::{AdamW, AdamWSettings};
pub use choice::{OptimizerSettings, SettingError};
pub use lion::{Lion, LionSettings};
pub use muon::{Muon, MuonSettings};
pub use per_parameter::{DecayScope, Optimizer, PerParameter, Update, UpdateRule};
pub use sgd::{Sgd, SgdSettings};
pub use stored::{RestoreError, StoredOptimizer};
