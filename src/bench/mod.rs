//! How fast the program is on this machine, measured again and again.

mod samples;
mod system;

pub use samples::{Better, Measurement, Samples, Unit};
pub use system::{Difference, Profile, SystemDescription};
