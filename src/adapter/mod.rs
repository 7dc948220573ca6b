//! Low-rank adapters: which layers they go to, attaching them, and mlx-lm's files.

mod attach;
mod file;
mod settings;

pub use attach::{attach, attached_modules, target_modules, AttachError};
pub use file::{load_adapter, save_adapter, AdapterFileError};
pub use settings::LoraSettings;
