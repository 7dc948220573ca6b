//! Links the MLX library that Apple publishes, and compiles mlx-c against it.

mod cache;
mod command;
mod compile;
mod error;
mod existing;
mod host;
mod mlx_c;
mod pins;
mod platform;
mod selection;
mod wheel;

use std::{
    env,
    path::{Path, PathBuf},
};

use error::Error;
use existing::Mlx;
use platform::{System, Target, cargo_variable};
use selection::{Asked, Selection};

/// The oldest macOS that the wheels run on; older ones lack parts of C++20 that mlx-c uses.
const MACOS_DEPLOYMENT_TARGET: &str = "14.0";

fn main() {
    if let Err(error) = link_mlx() {
        // Cargo fails the build and shows these lines without everything else that was printed.
        for line in error.to_string().lines() {
            println!("cargo::error={line}");
        }
    }
}

fn link_mlx() -> Result<(), Error> {
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=src/portability.h");
    for variable in [
        selection::VARIANT_VARIABLE,
        selection::VERSION_VARIABLE,
        selection::FOLDER_VARIABLE,
        mlx_c::FOLDER_VARIABLE,
        "XDG_CACHE_HOME",
    ] {
        println!("cargo::rerun-if-env-changed={variable}");
    }

    let target = Target::from_cargo()?;
    host::check_command_line_tools(target)?;
    let asked = Asked {
        variant: env::var_os(selection::VARIANT_VARIABLE),
        version: env::var_os(selection::VERSION_VARIABLE),
        folder: env::var_os(selection::FOLDER_VARIABLE),
    };
    let (mlx, version) = match selection::select(target, host::version(target)?, asked)? {
        Selection::Existing(folder, version) => existing::find(&folder, target.system, version)?,
        Selection::Wheel(pin) => (wheel::fetch(pin)?, pin.version),
    };
    let mlx_c = mlx_c::locate(&PathBuf::from(cargo_variable("OUT_DIR")))?;
    if target.system == System::MacOs && env::var_os("MACOSX_DEPLOYMENT_TARGET").is_none() {
        // SAFETY: this program has one thread so far.
        unsafe { env::set_var("MACOSX_DEPLOYMENT_TARGET", MACOS_DEPLOYMENT_TARGET) };
    }
    compile::compile(&mlx_c, &mlx.include)?;
    link(&mlx, target.system);
    publish(&mlx, &mlx_c, version);
    Ok(())
}

fn link(mlx: &Mlx, system: System) {
    let libraries = mlx.libraries.display();
    // A cache that was emptied is filled again.
    println!("cargo::rerun-if-changed={libraries}/{}", system.library());
    println!("cargo::rustc-link-search=native={libraries}");
    println!("cargo::rustc-link-lib=dylib=mlx");
    // For this package's own tests; dependents set theirs from the metadata.
    println!("cargo::rustc-link-arg=-Wl,-rpath,{libraries}");
}

/// What dependents' build scripts read as `DEP_MLX_*`; the names of the published package, and
/// `LIBDIR`.
fn publish(mlx: &Mlx, mlx_c: &Path, version: &str) {
    let include =
        env::join_paths([mlx.include.as_path(), mlx_c]).expect("folders of C++ headers have no colon in their names");
    println!("cargo::metadata=include={}", include.display());
    println!("cargo::metadata=defines=");
    println!("cargo::metadata=version={version}");
    // What `backend::check_version` compares the library with that a program really loads.
    println!("cargo::rustc-env=MLX_HEADERS_VERSION={version}");
    println!("cargo::metadata=libdir={}", mlx.libraries.display());
}
