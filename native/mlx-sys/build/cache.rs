//! The user's folder of downloaded libraries. It outlives `cargo clean`, so that installed
//! programs keep working.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::{error::Error, platform::System};

/// The folder for downloads on the system that builds, from the variables `XDG_CACHE_HOME` and `HOME`.
///
/// As the XDG specification asks, a relative `XDG_CACHE_HOME` counts as not set.
pub fn folder(system: System, cache_home: Option<OsString>, home: Option<OsString>) -> Result<PathBuf, Error> {
    let absolute = |value: Option<OsString>| value.map(PathBuf::from).filter(|path| path.is_absolute());
    let base = match (absolute(cache_home), absolute(home), system) {
        (Some(base), _, _) => base,
        (None, Some(home), System::Linux) => home.join(".cache"),
        (None, Some(home), System::MacOs) => home.join("Library/Caches"),
        (None, None, _) => return Err(Error::NoCacheFolder),
    };
    Ok(base.join("mlx-diagnose/mlx"))
}

/// Makes `folder` complete, by `fill` when it is not.
///
/// `fill` writes to a folder beside it that is renamed at the end, and a lock keeps other builds
/// out meanwhile: builds at the same time share one download, and one that is killed leaves
/// nothing that looks whole.
pub fn install(
    folder: &Path,
    is_complete: impl Fn(&Path) -> bool,
    fill: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<(), Error> {
    if is_complete(folder) {
        return Ok(());
    }
    let failed = |action: &'static str, path: &Path| {
        let path = path.to_path_buf();
        move |source: io::Error| Error::Cache { action, path, source }
    };
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent).map_err(failed("create", parent))?;
    }
    let lock_path = beside(folder, ".lock");
    let lock = File::create(&lock_path).map_err(failed("create", &lock_path))?;
    lock.lock().map_err(failed("lock", &lock_path))?;
    if is_complete(folder) {
        return Ok(());
    }
    let partial = beside(folder, ".partial");
    for leftover in [&partial, folder] {
        match fs::remove_dir_all(leftover) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("remove", leftover)(error)),
        }
    }
    fs::create_dir(&partial).map_err(failed("create", &partial))?;
    if let Err(error) = fill(&partial) {
        // What cannot be removed now is removed by the next build; the first error says more.
        let _ = fs::remove_dir_all(&partial);
        return Err(error);
    }
    fs::rename(&partial, folder).map_err(failed("write", folder))
}

fn beside(folder: &Path, suffix: &str) -> PathBuf {
    let mut path = folder.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        thread,
        time::Duration,
    };

    use rstest::rstest;
    use tempfile::TempDir;

    use super::*;

    #[rstest]
    #[case(System::Linux, Some("/big/cache"), Some("/home/ada"), "/big/cache/mlx-diagnose/mlx")]
    #[case(System::Linux, None, Some("/home/ada"), "/home/ada/.cache/mlx-diagnose/mlx")]
    #[case(System::Linux, Some(""), Some("/home/ada"), "/home/ada/.cache/mlx-diagnose/mlx")]
    #[case(System::Linux, Some("cache"), Some("/home/ada"), "/home/ada/.cache/mlx-diagnose/mlx")]
    #[case(
        System::MacOs,
        None,
        Some("/Users/ada"),
        "/Users/ada/Library/Caches/mlx-diagnose/mlx"
    )]
    fn the_folder_follows_the_habits_of_the_system(
        #[case] system: System,
        #[case] cache_home: Option<&str>,
        #[case] home: Option<&str>,
        #[case] expected: &str,
    ) {
        let folder = folder(system, cache_home.map(OsString::from), home.map(OsString::from));
        assert_eq!(folder.expect("a folder is known"), Path::new(expected));
    }

    #[test]
    fn without_any_home_there_is_no_folder() {
        assert!(matches!(folder(System::Linux, None, None), Err(Error::NoCacheFolder)));
    }

    fn is_complete(folder: &Path) -> bool {
        folder.join("whole").is_file()
    }

    fn write(folder: &Path, name: &str) {
        fs::write(folder.join(name), name).expect("the test folder is writable");
    }

    #[test]
    fn builds_at_the_same_time_share_one_download() {
        let cache = TempDir::new().expect("a temporary folder can be made");
        let folder = cache.path().join("deep/library");
        let fills = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    install(&folder, is_complete, |partial| {
                        fills.fetch_add(1, Ordering::SeqCst);
                        thread::sleep(Duration::from_millis(50));
                        write(partial, "whole");
                        Ok(())
                    })
                    .expect("the folder is installed");
                    assert!(is_complete(&folder));
                });
            }
        });
        assert_eq!(fills.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn what_a_killed_build_left_is_replaced() {
        let cache = TempDir::new().expect("a temporary folder can be made");
        let folder = cache.path().join("library");
        for leftover in [folder.clone(), beside(&folder, ".partial")] {
            fs::create_dir(&leftover).expect("the test folder is writable");
            write(&leftover, "half");
        }
        install(&folder, is_complete, |partial| {
            write(partial, "whole");
            Ok(())
        })
        .expect("the folder is installed");
        assert!(is_complete(&folder));
        assert!(!folder.join("half").exists());
        assert!(!beside(&folder, ".partial").exists());
    }

    #[test]
    fn a_failed_download_leaves_nothing_that_looks_whole() {
        let cache = TempDir::new().expect("a temporary folder can be made");
        let folder = cache.path().join("library");
        let failed = install(&folder, is_complete, |partial| {
            write(partial, "whole");
            Err(Error::NoCacheFolder)
        });
        assert!(failed.is_err());
        assert!(!folder.exists());
        assert!(!beside(&folder, ".partial").exists());
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let cache = TempDir::new().expect("a temporary folder can be made");
        write(cache.path(), "file");
        let error =
            install(&cache.path().join("file/library"), is_complete, |_| Ok(())).expect_err("a file is in the way");
        assert!(error.to_string().contains("/file"), "{error}");
        assert!(error.to_string().contains("XDG_CACHE_HOME"), "{error}");
    }
}
