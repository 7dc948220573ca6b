//! Verifies that this program and its MLX compute on this machine what they should, from what the program carries.
//!
//! ```text
//! Category::checks -> run (a Session lends device and models) -> Verification -> text, JSON, JUnit
//! ```
//!
//! Nothing is downloaded and nothing of the user's is read: the truths are definitions in double precision, files that
//! transformers, mlx-lm and MLX made once, finite differences, and the same computation done in another way. A category is
//! a file in `categories`; a check is a function there and a line in its table.

mod categories;
mod category;
mod check;
mod golden_files;
mod junit;
mod record;
mod run;
mod session;
mod text;
mod tolerance;

pub use category::Category;
pub use check::{Deviation, Failure};
pub use golden_files::{GOLDEN_MODELS, GoldenModel};
pub use junit::to_junit;
pub use record::{CategoryRecord, CheckRecord, Outcome, Tally, VERIFICATION_SCHEMA_VERSION, Verification, to_json};
pub use run::{Progress, UnknownCategory, VerificationOptions, VerifyError, list, verify};
pub use text::to_text;
