//! Where what is made once is kept.

use std::path::PathBuf;

use super::{Failure, FailureKind};

/// This program's folder in the user's cache (<https://specifications.freedesktop.org/basedir-spec/latest/>).
///
/// # Errors
/// The environment leads to none.
pub fn cache_folder() -> Result<PathBuf, Failure> {
    let variable = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let usual = if cfg!(target_os = "macos") {
        "Library/Caches"
    } else {
        ".cache"
    };
    let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(usual)));
    cache.map(|cache| cache.join("mlx-diagnose")).ok_or_else(|| {
        Failure::of(FailureKind::NotWritten, "the user has no home folder to keep things in")
            .with_hint("set `HOME` or `XDG_CACHE_HOME`")
    })
}
