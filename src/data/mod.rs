//! Training data: records from JSON lines, examples with their supervised tokens, batches.

mod batch;
mod batches;
mod example;
mod packing;
mod random;
mod records;

pub use batch::{Batch, Documents};
pub use batches::{BatchSettings, BatchState, Batches, BatchesError, RowOrder};
pub use example::{Dataset, Example, ExampleError, ExampleSettings, PromptReference, RowSource};
pub use records::{DataError, DataFiles, DataFormat, Record, RecordFile};
