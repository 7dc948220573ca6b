//! Finds the mlx-c sources and compiles them.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{error::Error, platform::cargo_variable};

const MANIFEST: &str = r#"[package]
name = "locate-mlx-c"
version = "0.0.0"
edition = "2021"

[dependencies]
mlx-sys = "=0.7.0"

[workspace]
"#;

/// The folder that holds `mlx/c/mlx.h`: `MLX_C_DIR`, or the published
/// mlx-sys package, which Cargo downloads and locates.
pub fn locate(out_dir: &Path) -> Result<PathBuf, Error> {
    let folder = match env::var_os("MLX_C_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => published_package(out_dir)?,
    };
    if folder.join("mlx/c/mlx.h").is_file() {
        Ok(folder)
    } else {
        Err(Error::MlxCNotFound {
            found: folder.display().to_string(),
        })
    }
}

fn published_package(out_dir: &Path) -> Result<PathBuf, Error> {
    let folder = out_dir.join("locate-mlx-c");
    let write = |path: PathBuf, text: &str| {
        fs::write(&path, text).map_err(|source| Error::File {
            action: "write",
            path,
            source,
        })
    };
    fs::create_dir_all(folder.join("src")).map_err(|source| Error::File {
        action: "create",
        path: folder.clone(),
        source,
    })?;
    write(folder.join("Cargo.toml"), MANIFEST)?;
    write(folder.join("src/lib.rs"), "")?;
    let mut command = Command::new(cargo_variable("CARGO"));
    command
        .args(["metadata", "--format-version", "1", "--manifest-path"])
        .arg(folder.join("Cargo.toml"));
    let output = command.output().map_err(|source| Error::Start {
        command: "cargo metadata".into(),
        hint: "set MLX_C_DIR",
        source,
    })?;
    if !output.status.success() {
        return Err(Error::MlxCNotFound {
            found: String::from_utf8_lossy(&output.stderr).into_owned(),
        });
    }
    package_folder(&output.stdout).map(|folder| folder.join("src/mlx-c"))
}

fn package_folder(metadata: &[u8]) -> Result<PathBuf, Error> {
    let not_found = |found: String| Error::MlxCNotFound { found };
    let metadata: serde_json::Value = serde_json::from_slice(metadata).map_err(|error| not_found(error.to_string()))?;
    let packages = metadata["packages"]
        .as_array()
        .ok_or_else(|| not_found("metadata without packages".into()))?;
    packages
        .iter()
        .find(|package| package["name"] == "mlx-sys")
        .and_then(|package| package["manifest_path"].as_str())
        .and_then(|manifest| Path::new(manifest).parent())
        .map(Path::to_path_buf)
        .ok_or_else(|| not_found("metadata without the package mlx-sys".into()))
}

/// Compiles every C++ source of mlx-c into a static library and links it.
pub fn compile(mlx_c: &Path, mlx_include: &Path) -> Result<(), Error> {
    let folder = mlx_c.join("mlx/c");
    let mut sources: Vec<PathBuf> = fs::read_dir(&folder)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .map_err(|source| Error::File {
            action: "read",
            path: folder,
            source,
        })?;
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "cpp"));
    sources.sort();
    cc::Build::new()
        .cpp(true)
        .std("c++20")
        .opt_level(2)
        .debug(false)
        .warnings(false)
        .include(mlx_c)
        .include(mlx_include)
        .flag("-include")
        .flag("src/portability.h")
        .files(sources)
        .try_compile("mlxc")
        .map_err(|error| Error::Compile {
            message: error.to_string(),
        })
}
