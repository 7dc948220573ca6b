//! The python that other programs of this kind are called with.

use std::ffi::OsString;

/// A python with packages that this program has not: torch and transformers, or mlx-lm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Python(pub OsString);

impl Python {
    /// The variable that names another python than the one on the path.
    pub const VARIABLE: &str = "MLX_DIAGNOSE_PYTHON";

    /// The python that the environment names, or `python3` of the path.
    pub fn from_environment() -> Self {
        let named = std::env::var_os(Self::VARIABLE).filter(|name| !name.is_empty());
        Self(named.unwrap_or_else(|| "python3".into()))
    }

    /// What it is called by.
    pub fn name(&self) -> String {
        self.0.to_string_lossy().into_owned()
    }
}
