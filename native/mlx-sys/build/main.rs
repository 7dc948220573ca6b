//! Links the MLX library that Apple publishes, and compiles mlx-c against it.

mod error;
mod mlx_c;
mod pins;
mod platform;
mod wheel;

use std::{path::PathBuf, process::ExitCode};

use error::Error;
use platform::{Target, cargo_variable};

fn main() -> ExitCode {
    match link_mlx() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn link_mlx() -> Result<(), Error> {
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=src/portability.h");
    println!("cargo::rerun-if-env-changed=MLX_C_DIR");
    let target = Target::from_cargo()?;
    let pin = pins::PINS
        .iter()
        .find(|pin| pin.system == target.system && pin.architecture == target.architecture)
        .ok_or_else(|| Error::UnsupportedTarget {
            found: format!("{target:?}"),
        })?;
    let mlx = wheel::fetch(pin)?;
    let out_dir = PathBuf::from(cargo_variable("OUT_DIR"));
    let mlx_c = mlx_c::locate(&out_dir)?;
    mlx_c::compile(&mlx_c, &mlx.join("include"))?;
    let libraries = mlx.join("lib");
    println!("cargo::rustc-link-search=native={}", libraries.display());
    println!("cargo::rustc-link-lib=dylib=mlx");
    // For this package's own tests; dependents set theirs from the metadata.
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", libraries.display());
    println!("cargo::metadata=libdir={}", libraries.display());
    Ok(())
}
