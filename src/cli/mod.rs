//! The command line: what was typed, what it means, and what is printed.

mod apply_fix;
mod arguments;
mod baseline;
mod bench;
mod bench_peers;
mod byte_size;
mod compare;
mod compare_arguments;
mod compare_models;
mod compare_observer;
mod convert;
mod diagnose_together;
mod environment;
mod fuse;
mod generate;
mod launch;
mod manual;
mod models;
mod output;
mod progress;
mod ranks;
mod run;
mod selftest;
mod serve;
mod train;
mod train_arguments;
mod train_command;
mod train_inputs;
mod train_observer;
mod training_memory;
mod verification;
mod verify;

pub use arguments::Arguments;
pub use run::run;
