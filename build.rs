//! Lets the programs of this package find the MLX library when they run.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let libraries = env::var("DEP_MLX_LIBDIR").expect("mlx-sys must publish its library folder");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{libraries}");
}
