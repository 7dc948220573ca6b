//! Training on several processes, on one machine or more, by MLX's own collectives.
//!
//! A launcher such as `mlx.launch` starts the processes and tells each its place; they meet, and watch that
//! none of them is lost, since a collective waits for ever for a process that stands still.
//!
//! ```text
//! Placement::of_environment -> Ranks::meet -> Group (collectives)
//!                                          -> Presence (who is still there)
//! ```

mod heartbeat;
mod placement;
mod presence;
mod ranks;

pub use mlx_distributed::{Group, Transport};
pub use placement::{Placement, PlacementError};
pub use presence::{Loss, Presence, PresenceError, PresenceLimits};
pub use ranks::{MeetError, Ranks};
