//! Lets the programs of this package find the MLX library when they run.

use std::env;

fn main() -> Result<(), String> {
    // Two more packages of the workspace build with this file, which does not lie in their folders.
    println!("cargo::rerun-if-env-changed=DEP_MLX_LIBDIR");
    let variable =
        |name: &str| env::var(name).map_err(|error| format!("{name}, which Cargo and mlx-sys must set: {error}"));
    let libraries = variable("DEP_MLX_LIBDIR")?;
    let macos = variable("CARGO_CFG_TARGET_OS")? == "macos";

    // First a folder beside the program, for copies that are moved to another machine.
    let beside_program = if macos {
        "@executable_path/mlx/lib"
    } else {
        "$ORIGIN/mlx/lib"
    };
    for folder in [beside_program, &libraries] {
        link_argument("-rpath");
        link_argument(folder);
    }
    if !macos {
        // MLX for CUDA refers to NVIDIA's libraries, which are only looked for when it runs.
        link_argument("--allow-shlib-undefined");
        // Functions are looked up when they are called, so that a program with the MLX of another release gets as far as
        // saying so: otherwise the dynamic linker ends it with the mangled name of the first function that is missing.
        link_argument("-z");
        link_argument("lazy");
    }
    Ok(())
}

/// Passes one argument to the linker; unlike `-Wl,` this keeps commas in folder names.
fn link_argument(argument: &str) {
    println!("cargo::rustc-link-arg=-Xlinker");
    println!("cargo::rustc-link-arg={argument}");
}
