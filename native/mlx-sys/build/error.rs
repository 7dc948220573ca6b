//! What can stop the build, each with its remedy.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "no MLX library is published for this target\n  found: {found}\n  expected: Linux on x86-64 or aarch64, or macOS on Apple silicon"
    )]
    UnsupportedTarget { found: String },
    #[error("`{command}` could not be started: {source}\n  hint: {hint}")]
    Start {
        command: String,
        hint: &'static str,
        source: std::io::Error,
    },
    #[error("`{command}` failed\n{output}\n  hint: {hint}")]
    Failed {
        command: String,
        output: String,
        hint: &'static str,
    },
    #[error("cannot {action} {path}: {source}")]
    File {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "no cache folder: neither XDG_CACHE_HOME nor HOME is set\n  hint: set HOME, or name an existing MLX by MLX_DIAGNOSE_MLX_DIR"
    )]
    NoCacheFolder,
    #[error(
        "the mlx-c sources were not found\n  found: {found}\n  hint: set MLX_C_DIR to a folder that has mlx/c/mlx.h"
    )]
    MlxCNotFound { found: String },
    #[error("mlx-c could not be compiled: {message}")]
    Compile { message: String },
}
