//! The system that is built for, and which wheel it can run.

use std::env;

use crate::error::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    Linux,
    MacOs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    X86_64,
    Aarch64,
}

/// What Cargo says of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub system: System,
    pub architecture: Architecture,
}

impl Target {
    /// Reads the target from the environment Cargo gives to build scripts.
    pub fn from_cargo() -> Result<Self, Error> {
        Self::parse(
            &cargo_variable("CARGO_CFG_TARGET_OS"),
            &cargo_variable("CARGO_CFG_TARGET_ARCH"),
        )
    }

    fn parse(system: &str, architecture: &str) -> Result<Self, Error> {
        let unsupported = || Error::UnsupportedTarget {
            found: format!("{system} on {architecture}"),
        };
        let system = match system {
            "linux" => System::Linux,
            "macos" => System::MacOs,
            _ => return Err(unsupported()),
        };
        let architecture = match architecture {
            "x86_64" => Architecture::X86_64,
            "aarch64" => Architecture::Aarch64,
            _ => return Err(unsupported()),
        };
        Ok(Self { system, architecture })
    }
}

/// A variable Cargo always sets for a build script.
pub fn cargo_variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| panic!("Cargo must set {name} for build scripts: {error}"))
}
