//! The system that is built for.

use std::env;

use super::error::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    Linux,
    MacOs,
}

impl System {
    /// The file name of MLX's shared library.
    pub fn library(self) -> &'static str {
        match self {
            Self::Linux => "libmlx.so",
            Self::MacOs => "libmlx.dylib",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    X86_64,
    Aarch64,
}

/// A version of glibc or macOS: major and minor.
pub type SystemVersion = (u32, u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub system: System,
    pub architecture: Architecture,
}

impl Target {
    /// Reads what Cargo tells build scripts of the target.
    pub fn from_cargo() -> Result<Self, Error> {
        Self::parse(
            &cargo_variable("CARGO_CFG_TARGET_OS"),
            &cargo_variable("CARGO_CFG_TARGET_ARCH"),
            &cargo_variable("CARGO_CFG_TARGET_ENV"),
        )
    }

    pub fn parse(system: &str, architecture: &str, environment: &str) -> Result<Self, Error> {
        let (system, architecture) = match (system, architecture) {
            ("linux", "x86_64") => (System::Linux, Architecture::X86_64),
            ("linux", "aarch64") => (System::Linux, Architecture::Aarch64),
            ("macos", "aarch64") => (System::MacOs, Architecture::Aarch64),
            ("macos", "x86_64") => return Err(Error::IntelMac),
            _ => {
                return Err(Error::UnsupportedTarget {
                    system: system.into(),
                    architecture: architecture.into(),
                });
            }
        };
        if system == System::Linux && environment != "gnu" {
            return Err(Error::NotGlibc {
                found: environment.into(),
            });
        }
        Ok(Self { system, architecture })
    }
}

/// A variable that Cargo sets for every build script.
pub fn cargo_variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| panic!("Cargo must set {name} for build scripts: {error}"))
}

/// Reads "2.36", "14.4.1", or "26": the first two numbers, a missing minor being 0.
pub fn parse_version(text: &str) -> Option<SystemVersion> {
    let mut numbers = text.trim().split('.').map(str::parse);
    let major = numbers.next()?.ok()?;
    match numbers.next() {
        Some(minor) => Some((major, minor.ok()?)),
        None => Some((major, 0)),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("linux", "x86_64", "gnu", System::Linux, Architecture::X86_64)]
    #[case("linux", "aarch64", "gnu", System::Linux, Architecture::Aarch64)]
    #[case("macos", "aarch64", "", System::MacOs, Architecture::Aarch64)]
    fn a_published_target_is_accepted(
        #[case] name: &str,
        #[case] processor: &str,
        #[case] environment: &str,
        #[case] system: System,
        #[case] architecture: Architecture,
    ) {
        let target = Target::parse(name, processor, environment).expect("the target is supported");
        assert_eq!(target, Target { system, architecture });
    }

    #[rstest]
    #[case("macos", "x86_64", "", "aarch64-apple-darwin")]
    #[case("linux", "x86_64", "musl", "`musl`")]
    #[case("linux", "riscv64", "gnu", "linux on riscv64")]
    #[case("windows", "x86_64", "msvc", "windows on x86_64")]
    fn any_other_target_is_refused_by_name(
        #[case] name: &str,
        #[case] processor: &str,
        #[case] environment: &str,
        #[case] named: &str,
    ) {
        let error = Target::parse(name, processor, environment).expect_err("the target is not supported");
        assert!(error.to_string().contains(named), "{error}");
    }

    #[rstest]
    #[case("2.36", Some((2, 36)))]
    #[case("14.4.1\n", Some((14, 4)))]
    #[case("26", Some((26, 0)))]
    #[case("", None)]
    #[case("15.beta", None)]
    fn versions_are_read_as_two_numbers(#[case] text: &str, #[case] expected: Option<SystemVersion>) {
        assert_eq!(parse_version(text), expected);
    }
}
