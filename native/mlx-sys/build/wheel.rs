//! Fetches a pinned MLX wheel with pip.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use super::{
    cache, command,
    error::Error,
    existing::{self, Mlx},
    host,
    pins::Pin,
};

/// How much of the hash names the folder: enough to tell builds apart.
const HASH_PREFIX: usize = 12;

/// The wheel's library and headers in the user's cache, downloaded when they are not there.
pub fn fetch(pin: &'static Pin) -> Result<Mlx, Error> {
    let folder =
        cache::folder(host::SYSTEM, env::var_os("XDG_CACHE_HOME"), env::var_os("HOME"))?.join(folder_name(pin));
    let find = |folder: &Path| existing::in_prefix(&folder.join("mlx"), pin.system);
    cache::install(
        &folder,
        |folder| find(folder).is_some(),
        |partial| download(pin, partial),
    )?;
    find(&folder).ok_or_else(|| Error::UnpackFailed {
        package: pin.package,
        found: "no library or no headers in the wheel".into(),
        folder,
    })
}

fn folder_name(pin: &Pin) -> String {
    format!("{}-{}-{}", pin.version, pin.variant.name(), &pin.sha256[..HASH_PREFIX])
}

/// Downloads the wheel and unpacks it into `folder`.
fn download(pin: &'static Pin, folder: &Path) -> Result<(), Error> {
    let download = folder.join("download");
    let failed = |action: &'static str| {
        let path = download.clone();
        move |source| Error::Cache { action, path, source }
    };
    fs::create_dir(&download).map_err(failed("create"))?;
    let requirements = download.join("requirements.txt");
    let requirement = format!("{}=={} --hash=sha256:{}\n", pin.package, pin.version, pin.sha256);
    fs::write(&requirements, requirement).map_err(failed("write"))?;

    let mut pip = command::new(
        "python3",
        &[
            "-m",
            "pip",
            "download",
            "--quiet",
            // pip only tells a lost network from a missing package when it tries again.
            "--retries",
            "2",
            "--no-deps",
            "--require-hashes",
            "--only-binary=:all:",
            "--python-version",
            "3.12",
            "--platform",
            pin.platform_tag,
        ],
    );
    // A setting of the user's that only concerns installing.
    pip.env("PIP_REQUIRE_VIRTUALENV", "0").current_dir(&download);
    pip.arg("--dest").arg(&download).arg("--requirement").arg(&requirements);
    let output = pip.output().map_err(|source| Error::NoPython { source })?;
    if !output.status.success() {
        return Err(pip_failure(pin, &output.stderr));
    }

    let wheel = downloaded_wheel(&download)?.ok_or_else(|| Error::DownloadFailed {
        package: pin.package,
        version: pin.version,
        found: "pip wrote no wheel".into(),
    })?;
    let mut unpack = command::new("python3", &["-m", "zipfile", "-e"]);
    unpack.arg(&wheel).arg(folder).current_dir(&download);
    let output = unpack.output().map_err(|source| Error::NoPython { source })?;
    if !output.status.success() {
        return Err(Error::UnpackFailed {
            package: pin.package,
            found: command::last_lines(&output.stderr),
            folder: folder.into(),
        });
    }
    fs::remove_dir_all(&download).map_err(failed("remove"))
}

fn downloaded_wheel(folder: &Path) -> Result<Option<PathBuf>, Error> {
    let failed = |source| Error::Cache {
        action: "read",
        path: folder.into(),
        source,
    };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "whl") {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// What a failed pip means, told by its message.
fn pip_failure(pin: &'static Pin, message: &[u8]) -> Error {
    const NO_NETWORK: &[&str] = &[
        "NewConnectionError",
        "ConnectTimeoutError",
        "ReadTimeoutError",
        "NameResolutionError",
        "ProxyError",
        "SSLError",
        "Connection refused",
        "Connection aborted",
        "Network is unreachable",
    ];
    let found = command::last_lines(message);
    let text = String::from_utf8_lossy(message);
    if text.contains("No module named pip") {
        Error::NoPip { found }
    } else if text.contains("DO NOT MATCH THE HASHES") {
        Error::HashMismatch {
            package: pin.package,
            version: pin.version,
            expected: pin.sha256,
            found,
        }
    } else if NO_NETWORK.iter().any(|sign| text.contains(sign)) {
        Error::NoNetwork { found }
    } else {
        Error::DownloadFailed {
            package: pin.package,
            version: pin.version,
            found,
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::pins::PINS;

    #[rstest]
    #[case::no_pip("/usr/bin/python3: No module named pip\n", "pip is missing")]
    #[case::changed_file(
        "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n  Got 0000\n",
        "gave another file"
    )]
    #[case::no_network(
        "WARNING: Retrying after connection broken by 'NewConnectionError(': Temporary failure in name resolution')'\nERROR: No matching distribution found for mlx-cpu==0.32.2\n",
        "cannot be reached"
    )]
    #[case::mirror_without_it("ERROR: No matching distribution found for mlx-cpu==0.32.2\n", "pip could not fetch")]
    fn a_failure_of_pip_is_told_apart(#[case] message: &str, #[case] headline: &str) {
        let error = pip_failure(&PINS[0], message.as_bytes()).to_string();
        let first = error.lines().next().expect("an error has a headline");
        assert!(first.contains(headline), "{error}");
        assert!(error.contains("hint:"), "{error}");
    }

    #[test]
    fn the_folder_is_named_after_version_variant_and_hash() {
        assert_eq!(folder_name(&PINS[0]), "0.32.2-cpu-fc5d31b90fc4");
    }
}
