//! Training data: records from JSON lines, examples with their supervised tokens, batches.

mod batches;
mod example;
mod records;

pub use batches::{Batch, Batches};
pub use example::{Dataset, Example, ExampleError, ExampleSettings, PromptReference, RowSource};
pub use records::{DataError, DataFiles, DataFormat, Record, RecordFile};
