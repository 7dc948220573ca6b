//! Compiles the C++ side of the operations against the headers of the MLX that is linked.

use std::env;

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-changed=src/operation.cpp");
    println!("cargo::rerun-if-env-changed=DEP_MLX_INCLUDE");
    let variable =
        |name: &str| env::var(name).map_err(|error| format!("{name}, which Cargo and mlx-sys must set: {error}"));
    // Elsewhere MLX has fast operations of its own.
    if variable("CARGO_CFG_TARGET_OS")? != "linux" {
        return Ok(());
    }
    cc::Build::new()
        .cpp(true)
        .std("c++20")
        // In all profiles the same: it only hands over to Rust.
        .opt_level(2)
        .debug(false)
        .warnings(false)
        .define("NDEBUG", None)
        .includes(env::split_paths(&variable("DEP_MLX_INCLUDE")?))
        .file("src/operation.cpp")
        .try_compile("mlx_cpu_operation")
        .map_err(|error| error.to_string())
}
