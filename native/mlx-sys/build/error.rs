//! What can stop the build, each with what was found and its remedy.

use std::{io, path::PathBuf};

use super::pins::{MLX_VERSION, MLX_VERSIONS};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "MLX is published neither for this system nor for this processor
  found: {system} on {architecture}
  expected: Linux on x86-64 or aarch64, or macOS on Apple silicon
  hint: name a build of MLX {MLX_VERSION} of your own by MLX_DIAGNOSE_MLX_DIR"
    )]
    UnsupportedTarget { system: String, architecture: String },

    #[error(
        "MLX does not run on Macs with an Intel processor
  found: the target x86_64-apple-darwin
  expected: aarch64-apple-darwin
  hint: on Apple silicon, install the native Rust toolchain: rustup default stable-aarch64-apple-darwin"
    )]
    IntelMac,

    #[error(
        "the published MLX library needs the GNU C library
  found: the target environment `{found}`
  expected: gnu
  hint: build for a -linux-gnu target, or name a build of MLX {MLX_VERSION} of your own by MLX_DIAGNOSE_MLX_DIR"
    )]
    NotGlibc { found: String },

    #[error(
        "this system is too old for the published MLX library
  found: {system} {found}
  expected: {system} {expected} or newer
  hint: {hint}"
    )]
    SystemTooOld {
        system: &'static str,
        found: String,
        expected: String,
        hint: &'static str,
    },

    #[error(
        "the version of {system} could not be read
  found: {found}
  expected: two numbers, such as {example}"
    )]
    UnknownSystemVersion {
        system: &'static str,
        found: String,
        example: &'static str,
    },

    #[error(
        "MLX_DIAGNOSE_MLX names no build of MLX for this system
  found: {found}
  expected: {expected}"
    )]
    UnknownVariant { found: String, expected: String },

    #[error(
        "MLX_DIAGNOSE_MLX_DIR names a folder without MLX
  found: {}
  expected: a Python environment that has the package mlx, its site-packages/mlx, or a folder with \
         include/mlx/version.h and lib/{library}",
        found.display()
    )]
    NotAnMlxFolder { found: PathBuf, library: &'static str },

    #[error(
        "MLX_DIAGNOSE_MLX_DIR names another version of MLX
  found: {found} in {}
  expected: {expected}
  hint: python3 -m pip install mlx=={MLX_VERSION}",
        folder.display()
    )]
    WrongMlxVersion {
        found: String,
        expected: String,
        folder: PathBuf,
    },

    #[error(
        "MLX_DIAGNOSE_MLX_VERSION names a release of MLX that cannot be linked
  found: {found}: {reason}
  expected: {}
  hint: leave the variable unset for {MLX_VERSION}",
        MLX_VERSIONS.join(", ")
    )]
    UnknownMlxVersion { found: String, reason: &'static str },

    #[error(
        "Apple's command line tools are missing
  found: {found}
  hint: xcode-select --install"
    )]
    NoCommandLineTools { found: String },

    #[error(
        "python3 is missing; it fetches the MLX library
  found: {source}
  hint: install it (Debian, Ubuntu: apt install python3 python3-pip; Fedora: dnf install python3-pip), or name \
         an existing MLX by MLX_DIAGNOSE_MLX_DIR"
    )]
    NoPython { source: io::Error },

    #[error(
        "pip is missing; it fetches the MLX library
  found: {found}
  hint: install it (Debian, Ubuntu: apt install python3-pip; elsewhere: python3 -m ensurepip), leave a virtual \
         environment that has none, or name an existing MLX by MLX_DIAGNOSE_MLX_DIR"
    )]
    NoPip { found: String },

    #[error(
        "the MLX library could not be fetched: the package index cannot be reached
  found: {found}
  hint: connect to the network, or name an existing MLX by MLX_DIAGNOSE_MLX_DIR"
    )]
    NoNetwork { found: String },

    #[error(
        "the package index gave another file than the one this project was tested with; nothing was kept
  found: {found}
  expected: {package} {version} with SHA-256 {expected}
  hint: check PIP_INDEX_URL and pip.conf for a mirror that changes files"
    )]
    HashMismatch {
        package: &'static str,
        version: &'static str,
        expected: &'static str,
        found: String,
    },

    #[error(
        "pip could not fetch {package} {version}
  found: {found}
  hint: python3 -m pip install --upgrade pip, or name an existing MLX by MLX_DIAGNOSE_MLX_DIR"
    )]
    DownloadFailed {
        package: &'static str,
        version: &'static str,
        found: String,
    },

    #[error(
        "the downloaded wheel of {package} could not be unpacked
  found: {found}
  hint: check the free space in {}",
        folder.display()
    )]
    UnpackFailed {
        package: &'static str,
        found: String,
        folder: PathBuf,
    },

    #[error(
        "there is no folder to keep the MLX library in
  found: neither XDG_CACHE_HOME nor HOME is set
  hint: set one of them, or name an existing MLX by MLX_DIAGNOSE_MLX_DIR"
    )]
    NoCacheFolder,

    #[error(
        "the folder that keeps the MLX library cannot be written
  found: cannot {action} {}: {source}
  hint: name another by XDG_CACHE_HOME, or an existing MLX by MLX_DIAGNOSE_MLX_DIR",
        path.display()
    )]
    Cache {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },

    #[error("cannot {action} {}: {source}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },

    #[error(
        "the sources of mlx-c are missing
  found: {found}
  expected: the package mlx-sys 0.7.0 of the package registry, or a folder with mlx/c/mlx.h named by MLX_C_DIR
  hint: connect to the network for the first build, or set MLX_C_DIR"
    )]
    NoMlxC { found: String },

    #[error(
        "a C++ compiler is missing; it compiles mlx-c
  found: {found}
  hint: install one (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++), or name it by CXX"
    )]
    NoCompiler { found: String },

    #[error(
        "mlx-c could not be compiled
  found: {found}
  expected: a compiler for C++20: gcc 11, clang 14, or newer
  hint: name another compiler by CXX"
    )]
    Compile { found: String },
}
