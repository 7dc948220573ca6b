//! Low-rank adapters: which layers they go to, attaching them, and mlx-lm's files.

mod attach;
mod convert;
mod file;
mod fuse;
mod fuse_folder;
mod merge;
mod mlx_lm;
mod peft;
mod places;
mod set;
mod settings;
mod stored;
mod whole_model;

pub use attach::{
    AttachError, attach, attach_faults, attach_magnitudes, attached_modules, check_rank, target_modules, target_places,
};
pub use convert::{ConvertError, TargetFormat, convert};
pub use file::{AdapterFileError, load_adapter, save_adapter, stored_configuration, stored_tensors};
pub use fuse::fuse;
pub use fuse_folder::{FuseFolderError, FusedFolder, fuse_into_folder};
pub use merge::{Unmerged, merge};
pub use mlx_lm::resumed_file;
pub use places::Places;
pub use set::{AdapterSet, AdapterSetError};
pub use settings::LoraSettings;
pub use stored::{AdapterFormat, AdapterKind, Application, StatedTraining, StoredAdapter};
