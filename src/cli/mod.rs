//! The command line: what was typed, what it means, and what is printed.

mod apply_fix;
mod arguments;
mod baseline;
mod convert;
mod embedded;
mod fuse;
mod models;
mod output;
mod progress;
mod run;
mod selftest;
mod verify;

pub use arguments::Arguments;
pub use run::run;
