//! Finds the sources of mlx-c, which the published package mlx-sys carries.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use super::{command, error::Error, platform::cargo_variable};

/// Names a folder with mlx/c/mlx.h, for builds without a package registry.
pub const FOLDER_VARIABLE: &str = "MLX_C_DIR";

/// A package of its own, so that Cargo finds the published mlx-sys rather than this one.
const MANIFEST: &str = r#"[package]
name = "locate-mlx-c"
version = "0.0.0"
edition = "2021"

[dependencies]
mlx-sys = "=0.7.0"

[workspace]
"#;

/// The folder that holds `mlx/c/mlx.h`.
pub fn locate(out_dir: &Path) -> Result<PathBuf, Error> {
    let folder = match env::var_os(FOLDER_VARIABLE).filter(|folder| !folder.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => published_package(&out_dir.join("locate-mlx-c"))?.join("src/mlx-c"),
    };
    if folder.join("mlx/c/mlx.h").is_file() {
        Ok(folder)
    } else {
        Err(Error::NoMlxC {
            found: folder.display().to_string(),
        })
    }
}

/// Lets Cargo download the package and say where it lies.
fn published_package(scratch: &Path) -> Result<PathBuf, Error> {
    let sources = scratch.join("src");
    let failed = |action: &'static str, path: &Path| {
        let path = path.to_path_buf();
        move |source| Error::File { action, path, source }
    };
    fs::create_dir_all(&sources).map_err(failed("create", &sources))?;
    let manifest = scratch.join("Cargo.toml");
    for (path, text) in [(&manifest, MANIFEST), (&sources.join("lib.rs"), "")] {
        fs::write(path, text).map_err(failed("write", path))?;
    }
    // Without the network first: that is enough for every build but the first.
    let metadata = run_metadata(&manifest, &["--offline"]).or_else(|_| run_metadata(&manifest, &[]))?;
    package_folder(&metadata)
}

fn run_metadata(manifest: &Path, arguments: &[&str]) -> Result<Vec<u8>, Error> {
    let mut cargo = command::new(
        &cargo_variable("CARGO"),
        &["metadata", "--quiet", "--format-version", "1"],
    );
    cargo.args(arguments).arg("--manifest-path").arg(manifest);
    let output = cargo.output().map_err(|error| Error::NoMlxC {
        found: error.to_string(),
    })?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(Error::NoMlxC {
            found: command::last_lines(&output.stderr),
        })
    }
}

/// The folder of the package mlx-sys, from what `cargo metadata` printed.
fn package_folder(metadata: &[u8]) -> Result<PathBuf, Error> {
    let missing = |found: &str| Error::NoMlxC { found: found.into() };
    let metadata: serde_json::Value = serde_json::from_slice(metadata)
        .map_err(|error| missing(&format!("cargo metadata printed no JSON: {error}")))?;
    metadata["packages"]
        .as_array()
        .and_then(|packages| packages.iter().find(|package| package["name"] == "mlx-sys"))
        .and_then(|package| package["manifest_path"].as_str())
        .and_then(|manifest| Path::new(manifest).parent())
        .map(Path::to_path_buf)
        .ok_or_else(|| missing("no package mlx-sys in what cargo metadata printed"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn the_package_is_found_among_others() {
        let metadata = br#"{"packages":[
            {"name":"cc","manifest_path":"/registry/cc-1.0.0/Cargo.toml"},
            {"name":"mlx-sys","manifest_path":"/registry/mlx-sys-0.7.0/Cargo.toml"}]}"#;
        assert_eq!(
            package_folder(metadata).expect("it is there"),
            Path::new("/registry/mlx-sys-0.7.0")
        );
    }

    #[rstest]
    #[case(b"warning: nothing")]
    #[case(br#"{"packages":[]}"#)]
    #[case(br#"{"packages":[{"name":"mlx-sys"}]}"#)]
    fn metadata_without_the_package_is_an_error_with_a_remedy(#[case] metadata: &[u8]) {
        let error = package_folder(metadata).expect_err("there is no package").to_string();
        assert!(error.contains("MLX_C_DIR"), "{error}");
    }
}
