//! Operations of MLX for the CPU that are written in Rust.
//!
//! MLX's CPU backend computes what it has no kernel for from plain operations: attention, norms, rotary positions and
//! gates are many passes over memory each, one value at a time. The operations here are one pass each, with the vectors
//! of the processor at hand, and know their derivatives. They serve f32 on the CPU of Linux, see [`serve`]; elsewhere, and
//! for other types, MLX's own operations are at least as good.
//!
//! Large ones use as many threads as `mlx_sys::blas::threads` says, so that lanes that share the cores share them here.

#[cfg(target_os = "linux")]
mod adamw;
#[cfg(target_os = "linux")]
mod attention;
#[cfg(target_os = "linux")]
mod difference;
#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(target_os = "linux")]
mod filled;
#[cfg(target_os = "linux")]
mod gate;
#[cfg(target_os = "linux")]
mod linear;
#[cfg(target_os = "linux")]
mod magnitude;
#[cfg(target_os = "linux")]
mod operation;
#[cfg(target_os = "linux")]
mod output_loss;
#[cfg(target_os = "linux")]
mod parallel;
#[cfg(target_os = "linux")]
mod root_mean_square;
#[cfg(target_os = "linux")]
mod rotary;
mod settings;
#[cfg(target_os = "linux")]
mod vector;
#[cfg(target_os = "linux")]
mod view;

#[cfg(not(target_os = "linux"))]
pub use elsewhere::*;
pub use settings::{AdamWFactors, Adapter, Difference, Gate, OutputLoss, Reach, Rotation};
#[cfg(target_os = "linux")]
pub use {
    adamw::adamw,
    attention::attention,
    difference::difference,
    filled::filled,
    gate::gated,
    linear::{linear, linears},
    magnitude::largest_magnitudes,
    operation::{serve, set_serving},
    output_loss::{output_loss, output_loss_and_gradient},
    root_mean_square::root_mean_square_norm,
    rotary::rotary,
};
