//! Measures this program as a medical test is measured: faults done on purpose, healthy runs that look odd, and what the
//! reports say of each.
//!
//! ```text
//! catalogue (operators, expectations, controls) -> plan (trials in cells) -> run (records) -> summary -> text, Markdown, picture
//! ```
//!
//! The rules and probes never see any of it: a fault has to show in what it does.

mod base;
mod catalogue;
mod cell;
mod control;
mod corpus;
mod draw;
mod expected;
mod harm;
mod interval;
mod judgement;
mod markdown;
mod monitors;
mod pair;
mod picture;
mod plan;
mod record;
mod run;
mod session;
mod summary;
mod text;
mod times;
mod together;

pub use base::{Bases, LayOutError, TinyModel};
pub use catalogue::{Catalogue, CatalogueError};
pub use cell::{Cell, Need, SLOTS};
pub use control::{CONTROLS, Control, ControlError, Setup};
pub use corpus::{Fact, RowFormat, Rows};
pub use expected::{Acts, EXPECTED, Expectation};
pub use harm::{Harm, MEASURES, Measure, Measured};
pub use interval::Rate;
pub use markdown::to_markdown;
pub use monitors::{MONITORS, Monitor};
pub use picture::to_svg;
pub use plan::{Extent, Purpose, Trial, plan};
pub use record::{Cure, Ending, Record, Root, Trialled};
pub use run::{Ran, Runner};
pub use session::{SelftestError, SelftestOptions, selftest};
pub use summary::{Asked, HarmShown, Matrix, OperatorSummary, Summary};
pub use text::{list, to_text};
pub use times::Times;
