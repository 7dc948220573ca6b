//! The report as a page for a browser: findings first, then the run, its curves, its updates and its answers.

mod answers;
mod axis;
mod curves;
mod findings;
mod markup;
mod page;
mod ranks;
mod swap;
mod update_map;

pub(crate) use axis::Axis;
pub(crate) use markup::escaped as markup_of;
pub use page::{curves_to_html, to_html};
