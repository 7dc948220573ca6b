//! This program and others at the same work, side by side: PyTorch with PEFT, Python mlx-lm and llama.cpp.
//!
//! ```text
//! Roster::find -> race -> Comparison -> JSON, Markdown
//! (who is there)  (turns of processes, one at a time)
//! ```
//!
//! Each contestant is a program that answers jobs by JSON lines; this one's is a subcommand of its own executable. A turn is a
//! fresh process that does the jobs of one workload, and the turns of all contestants alternate, so that whatever
//! drifts on the machine drifts for all.

mod bars;
mod comparison;
mod contestant;
mod equal_work;
mod markdown;
mod own_worker;
mod protocol;
mod race;
mod roster;
mod rows;
mod worker;
mod workload;

pub use bars::{BARS, Bar, Barred, JudgedBar, Verdict, advantage, judge};
pub use comparison::{
    Absence, Comparison, ContestantReport, Figure, MeasureReport, PEER_SCHEMA_VERSION, RaceSettings, Standing, Status,
};
pub use contestant::{Ability, Contestant, Peer, Start};
pub use equal_work::{Difference, WorkCheck, compare_work};
pub use markdown::to_markdown;
pub use own_worker::{end_with_parent, serve_jobs};
pub use protocol::{Decoded, Greeting, Job, Loaded, Memory, Prefilled, Purpose, Trained};
pub use race::{Progress, RaceOptions, TurnRecord, Turned, race, turns};
pub use roster::{Absent, PeerPlaces, Roster};
pub use rows::made_up_rows;
pub use worker::{PeerError, PeerWorker};
pub use workload::{Measure, Shape, Workload};
