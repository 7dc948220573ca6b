//! The data audit: what the loss will really be computed on, against what the rows' own messages and the tokenizer say.
//!
//! The tokens and targets that a row is trained with may be wrong in any way, so none of them serves as its own measure:
//! the truth is the row's [source](crate::data::RowSource), which nothing between tokenisation and training changes.

mod answers;
mod audit;
mod foreign_markers;
mod question;
mod row;

pub use audit::DataProbe;
pub use foreign_markers::split_turn_ends;
