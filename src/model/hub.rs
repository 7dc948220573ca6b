//! Finds the model that an argument names: a folder, a GGUF file, or a repository of the Hugging Face hub.
//!
//! A repository that the hub's cache holds whole is used from there without asking the network. Otherwise its files are
//! downloaded into the cache, those that are needed and no others.

use std::env;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::ModelSource;
use crate::suggestion::closest;

/// Where the hub is when `HF_ENDPOINT` does not say.
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Why no model was found for an argument.
#[derive(Debug, Error)]
pub enum ResolveError {
    /// There is no such path, and the argument is not a repository's name.
    #[error("there is no model at `{argument}`\n  expected: a model folder, a .gguf file, or a hub id like `owner/name`{}", suggest(suggestion.as_deref()))]
    NoSuchPath {
        /// The argument.
        argument: String,
        /// The nearest name beside it.
        suggestion: Option<String>,
    },
    /// The path is a file of another kind.
    #[error("`{}` is not a model\n  found: a file that does not end in .gguf\n  expected: a model folder, or a .gguf file{}", path.display(), suggest(folder_hint(path).as_deref()))]
    OtherFile {
        /// The file.
        path: PathBuf,
    },
    /// The program was built without the hub.
    #[error(
        "`{id}` is not a folder or file here, and this program was built without access to the hub\n  hint: build it with the feature `hub`, or download the model and give its folder"
    )]
    BuiltWithoutHub {
        /// The repository.
        id: String,
    },
    /// No folder is known for the hub's cache.
    #[error("there is no folder for the hub's cache\n  hint: set HF_HOME")]
    NoCache,
    /// The cache does not hold the model, and the network may not or cannot be used.
    #[error("model `{id}` is not in the cache and cannot be downloaded\n  found: {reason}; missing in `{}`: {}\n  hint: run `hf download {id}` where the hub can be reached, or give the model's folder", cache.display(), missing.join(", "))]
    Unreachable {
        /// The repository.
        id: String,
        /// The cache that was looked into.
        cache: PathBuf,
        /// What it lacks.
        missing: Vec<String>,
        /// Why it cannot be downloaded.
        reason: String,
    },
    /// The hub has no such repository, or hides it.
    #[error(
        "the hub has no repository `{id}`, or it is private\n  hint: check its spelling at {endpoint}/{id}; for a private one set HF_TOKEN"
    )]
    NoSuchRepository {
        /// The repository.
        id: String,
        /// The hub that was asked.
        endpoint: String,
    },
    /// The repository asks for its licence to be accepted.
    #[error(
        "the hub refuses to hand out `{file}` of `{id}`\n  hint: accept the model's terms at {endpoint}/{id}, and set HF_TOKEN to a token of that account"
    )]
    Gated {
        /// The repository.
        id: String,
        /// The file that was refused.
        file: String,
        /// The hub that was asked.
        endpoint: String,
    },
    /// The repository has no weights that are read.
    #[error(
        "repository `{id}` has no weights that are read\n  found: {found}\n  expected: model.safetensors, pytorch_model.bin or weights.npz, or shards with their index\n  hint: for a .gguf file, download it and give its path"
    )]
    NoWeights {
        /// The repository.
        id: String,
        /// Weight files of other formats, or `none`.
        found: String,
    },
    /// The download failed.
    #[error("model `{id}` could not be downloaded: {detail}\n  hint: try again; what is complete is kept")]
    Download {
        /// The repository.
        id: String,
        /// What failed.
        detail: String,
    },
}

fn suggest(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(String::new, |name| format!("\n  hint: did you mean `{name}`?"))
}

fn folder_hint(path: &Path) -> Option<String> {
    let folder = path.parent()?;
    folder
        .join("config.json")
        .exists()
        .then(|| folder.display().to_string())
}

/// How the hub is reached, as its own programs read it from the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubSettings {
    /// Folder with one subfolder per repository; `None` when the environment leads to none.
    pub cache: Option<PathBuf>,
    /// Address of the hub, without a final slash.
    pub endpoint: String,
    /// The account's token, when one is set; otherwise the cache's own is used.
    pub token: Option<String>,
    /// Whether the network must not be used.
    pub offline: bool,
}

impl HubSettings {
    /// Reads `HF_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE`.
    pub fn from_environment() -> Self {
        let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let home = set("HF_HOME").map(PathBuf::from).or_else(|| {
            let caches = set("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .or_else(|| env::home_dir().map(|home| home.join(".cache")));
            caches.map(|caches| caches.join("huggingface"))
        });
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        Self {
            cache: set("HF_HUB_CACHE")
                .map(PathBuf::from)
                .or_else(|| home.map(|home| home.join("hub"))),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: set("HF_TOKEN"),
            offline: set("HF_HUB_OFFLINE")
                .is_some_and(|value| matches!(value.to_lowercase().as_str(), "1" | "true" | "yes" | "on")),
        }
    }
}

impl ModelSource {
    /// The model that `argument` names. `report` is told the name of each file before it is downloaded.
    ///
    /// # Errors
    /// See [`ResolveError`].
    pub fn resolve(argument: &str, settings: &HubSettings, report: &mut dyn FnMut(&str)) -> Result<Self, ResolveError> {
        let path = Path::new(argument);
        if path.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        if path.exists() {
            return if is_gguf(path) {
                Ok(Self::Gguf(path.to_owned()))
            } else {
                Err(ResolveError::OtherFile { path: path.to_owned() })
            };
        }
        if is_repository_id(argument) {
            return repository::resolve(argument, settings, report).map(Self::Folder);
        }
        Err(ResolveError::NoSuchPath {
            argument: argument.to_owned(),
            suggestion: neighbour(path),
        })
    }
}

fn is_gguf(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// Whether the text has the form `owner/name` that the hub allows.
fn is_repository_id(text: &str) -> bool {
    let is_name = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_')
            && part
                .chars()
                .all(|character| character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.'))
    };
    match text.split_once('/') {
        Some((owner, name)) => is_name(owner) && is_name(name) && !name.to_lowercase().ends_with(".gguf"),
        None => false,
    }
}

/// The folder or GGUF file beside `path` whose name is nearest to its own.
fn neighbour(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let names: Vec<String> = parent
        .unwrap_or(Path::new("."))
        .read_dir()
        .ok()?
        .filter_map(Result::ok)
        .filter(|entry| entry.path().is_dir() || is_gguf(&entry.path()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    let near = closest(name, names.iter().map(String::as_str))?;
    Some(path.with_file_name(near).display().to_string())
}

#[cfg(not(feature = "hub"))]
mod repository {
    use super::{HubSettings, PathBuf, ResolveError};

    pub(super) fn resolve(
        id: &str,
        _settings: &HubSettings,
        _report: &mut dyn FnMut(&str),
    ) -> Result<PathBuf, ResolveError> {
        Err(ResolveError::BuiltWithoutHub { id: id.to_owned() })
    }
}

#[cfg(feature = "hub")]
mod repository {
    use std::fs;

    use hf_hub::api::RepoInfo;
    use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
    use hf_hub::{Cache, CacheRepo};

    use super::super::folder_files::{CONFIGURATION, TOKENIZER, missing_files};
    use super::super::weight_set::{WantedWeights, indexed_shards};
    use super::{HubSettings, Path, PathBuf, ResolveError};

    /// The files beside the weights that are read when they exist.
    const SMALL_FILES: [&str; 6] = [
        CONFIGURATION,
        TOKENIZER,
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "generation_config.json",
    ];

    /// Endings of weight files that are not read, for the message that says so.
    const OTHER_WEIGHTS: [&str; 8] = [
        ".bin",
        ".gguf",
        ".h5",
        ".msgpack",
        ".npz",
        ".onnx",
        ".pth",
        ".safetensors",
    ];

    /// Extension of a file that is not whole yet.
    const UNFINISHED: &str = "part";

    /// Attempts at a file whose connection breaks.
    const RETRIES: usize = 3;

    /// The folder of the cache that holds the repository whole, downloading what is missing.
    pub(super) fn resolve(
        id: &str,
        settings: &HubSettings,
        report: &mut dyn FnMut(&str),
    ) -> Result<PathBuf, ResolveError> {
        let cache_folder = settings.cache.clone().ok_or(ResolveError::NoCache)?;
        let cache = Cache::new(cache_folder.clone());
        let missing = match cached_folder(&cache, id) {
            Some(folder) => {
                let missing = missing_files(&folder);
                if missing.is_empty() {
                    return Ok(folder);
                }
                missing
            }
            None => vec!["everything".to_owned()],
        };
        let unreachable = |reason: String| ResolveError::Unreachable {
            id: id.to_owned(),
            cache: cache_folder.clone(),
            missing: missing.clone(),
            reason,
        };
        if settings.offline {
            return Err(unreachable("HF_HUB_OFFLINE is set".to_owned()));
        }
        let failed = |file: Option<&str>, error: &ApiError| match failure(error) {
            Failure::Status(401 | 404) if file.is_none() => ResolveError::NoSuchRepository {
                id: id.to_owned(),
                endpoint: settings.endpoint.clone(),
            },
            Failure::Status(401 | 403) => ResolveError::Gated {
                id: id.to_owned(),
                file: file.unwrap_or("the list of files").to_owned(),
                endpoint: settings.endpoint.clone(),
            },
            Failure::Unreachable(reason) => unreachable(reason),
            Failure::Status(_) | Failure::Other => ResolveError::Download {
                id: id.to_owned(),
                detail: match file {
                    Some(file) => format!("{file}: {error}"),
                    None => error.to_string(),
                },
            },
        };
        let mut builder = ApiBuilder::from_cache(cache.clone())
            .with_endpoint(settings.endpoint.clone())
            .with_progress(false)
            .with_retries(RETRIES);
        if settings.token.is_some() {
            builder = builder.with_token(settings.token.clone());
        }
        let api = builder.build().map_err(|error| failed(None, &error))?;
        let repository = api.model(id.to_owned());
        let info = repository.info().map_err(|error| failed(None, &error))?;

        let names: Vec<String> = info.siblings.iter().map(|file| file.rfilename.clone()).collect();

        let remote = Remote {
            api: &api,
            repository: &repository,
            cache: &cache.model(id.to_owned()),
        };

        // A repository that changes between two files leaves a folder with the later ones only; the second pass fetches
        // the earlier ones again.
        for _ in 0..2 {
            let fetch = |file: &str, report: &mut dyn FnMut(&str)| {
                remote.fetch(file, report).map_err(|error| failed(Some(file), &error))
            };
            let mut files = files_beside_weights(&info);
            match WantedWeights::among(&names) {
                None => return Err(no_weights(id, &names)),
                Some(WantedWeights::Files(weights)) => files.extend(weights),
                Some(WantedWeights::Index(index)) => {
                    let path = fetch(index, report)?;
                    let shards = indexed_shards(&path).map_err(|error| ResolveError::Download {
                        id: id.to_owned(),
                        detail: error.to_string(),
                    })?;
                    files.extend(shards);
                    files.push(index.to_owned());
                }
            }
            for file in &files {
                fetch(file, report)?;
            }
            let folder = cached_folder(&cache, id);
            if let Some(folder) = folder.filter(|folder| files.iter().all(|file| folder.join(file).exists())) {
                return Ok(folder);
            }
        }
        Err(ResolveError::Download {
            id: id.to_owned(),
            detail: "the repository changed while it was downloaded".to_owned(),
        })
    }

    fn cached_folder(cache: &Cache, id: &str) -> Option<PathBuf> {
        let configuration = cache.model(id.to_owned()).get(CONFIGURATION)?;
        configuration.parent().map(Path::to_owned)
    }

    /// One repository of a hub, and the cache that its files go to.
    struct Remote<'run> {
        api: &'run Api,
        repository: &'run ApiRepo,
        cache: &'run CacheRepo,
    }

    impl Remote<'_> {
        /// The file in the cache, downloaded where it is absent.
        ///
        /// The hub's client goes on with what an earlier download left, but takes a broken connection for one that
        /// never began, and then adds the whole file to its part; so the length is compared in the end.
        fn fetch(&self, file: &str, report: &mut dyn FnMut(&str)) -> Result<PathBuf, ApiError> {
            if let Some(path) = self.cache.get(file) {
                return Ok(path);
            }
            report(file);
            let metadata = self.api.metadata(&self.repository.url(file))?;
            for name in [metadata.etag(), metadata.commit_hash()] {
                // Both become names of files in the cache; anything but a plain name could lead out of it.
                if !is_plain_name(name) {
                    return Err(broken(format!("the hub names its content `{name}`")));
                }
            }
            let (blob, size) = (self.cache.blob_path(metadata.etag()), metadata.size() as u64);
            let unfinished = blob.with_extension(UNFINISHED);
            if length(&unfinished).is_some_and(|found| found >= size) {
                fs::remove_file(&unfinished)?;
            }
            for _ in 0..2 {
                let path = self.repository.download(file)?;
                if length(&path) == Some(size) {
                    return Ok(path);
                }
                fs::remove_file(&path)?;
                // Absent where the cache holds no links.
                let _ = fs::remove_file(&blob);
            }
            Err(broken(format!("not the {size} bytes that the hub declares")))
        }
    }

    fn broken(found: String) -> ApiError {
        ApiError::IoError(std::io::Error::other(found))
    }

    fn is_plain_name(name: &str) -> bool {
        let is_plain = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_');
        !name.is_empty() && name.chars().all(is_plain)
    }

    fn length(path: &Path) -> Option<u64> {
        path.metadata().ok().map(|metadata| metadata.len())
    }

    fn has_file(info: &RepoInfo, name: &str) -> bool {
        info.siblings.iter().any(|file| file.rfilename == name)
    }

    fn files_beside_weights(info: &RepoInfo) -> Vec<String> {
        SMALL_FILES
            .into_iter()
            .filter(|name| has_file(info, name))
            .map(str::to_owned)
            .collect()
    }

    fn no_weights(id: &str, names: &[String]) -> ResolveError {
        let is_weights = |name: &&String| OTHER_WEIGHTS.iter().any(|ending| name.ends_with(ending));
        let other: Vec<&str> = names.iter().filter(is_weights).map(String::as_str).collect();
        ResolveError::NoWeights {
            id: id.to_owned(),
            found: if other.is_empty() {
                "none".to_owned()
            } else {
                other.join(", ")
            },
        }
    }

    enum Failure {
        Status(u16),
        Unreachable(String),
        Other,
    }

    fn failure(error: &ApiError) -> Failure {
        match error {
            ApiError::TooManyRetries(last) => failure(last),
            ApiError::RequestError(request) => match request.as_ref() {
                ureq::Error::StatusCode(status) => Failure::Status(*status),
                ureq::Error::Json(_) | ureq::Error::BodyExceedsLimit(_) => Failure::Other,
                transport => Failure::Unreachable(transport.to_string()),
            },
            _ => Failure::Other,
        }
    }
}
