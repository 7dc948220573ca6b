//! How fast the program is on this machine, measured again and again.
//!
//! ```text
//! Subject::measure (Workbench: model, backend, clock) -> Measured -> BenchResults -> files, Markdown, plot
//!                                                         an earlier BenchResults -> Comparison
//! ```

mod bandwidth;
mod baseline;
mod checkpoints;
mod energy;
mod files;
mod generation;
mod loading;
mod markdown;
mod memory_use;
mod optimizer;
mod peers;
mod plot;
mod power;
mod probes;
mod product_time;
mod products;
mod results;
mod run;
mod samples;
mod shown;
mod sizes;
mod snapshots;
mod subject;
mod summary;
mod system;
mod text;
mod training;
mod workbench;

pub use bandwidth::summing_seconds;
pub use baseline::{Change, Comparison, Incomparable, Verdict, compare, verdict};
pub use files::{BaselineError, FILES, OutputError, RESULTS, read_results, write_results};
pub use markdown::to_markdown;
pub use peers::{PeerComparison, PeerFigure};
pub use plot::to_svg;
pub use power::{EnergyCounters, POWERCAP, PowerError, PowerMeter, combined_watts};
pub use results::{
    BENCH_SCHEMA_VERSION, BenchResults, BenchSettings, Lacking, Measured, ModelDescription, SubjectResult,
};
pub use run::{BenchOptions, Turn, bench};
pub use samples::{Better, Measurement, Samples, Unit};
pub use sizes::Sizes;
pub use subject::{SUBJECTS, Subject, UnknownSubject, chosen};
pub use summary::{HEADLINES, Headline, Summary};
pub use system::{Difference, Profile, SystemDescription};
pub use text::{list_subjects, to_text};
pub use workbench::{BenchError, Workbench};
