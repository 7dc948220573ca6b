//! Compiles mlx-c against the headers of the MLX that is linked.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{error::Error, platform::cargo_variable};

/// Compiles every C++ source of mlx-c into one static library and links it.
///
/// In all profiles the same: it is only called, never stepped through.
pub fn compile(mlx_c: &Path, include: &Path) -> Result<(), Error> {
    let portability = Path::new(&cargo_variable("CARGO_MANIFEST_DIR")).join("src/portability.h");
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++20")
        .opt_level(2)
        .debug(false)
        .warnings(false)
        .define("NDEBUG", None)
        .include(mlx_c)
        .include(include)
        .flag("-include")
        .flag(&portability)
        .files(sources(&mlx_c.join("mlx/c"))?);
    check_compiler(&build)?;
    build.try_compile("mlxc").map_err(|error| Error::Compile {
        found: error.to_string(),
    })
}

fn sources(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::File {
        action: "read",
        path: folder.into(),
        source,
    };
    let mut sources = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "cpp") {
            sources.push(path);
        }
    }
    sources.sort();
    Ok(sources)
}

fn check_compiler(build: &cc::Build) -> Result<(), Error> {
    let missing = |found: String| Error::NoCompiler { found };
    let compiler = build.try_get_compiler().map_err(|error| missing(error.to_string()))?;
    Command::new(compiler.path())
        .arg("--version")
        .output()
        .map(drop)
        .map_err(|error| missing(format!("{}: {error}", compiler.path().display())))
}
