//! Training on several processes, on one machine or more, by MLX's own collectives.
//!
//! A launcher such as `mlx.launch` starts the processes and tells each its place; they meet, and watch that
//! none of them is lost, since a collective waits for ever for a process that stands still.
//!
//! ```text
//! Launch -> Placement::of_environment -> Ranks::meet -> Group (collectives) -> agreement, averaged gradients
//!                                                    -> Presence (who is still there)
//! ```

mod agreement;
mod data_parallel;
mod heartbeat;
mod hosts;
mod launch;
mod placement;
mod presence;
mod ranks;
mod recorder;

pub use agreement::AgreementError;
pub use hosts::{Hosts, HostsError, STARTING_PORT};
pub use launch::{Launch, LaunchError, PrintLine, Program, RankEnd, Stream};
pub use mlx_distributed::{Group, Transport};
pub use placement::{Placement, PlacementError};
pub use presence::{Loss, Presence, PresenceError, PresenceLimits};
pub use ranks::{MeetError, Ranks};
pub use recorder::RanksRecorder;
