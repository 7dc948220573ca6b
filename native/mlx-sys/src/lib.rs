//! The mlx-c API, linked to the MLX libraries that Apple publishes.
//!
//! Takes the place of the `mlx-sys` package of the same version, which builds
//! MLX from source and only links on macOS.

pub mod backend;
#[allow(
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    missing_docs,
    clippy::all,
    clippy::pedantic
)]
mod bindings;
#[cfg(target_os = "linux")]
pub mod blas;
mod c_types;
#[cfg(not(target_vendor = "apple"))]
mod mach_time;

pub use bindings::*;
pub use c_types::{FILE, bfloat16_t, float16_t};
