//! A run against a stored one: what moved although model, data and settings are the same.
//!
//! Made for continuous integration, and for the question whether an update of MLX changed a training.

mod compare;
mod identity;
mod tolerance;

pub use compare::{CompareError, Comparison, EnvironmentChange, Movement, compare};
pub use identity::{Difference, OtherRun, check_settings};
pub use tolerance::{CLASSES, Class, Slack, Tolerance, class_of};
