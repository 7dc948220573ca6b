//! Training data: records from files of rows, examples with their supervised tokens, batches.

mod batch;
mod batches;
mod conversation;
mod example;
mod files;
mod held_out;
mod instruction;
mod json_rows;
mod packing;
mod random;
mod record;
mod records;
mod sharegpt;
mod strict_json;
mod supervision;

pub use batch::{Batch, Documents};
pub use batches::{BatchSettings, BatchState, Batches, BatchesError, RowOrder};
pub use example::{Dataset, Example, ExampleError, ExampleSettings, PromptReference, RowSource};
pub use files::DataFiles;
pub use held_out::{HeldOut, HeldOutError};
pub use json_rows::{Layout, RowFault};
pub(crate) use random::SplitMix64;
pub use record::{DataFormat, Record, RecordKeys};
pub use records::{DataError, RecordFile};
pub use supervision::Supervision;
