//! Runs the unit tests of the build script's modules, which Cargo does not test by itself.

// What only the build script's main function uses counts as unused here.
#![allow(dead_code)]

#[path = "../build/cache.rs"]
mod cache;
#[path = "../build/command.rs"]
mod command;
#[path = "../build/error.rs"]
mod error;
#[path = "../build/existing.rs"]
mod existing;
#[path = "../build/host.rs"]
mod host;
#[path = "../build/mlx_c.rs"]
mod mlx_c;
#[path = "../build/pins.rs"]
mod pins;
#[path = "../build/platform.rs"]
mod platform;
#[path = "../build/selection.rs"]
mod selection;
#[path = "../build/wheel.rs"]
mod wheel;
