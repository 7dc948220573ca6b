//! The system that builds, and its version.

use super::{
    command,
    error::Error,
    platform::{System, SystemVersion, Target, cargo_variable, parse_version},
};

/// The system this build script runs on; other ones than these two build for them like Linux does.
pub const SYSTEM: System = if cfg!(target_os = "macos") {
    System::MacOs
} else {
    System::Linux
};

/// The version of glibc or macOS that the program will run on.
///
/// `None` when another system is built for than the one that builds: its version is unknown.
pub fn version(target: Target) -> Result<Option<SystemVersion>, Error> {
    if cargo_variable("HOST") != cargo_variable("TARGET") {
        return Ok(None);
    }
    match target.system {
        System::Linux => glibc_version().map(Some),
        System::MacOs => macos_version().map(Some),
    }
}

#[cfg(target_env = "gnu")]
fn glibc_version() -> Result<SystemVersion, Error> {
    use std::ffi::{CStr, c_char};

    unsafe extern "C" {
        fn gnu_get_libc_version() -> *const c_char;
    }
    // SAFETY: glibc returns a constant string, closed by a zero.
    let text = unsafe { CStr::from_ptr(gnu_get_libc_version()) }.to_string_lossy();
    parse_version(&text).ok_or_else(|| Error::UnknownSystemVersion {
        system: "glibc",
        found: text.into_owned(),
        example: "2.36",
    })
}

#[cfg(not(target_env = "gnu"))]
fn glibc_version() -> Result<SystemVersion, Error> {
    Err(Error::NotGlibc {
        found: "unknown".into(),
    })
}

fn macos_version() -> Result<SystemVersion, Error> {
    let unknown = |found: String| Error::UnknownSystemVersion {
        system: "macOS",
        found,
        example: "14.4",
    };
    let output = command::new("sw_vers", &["-productVersion"])
        .output()
        .map_err(|error| unknown(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    parse_version(&text).ok_or_else(|| unknown(text))
}

/// Fails when the compiler and linker of a Mac are not installed.
pub fn check_command_line_tools(target: Target) -> Result<(), Error> {
    if target.system != System::MacOs || cargo_variable("HOST") != cargo_variable("TARGET") {
        return Ok(());
    }
    let missing = |found: String| Error::NoCommandLineTools { found };
    let output = command::new("xcrun", &["--find", "clang++"])
        .output()
        .map_err(|error| missing(error.to_string()))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(missing(command::last_lines(&output.stderr)))
    }
}
