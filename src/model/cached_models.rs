//! The models in the hub's cache: what is there, where, how large, whole or not, and how to be rid of it.
//!
//! The layout is that of `huggingface_hub`: `models--<owner>--<name>` holds `blobs` (contents), `snapshots/<commit>`
//! (links to them by file name) and `refs/<branch>` (the commit of a branch). Revisions share blobs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirEntry};
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::folder_files::missing_files;
use crate::suggestion::closest;

/// Begin of the folder name of a model's repository.
const PREFIX: &str = "models--";
/// What stands for the slash between owner and name.
const SEPARATOR: &str = "--";
/// Extension of a download that was not finished.
const UNFINISHED: [&str; 2] = ["part", "incomplete"];

/// Why the cache could not be read or changed.
#[derive(Debug, Error)]
pub enum CacheError {
    /// The model is not there.
    #[error("model `{id}` is not in the cache `{}`{}", cache.display(), match suggestion { Some(near) => format!("\n  hint: did you mean `{near}`?"), None => "\n  hint: `diagnose models list` shows what is there".to_owned() })]
    Absent {
        /// What was asked for.
        id: String,
        /// The cache.
        cache: PathBuf,
        /// The nearest name in it.
        suggestion: Option<String>,
    },
    /// The revision is not there.
    #[error(
        "model `{id}` has no revision `{revision}` in the cache\n  found: {found}\n  hint: give the whole commit, or a branch"
    )]
    NoRevision {
        /// The model.
        id: String,
        /// What was asked for.
        revision: String,
        /// What is there.
        found: String,
    },
    /// The model's folder is a link.
    #[error("`{}` is a link, and what it leads to is not removed\n  expected: a folder of the cache\n  hint: remove the link by hand", path.display())]
    Link {
        /// The link.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot use `{}`: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A model in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedModel {
    /// Its name on the hub.
    pub id: String,
    /// Its folder in the cache.
    pub folder: PathBuf,
    /// Bytes on the disk, each content counted once.
    pub bytes: u64,
    /// Its revisions, sorted by commit.
    pub revisions: Vec<CachedRevision>,
    /// Downloads that were not finished.
    pub unfinished: usize,
}

/// A revision of a model in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedRevision {
    /// Its commit.
    pub commit: String,
    /// The branches that lead to it, sorted.
    pub branches: Vec<String>,
    /// The folder to load it from.
    pub folder: PathBuf,
    /// Bytes of its files, those that it shares with other revisions among them.
    pub bytes: u64,
    /// What a model needs and it lacks; empty when it is whole.
    pub missing: Vec<String>,
}

impl CachedModel {
    /// The revision that a program loads where none is named: that of the branch `main`, or the only one.
    pub fn current(&self) -> Option<&CachedRevision> {
        let is_main = |revision: &&CachedRevision| revision.branches.iter().any(|branch| branch == "main");
        match &self.revisions[..] {
            [only] => Some(only),
            several => several.iter().find(is_main),
        }
    }

    /// Whether the current revision has everything that a model needs.
    pub fn is_whole(&self) -> bool {
        self.current().is_some_and(|revision| revision.missing.is_empty())
    }
}

/// Every model in `cache`, sorted by name; none where there is no such folder.
///
/// # Errors
/// [`CacheError::Io`].
pub fn list_models(cache: &Path) -> Result<Vec<CachedModel>, CacheError> {
    let mut models = Vec::new();
    for entry in entries(cache)? {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(id) = name.strip_prefix(PREFIX)
            && entry.path().is_dir()
        {
            models.push(read_model(&entry.path(), id.replacen(SEPARATOR, "/", 1))?);
        }
    }
    models.sort_by(|left, right| left.id.cmp(&right.id));
    Ok(models)
}

/// The model `id` in `cache`.
///
/// # Errors
/// It is not there, or the cache cannot be read.
pub fn locate_model(cache: &Path, id: &str) -> Result<CachedModel, CacheError> {
    let models = list_models(cache)?;
    let near = closest(id, models.iter().map(|model| model.id.as_str())).map(str::to_owned);
    let found = models.into_iter().find(|model| model.id == id);
    found.ok_or_else(|| CacheError::Absent {
        id: id.to_owned(),
        cache: cache.to_owned(),
        suggestion: near,
    })
}

fn read_model(folder: &Path, id: String) -> Result<CachedModel, CacheError> {
    let branches = read_branches(folder)?;
    let mut revisions = Vec::new();
    for entry in entries(&folder.join("snapshots"))? {
        if !entry.path().is_dir() {
            continue;
        }
        let commit = entry.file_name().to_string_lossy().into_owned();
        let files = files_within(&entry.path())?;
        revisions.push(CachedRevision {
            branches: branches
                .iter()
                .filter(|(_, known)| **known == commit)
                .map(|(branch, _)| branch.clone())
                .collect(),
            // A link is followed: the content counts, wherever it lies.
            bytes: files
                .iter()
                .map(|file| fs::metadata(file).map_or(0, |metadata| metadata.len()))
                .sum(),
            missing: missing_files(&entry.path()),
            folder: entry.path(),
            commit,
        });
    }
    revisions.sort_by(|left, right| left.commit.cmp(&right.commit));
    let is_unfinished = |path: &PathBuf| {
        path.extension()
            .is_some_and(|extension| UNFINISHED.iter().any(|known| extension == *known))
    };
    let blobs = files_within(&folder.join("blobs"))?;
    Ok(CachedModel {
        id,
        bytes: bytes_within(folder)?,
        folder: folder.to_owned(),
        revisions,
        unfinished: blobs.iter().filter(|path| is_unfinished(path)).count(),
    })
}

/// The commit of each branch; a branch's name may hold slashes.
fn read_branches(folder: &Path) -> Result<BTreeMap<String, String>, CacheError> {
    let refs = folder.join("refs");
    let mut branches = BTreeMap::new();
    for file in files_within(&refs)? {
        let commit = fs::read_to_string(&file).map_err(io_error(&file))?;
        let branch = file.strip_prefix(&refs).unwrap_or(&file);
        branches.insert(branch.to_string_lossy().into_owned(), commit.trim().to_owned());
    }
    Ok(branches)
}

/// What removing a model, or one of its revisions, takes away: nothing outside of the model's folder in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemovalPlan {
    /// Files, links and folders to remove, none of which is within another.
    pub paths: Vec<PathBuf>,
    /// Bytes that this frees.
    pub bytes: u64,
}

/// Plans to remove `model`, whole or one `revision` (a commit or a branch) with the contents that no other has.
///
/// Links are removed and never followed.
///
/// # Errors
/// The revision is not there, the model's folder is a link, or it cannot be read.
pub fn plan_removal(model: &CachedModel, revision: Option<&str>) -> Result<RemovalPlan, CacheError> {
    let is_link = |path: &Path| path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink());
    if is_link(&model.folder) {
        return Err(CacheError::Link {
            path: model.folder.clone(),
        });
    }
    let Some(revision) = revision else {
        return Ok(whole_plan(model));
    };
    let is_meant =
        |known: &&CachedRevision| known.commit == revision || known.branches.iter().any(|branch| branch == revision);
    let found = model.revisions.iter().find(is_meant);
    let found = found.ok_or_else(|| CacheError::NoRevision {
        id: model.id.clone(),
        revision: revision.to_owned(),
        found: commits(model),
    })?;
    if model.revisions.len() == 1 {
        return Ok(whole_plan(model));
    }
    let mut kept = BTreeSet::new();
    for other in model.revisions.iter().filter(|other| other.commit != found.commit) {
        kept.extend(blobs_of(model, &other.folder)?);
    }
    let blobs: BTreeSet<PathBuf> = blobs_of(model, &found.folder)?.difference(&kept).cloned().collect();
    let branches = found
        .branches
        .iter()
        .map(|branch| model.folder.join("refs").join(branch));
    let paths: Vec<PathBuf> = std::iter::once(found.folder.clone())
        .chain(branches)
        .chain(blobs)
        .collect();
    let mut bytes = 0;
    for path in &paths {
        bytes += bytes_within(path)?;
    }
    Ok(RemovalPlan { paths, bytes })
}

fn whole_plan(model: &CachedModel) -> RemovalPlan {
    let mut paths = vec![model.folder.clone()];
    // The hub's programs keep their locks beside the models.
    if let (Some(cache), Some(name)) = (model.folder.parent(), model.folder.file_name()) {
        let locks = cache.join(".locks").join(name);
        paths.extend(locks.is_dir().then_some(locks));
    }
    RemovalPlan {
        paths,
        bytes: model.bytes,
    }
}

fn commits(model: &CachedModel) -> String {
    let commits: Vec<&str> = model
        .revisions
        .iter()
        .map(|revision| revision.commit.as_str())
        .collect();
    if commits.is_empty() {
        "none".to_owned()
    } else {
        commits.join(", ")
    }
}

impl RemovalPlan {
    /// Carries it out.
    ///
    /// # Errors
    /// [`CacheError::Io`]; what was removed before stays removed.
    pub fn carry_out(&self) -> Result<(), CacheError> {
        for path in &self.paths {
            let metadata = path.symlink_metadata().map_err(io_error(path))?;
            // Neither follows a link, here or further down.
            if metadata.is_dir() {
                fs::remove_dir_all(path).map_err(io_error(path))?;
            } else {
                fs::remove_file(path).map_err(io_error(path))?;
            }
        }
        Ok(())
    }
}

/// The contents that the links of a snapshot lead to, as far as they are the model's own.
fn blobs_of(model: &CachedModel, snapshot: &Path) -> Result<BTreeSet<PathBuf>, CacheError> {
    let blobs = model.folder.join("blobs");
    let Ok(real_blobs) = blobs.canonicalize() else {
        return Ok(BTreeSet::new());
    };
    // Contents behind a link to another place belong to somebody else.
    if blobs.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink()) {
        return Ok(BTreeSet::new());
    }
    let mut found = BTreeSet::new();
    for file in files_within(snapshot)? {
        let is_link = file.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink());
        if let (true, Ok(content)) = (is_link, file.canonicalize())
            && let Ok(name) = content.strip_prefix(&real_blobs)
        {
            found.insert(blobs.join(name));
        }
    }
    Ok(found)
}

/// Bytes of all files within `path`, or of the file; links count nothing and are not followed.
fn bytes_within(path: &Path) -> Result<u64, CacheError> {
    let metadata = path.symlink_metadata().map_err(io_error(path))?;
    if metadata.is_file() {
        return Ok(metadata.len());
    }
    let mut bytes = 0;
    for file in files_within(path)? {
        let metadata = file.symlink_metadata().map_err(io_error(&file))?;
        bytes += if metadata.is_file() { metadata.len() } else { 0 };
    }
    Ok(bytes)
}

/// Every file and link within `folder`, at any depth, sorted; links to folders are not followed.
fn files_within(folder: &Path) -> Result<Vec<PathBuf>, CacheError> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in entries(&folder)? {
            let kind = entry.file_type().map_err(io_error(&entry.path()))?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The entries of a folder; none where it is absent.
fn entries(folder: &Path) -> Result<Vec<DirEntry>, CacheError> {
    let found = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(io_error(folder))?,
    };
    found.collect::<Result<_, _>>().map_err(io_error(folder))
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> CacheError {
    let path = path.to_owned();
    move |source| CacheError::Io { path, source }
}
