//! A comparison for people: Markdown, a page, pictures, and the last words on a terminal.
//!
//! Everything here is computed from a [`Record`](super::Record), the samples of memory and the analysis of both, and nothing
//! is written. [`to_markdown`] and [`to_html`] write the same document down, so that they cannot disagree.

mod document;
mod files;
mod html;
mod markdown;
mod markup;
mod order;
pub mod plots;
mod quantity;
mod text;
mod wording;

pub use files::{ReportFile, report_files};
pub use html::to_html;
pub use markdown::to_markdown;
pub use text::to_text;
