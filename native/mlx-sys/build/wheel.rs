//! Fetches a pinned MLX wheel with pip and unpacks it into the user's cache.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    error::Error,
    pins::{MLX_VERSION, Pin},
};

/// Returns the folder with `lib/` and `include/`, downloading it when it is not there.
pub fn fetch(pin: &Pin) -> Result<PathBuf, Error> {
    let folder = cache_folder()?.join(format!("{MLX_VERSION}-{}-{}", pin.package, &pin.sha256[..12]));
    let library = folder.join("mlx");
    if library.is_dir() {
        return Ok(library);
    }
    let parent = folder.parent().expect("a joined path has a parent");
    fs::create_dir_all(parent).map_err(|source| Error::File {
        action: "create",
        path: parent.into(),
        source,
    })?;
    let partial = parent.join(format!(
        "{}.{}.tmp",
        folder.file_name().expect("joined above").display(),
        std::process::id()
    ));
    fs::create_dir(&partial).map_err(|source| Error::File {
        action: "create",
        path: partial.clone(),
        source,
    })?;
    let result = download(pin, &partial).and_then(|()| {
        fs::rename(partial.join("unpacked"), &folder).or_else(|source| {
            if library.is_dir() {
                Ok(())
            } else {
                Err(Error::File {
                    action: "write",
                    path: folder.clone(),
                    source,
                })
            }
        })
    });
    fs::remove_dir_all(&partial).map_err(|source| Error::File {
        action: "remove",
        path: partial,
        source,
    })?;
    result.map(|()| library)
}

fn download(pin: &Pin, folder: &Path) -> Result<(), Error> {
    let requirements = folder.join("requirements.txt");
    fs::write(
        &requirements,
        format!("{}=={MLX_VERSION} --hash=sha256:{}\n", pin.package, pin.sha256),
    )
    .map_err(|source| Error::File {
        action: "write",
        path: requirements.clone(),
        source,
    })?;
    run(
        Command::new("python3")
            .args([
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--require-hashes",
                "--only-binary=:all:",
            ])
            .args(["--python-version", "3.12", "--platform", pin.platform_tag, "--dest"])
            .arg(folder)
            .arg("--requirement")
            .arg(&requirements),
        "check the network, or name an existing MLX by MLX_DIAGNOSE_MLX_DIR",
    )?;
    let wheel = fs::read_dir(folder)
        .map_err(|source| Error::File {
            action: "read",
            path: folder.into(),
            source,
        })?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| Error::Failed {
            command: "python3 -m pip download".into(),
            output: "no wheel was written".into(),
            hint: "update pip",
        })?;
    run(
        Command::new("python3")
            .args(["-m", "zipfile", "-e"])
            .arg(&wheel)
            .arg(folder.join("unpacked")),
        "check the free space of the cache folder",
    )
}

fn run(command: &mut Command, hint: &'static str) -> Result<(), Error> {
    let output = command.output().map_err(|source| Error::Start {
        command: format!("{command:?}"),
        hint: "install python3 and pip",
        source,
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Failed {
        command: format!("{command:?}"),
        output: String::from_utf8_lossy(&output.stderr).into_owned(),
        hint,
    })
}

fn cache_folder() -> Result<PathBuf, Error> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = if let Some(folder) = variable("XDG_CACHE_HOME") {
        folder
    } else {
        let home = variable("HOME").ok_or(Error::NoCacheFolder)?;
        if cfg!(target_os = "macos") {
            home.join("Library/Caches")
        } else {
            home.join(".cache")
        }
    };
    Ok(base.join("mlx-diagnose").join("mlx"))
}
