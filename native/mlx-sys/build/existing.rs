//! An MLX that is there already.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{error::Error, pins::MLX_VERSIONS, platform::System};

/// Where the library and the headers of an MLX lie.
#[derive(Debug, PartialEq, Eq)]
pub struct Mlx {
    pub libraries: PathBuf,
    pub include: PathBuf,
}

/// Finds MLX in a Python environment, in its package folder, or in an installation prefix, and
/// checks its version: the one that was asked for, or any that can be linked.
pub fn find(folder: &Path, system: System, asked: Option<&'static str>) -> Result<(Mlx, &'static str), Error> {
    let folder = std::path::absolute(folder).map_err(|source| Error::File {
        action: "find",
        path: folder.into(),
        source,
    })?;
    let mut candidates = vec![folder.clone(), folder.join("mlx")];
    candidates.extend(python_packages(&folder)?);
    let mlx = candidates
        .iter()
        .find_map(|candidate| in_prefix(candidate, system))
        .ok_or(Error::NotAnMlxFolder {
            found: folder,
            library: system.library(),
        })?;
    let header = mlx.include.join("mlx/version.h");
    let text = fs::read_to_string(&header).map_err(|source| Error::File {
        action: "read",
        path: header.clone(),
        source,
    })?;
    let accepted = asked.as_ref().map_or(MLX_VERSIONS, std::slice::from_ref);
    let found = version(&text);
    match accepted.iter().find(|&&version| found.as_deref() == Some(version)) {
        Some(version) => Ok((mlx, version)),
        None => Err(Error::WrongMlxVersion {
            found: found.unwrap_or_else(|| "no version".into()),
            expected: accepted.join(" or "),
            folder: header,
        }),
    }
}

/// The library and headers below one folder, when both are there.
pub fn in_prefix(prefix: &Path, system: System) -> Option<Mlx> {
    let include = prefix.join("include");
    let libraries = ["lib", "lib64"]
        .map(|name| prefix.join(name))
        .into_iter()
        .find(|libraries| libraries.join(system.library()).is_file())?;
    include
        .join("mlx/version.h")
        .is_file()
        .then_some(Mlx { libraries, include })
}

/// The folders of the package mlx in a Python environment, the newest Python first.
fn python_packages(environment: &Path) -> Result<Vec<PathBuf>, Error> {
    let library = environment.join("lib");
    let failed = |source: io::Error| Error::File {
        action: "read",
        path: library.clone(),
        source,
    };
    let entries = match fs::read_dir(&library) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let Some(version) = name.to_str().and_then(|name| name.strip_prefix("python3.")) else {
            continue;
        };
        if let Ok(minor) = version.trim_end_matches('t').parse::<u32>() {
            found.push((minor, entry.path().join("site-packages/mlx")));
        }
    }
    found.sort();
    Ok(found.into_iter().rev().map(|(_, folder)| folder).collect())
}

/// Reads the version that MLX's header `version.h` defines.
fn version(header: &str) -> Option<String> {
    let number = |name: &str| {
        header.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("#define") && words.next() == Some(name)).then(|| words.next())?
        })
    };
    Some(format!(
        "{}.{}.{}",
        number("MLX_VERSION_MAJOR")?,
        number("MLX_VERSION_MINOR")?,
        number("MLX_VERSION_PATCH")?
    ))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use tempfile::TempDir;

    use super::*;

    fn write_mlx(prefix: &Path, library: &str, patch: u32) {
        let include = prefix.join("include/mlx");
        fs::create_dir_all(&include).expect("the test folder is writable");
        let header = format!(
            "#pragma once\n#define MLX_VERSION_MAJOR 0\n#define MLX_VERSION_MINOR 32\n#define MLX_VERSION_PATCH {patch}\n#define MLX_VERSION_NUMERIC \\\n  (1)\n"
        );
        fs::write(include.join("version.h"), header).expect("the test folder is writable");
        let library = prefix.join(library);
        fs::create_dir_all(library.parent().expect("the library lies in a folder")).expect("writable");
        fs::write(library, "").expect("the test folder is writable");
    }

    #[rstest]
    #[case::prefix("", "", "lib/libmlx.so", System::Linux)]
    #[case::prefix_with_lib64("", "", "lib64/libmlx.so", System::Linux)]
    #[case::unpacked_wheel("", "mlx", "lib/libmlx.so", System::Linux)]
    #[case::package(
        "lib/python3.12/site-packages/mlx",
        "lib/python3.12/site-packages/mlx",
        "lib/libmlx.so",
        System::Linux
    )]
    #[case::environment("", "lib/python3.9/site-packages/mlx", "lib/libmlx.dylib", System::MacOs)]
    fn mlx_is_found_where_it_can_lie(
        #[case] named: &str,
        #[case] prefix: &str,
        #[case] library: &str,
        #[case] system: System,
    ) {
        let folder = TempDir::new().expect("a temporary folder can be made");
        let prefix = folder.path().join(prefix);
        write_mlx(&prefix, library, 2);
        let (mlx, version) = find(&folder.path().join(named), system, None).expect("MLX is there");
        assert_eq!(version, "0.32.2");
        assert_eq!(mlx.include, prefix.join("include"));
        assert_eq!(mlx.libraries.join(system.library()), prefix.join(library));
    }

    #[test]
    fn the_newest_python_of_an_environment_is_taken() {
        let folder = TempDir::new().expect("a temporary folder can be made");
        for minor in ["9", "13", "11"] {
            let package = format!("lib/python3.{minor}/site-packages/mlx");
            write_mlx(&folder.path().join(package), "lib/libmlx.so", 2);
        }
        let (mlx, _) = find(folder.path(), System::Linux, None).expect("MLX is there");
        assert!(mlx.include.ends_with("python3.13/site-packages/mlx/include"), "{mlx:?}");
    }

    #[test]
    fn another_version_is_refused_with_found_and_expected() {
        let folder = TempDir::new().expect("a temporary folder can be made");
        write_mlx(folder.path(), "lib/libmlx.so", 1);
        for (asked, expected) in [
            (None, "expected: 0.32.2 or 0.32.4"),
            (Some("0.32.4"), "expected: 0.32.4\n"),
        ] {
            let error = find(folder.path(), System::Linux, asked).expect_err("the version is wrong");
            let error = error.to_string();
            assert!(
                error.contains("found: 0.32.1 in ") && error.contains(expected),
                "{error}"
            );
        }
    }

    #[rstest]
    #[case::nothing(None)]
    #[case::library_of_another_system(Some("lib/libmlx.dylib"))]
    #[case::static_library(Some("lib/libmlx.a"))]
    fn a_folder_without_the_library_is_refused(#[case] library: Option<&str>) {
        let folder = TempDir::new().expect("a temporary folder can be made");
        if let Some(library) = library {
            write_mlx(folder.path(), library, 2);
        }
        let error = find(folder.path(), System::Linux, None)
            .expect_err("there is no library")
            .to_string();
        assert!(error.contains("lib/libmlx.so"), "{error}");
    }

    #[test]
    fn a_header_without_a_version_has_none() {
        assert_eq!(version("#define MLX_VERSION_MAJOR 0\n"), None);
    }
}
