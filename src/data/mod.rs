//! Training data: records from JSON lines, examples with their supervised tokens, batches.

mod audit;
mod batches;
mod example;
mod records;

pub use audit::RowAudit;
pub use batches::{Batch, Batches};
pub use example::{Dataset, Example, ExampleError, ExampleSettings, PromptReference};
pub use records::{DataError, DataFiles, DataFormat, Record, RecordFile};
