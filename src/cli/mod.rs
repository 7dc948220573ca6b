//! The command line: what was typed, what it means, and what is printed.

mod apply_fix;
mod arguments;
mod baseline;
mod convert;
mod embedded;
mod environment;
mod manual;
mod output;
mod progress;
mod run;
mod selftest;
mod training_memory;
mod verify;

pub use arguments::Arguments;
pub use run::run;
