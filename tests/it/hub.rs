//! Which model an argument names, with a hub that stands still: its cache on disk and a server on this machine.

use std::fs;
use std::path::Path;

use mlx_diagnose::model::{HubSettings, ModelSource, ResolveError};
use rstest::rstest;

type TestError = Box<dyn std::error::Error>;
type TestResult = Result<(), TestError>;

fn resolve(argument: &str, settings: &HubSettings) -> Result<ModelSource, ResolveError> {
    ModelSource::resolve(argument, settings, &mut |_| {})
}

fn message(result: Result<ModelSource, ResolveError>) -> String {
    match result {
        Ok(source) => panic!("resolved to {source:?}"),
        Err(error) => error.to_string(),
    }
}

fn offline(cache: &Path) -> HubSettings {
    HubSettings {
        cache: Some(cache.to_owned()),
        endpoint: "http://127.0.0.1:9".to_owned(),
        token: None,
        offline: true,
    }
}

#[test]
fn an_existing_folder_is_the_model() -> TestResult {
    let folder = tempfile::tempdir()?;
    let argument = folder.path().to_str().ok_or("no text")?;
    assert_eq!(
        resolve(argument, &offline(folder.path()))?,
        ModelSource::Folder(folder.path().to_owned())
    );
    Ok(())
}

#[rstest]
#[case("model.gguf")]
#[case("MODEL.GGUF")]
fn an_existing_gguf_file_is_the_model(#[case] name: &str) -> TestResult {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join(name);
    fs::write(&path, "GGUF")?;
    assert_eq!(
        resolve(path.to_str().ok_or("no text")?, &offline(folder.path()))?,
        ModelSource::Gguf(path)
    );
    Ok(())
}

#[test]
fn another_file_is_refused_with_its_folder_as_a_hint() -> TestResult {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.safetensors");
    fs::write(&path, "")?;
    let argument = path.to_str().ok_or("no text")?;
    let alone = message(resolve(argument, &offline(folder.path())));
    assert!(alone.contains("is not a model"), "{alone}");
    assert!(!alone.contains("did you mean"), "{alone}");
    fs::write(folder.path().join("config.json"), "{}")?;
    let in_model = message(resolve(argument, &offline(folder.path())));
    assert!(
        in_model.contains(&format!("did you mean `{}`?", folder.path().display())),
        "{in_model}"
    );
    Ok(())
}

#[test]
fn a_path_with_a_slip_is_answered_with_its_neighbour() -> TestResult {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("harbour.gguf"), "")?;
    let argument = folder.path().join("harbuor.gguf");
    let message = message(resolve(argument.to_str().ok_or("no text")?, &offline(folder.path())));
    assert!(message.contains("there is no model at"), "{message}");
    assert!(message.contains("harbour.gguf`?"), "{message}");
    Ok(())
}

#[rstest]
#[case("boats")]
#[case("a/b/c")]
#[case("../boats")]
#[case("keeper/..")]
#[case("keeper/boats.gguf")]
#[case("keeper/bo ats")]
#[case("/")]
#[case("")]
fn what_is_no_repository_id_never_asks_the_hub(#[case] argument: &str) -> TestResult {
    let cache = tempfile::tempdir()?;
    let refused = resolve(argument, &offline(cache.path()));
    // `/` is a folder.
    let is_folder = matches!(refused, Ok(ModelSource::Folder(_)));
    assert!(
        is_folder == (argument == "/") && (is_folder || matches!(refused, Err(ResolveError::NoSuchPath { .. }))),
        "{refused:?}"
    );
    Ok(())
}

#[cfg(not(feature = "hub"))]
#[test]
fn without_the_feature_a_repository_is_refused() {
    let message = message(resolve("keeper/boats", &offline(Path::new("/nowhere"))));
    assert!(message.contains("built without access to the hub"), "{message}");
}

#[cfg(feature = "hub")]
mod repository {
    use std::collections::BTreeMap;
    use std::fs;
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::path::{Path, PathBuf};
    use std::sync::{Arc, Mutex};
    use std::thread;

    use mlx_diagnose::model::{HubSettings, ModelSource};
    use rstest::rstest;
    use serde_json::json;

    use super::{TestError, TestResult, message, offline, resolve};

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    /// Puts files into a cache as the hub's own programs lay them out.
    fn fill_cache(cache: &Path, files: &[(&str, &str)]) -> Result<PathBuf, TestError> {
        let repository = cache.join("models--keeper--boats");
        let snapshot = repository.join("snapshots").join(COMMIT);
        fs::create_dir_all(&snapshot)?;
        fs::create_dir_all(repository.join("refs"))?;
        fs::write(repository.join("refs/main"), COMMIT)?;
        for (name, content) in files {
            fs::write(snapshot.join(name), content)?;
        }
        Ok(snapshot)
    }

    #[test]
    fn a_repository_that_is_cached_whole_needs_no_network() -> TestResult {
        let cache = tempfile::tempdir()?;
        let snapshot = fill_cache(
            cache.path(),
            &[
                ("config.json", "{}"),
                ("tokenizer.json", "{}"),
                ("model.safetensors", ""),
            ],
        )?;
        assert_eq!(
            resolve("keeper/boats", &offline(cache.path()))?,
            ModelSource::Folder(snapshot)
        );
        Ok(())
    }

    #[rstest]
    #[case::nothing(&[], "everything")]
    #[case::no_weights(&[("config.json", "{}"), ("tokenizer.json", "{}")], "model.safetensors")]
    #[case::no_tokenizer(&[("config.json", "{}"), ("model.safetensors", "")], "tokenizer.json")]
    #[case::no_second_part(
    &[
        ("config.json", "{}"),
        ("tokenizer.json", "{}"),
        ("model-00001-of-00002.safetensors", ""),
        ("model.safetensors.index.json", r#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#),
    ],
    "model-00002-of-00002.safetensors"
)]
    fn what_the_cache_lacks_is_named_when_the_network_may_not_be_used(
        #[case] files: &[(&str, &str)],
        #[case] missing: &str,
    ) -> TestResult {
        let cache = tempfile::tempdir()?;
        if !files.is_empty() {
            fill_cache(cache.path(), files)?;
        }
        let message = message(resolve("keeper/boats", &offline(cache.path())));
        assert!(message.contains("HF_HUB_OFFLINE is set"), "{message}");
        assert!(
            message.contains(&format!("missing in `{}`: {missing}\n", cache.path().display())),
            "{message}"
        );
        assert!(message.contains("hint: run `hf download keeper/boats`"), "{message}");
        Ok(())
    }

    #[test]
    fn a_hub_that_cannot_be_reached_is_an_error_that_says_so() -> TestResult {
        let cache = tempfile::tempdir()?;
        let closed = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let settings = HubSettings {
            endpoint: format!("http://{closed}"),
            offline: false,
            ..offline(cache.path())
        };
        let message = message(resolve("keeper/boats", &settings));
        assert!(
            message.contains("is not in the cache and cannot be downloaded"),
            "{message}"
        );
        Ok(())
    }

    #[test]
    fn without_a_home_there_is_no_cache() {
        let settings = HubSettings {
            cache: None,
            ..offline(Path::new("/nowhere"))
        };
        let message = message(resolve("keeper/boats", &settings));
        assert!(message.contains("hint: set HF_HOME"), "{message}");
    }

    /// A hub with one repository. It answers every request for a file with the file, or with the status set for it.
    struct Hub {
        endpoint: String,
        requests: Arc<Mutex<Vec<String>>>,
    }

    impl Hub {
        fn with(files: &[(&str, &str)], statuses: &[(&str, u16)]) -> Result<Self, TestError> {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let endpoint = format!("http://{}", listener.local_addr()?);
            let siblings: Vec<_> = files.iter().map(|(name, _)| json!({ "rfilename": name })).collect();
            let mut bodies: BTreeMap<String, String> = files
                .iter()
                .map(|(name, content)| (format!("/keeper/boats/resolve/main/{name}"), (*content).to_owned()))
                .collect();
            bodies.insert(
                "/api/models/keeper/boats/revision/main".to_owned(),
                json!({ "sha": COMMIT, "siblings": siblings }).to_string(),
            );
            let statuses: BTreeMap<String, u16> = statuses
                .iter()
                .map(|(path, status)| ((*path).to_owned(), *status))
                .collect();
            let requests = Arc::new(Mutex::new(Vec::new()));
            let seen = Arc::clone(&requests);
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let (bodies, statuses, seen) = (bodies.clone(), statuses.clone(), Arc::clone(&seen));
                    thread::spawn(move || answer(stream, &bodies, &statuses, &seen));
                }
            });
            Ok(Self { endpoint, requests })
        }

        fn settings(&self, cache: &Path) -> HubSettings {
            HubSettings {
                cache: Some(cache.to_owned()),
                endpoint: self.endpoint.clone(),
                token: None,
                offline: false,
            }
        }

        /// The files asked for, each once, sorted.
        fn files(&self) -> Vec<String> {
            let requests = self
                .requests
                .lock()
                .map(|requests| requests.clone())
                .unwrap_or_default();
            let mut files: Vec<String> = requests
                .iter()
                .filter_map(|path| path.strip_prefix("/keeper/boats/resolve/main/").map(str::to_owned))
                .collect();
            files.sort();
            files.dedup();
            files
        }
    }

    fn answer(
        stream: TcpStream,
        bodies: &BTreeMap<String, String>,
        statuses: &BTreeMap<String, u16>,
        seen: &Mutex<Vec<String>>,
    ) -> Option<()> {
        let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
        let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
        let mut range = None;
        for line in lines {
            let line = line.ok()?.to_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("range: bytes=") {
                range = value.split_once('-').map(|(from, to)| (from.to_owned(), to.to_owned()));
            }
        }
        seen.lock().ok()?.push(path.clone());
        let (status, body) = match (statuses.get(&path), bodies.get(&path)) {
            (Some(status), _) => (*status, "refused"),
            (None, None) => (404, "absent"),
            (None, Some(body)) => (200, body.as_str()),
        };
        let whole = body.len();
        let (status, body) = match range {
            Some((from, to)) if status == 200 => {
                let from: usize = from.parse().ok()?;
                let to = to.parse().map_or(whole, |to: usize| (to + 1).min(whole));
                (206, &body[from..to])
            }
            _ => (status, body),
        };
        let mut stream = stream;
        write!(
        stream,
        "HTTP/1.1 {status} X\r\ncontent-length: {}\r\ncontent-range: bytes 0-0/{whole}\r\netag: \"{:x}\"\r\nx-repo-commit: {COMMIT}\r\nconnection: close\r\n\r\n{body}",
        body.len(),
        path.len() * 1000 + whole,
    )
    .ok()
    }

    #[test]
    fn only_the_files_that_are_needed_are_downloaded() -> TestResult {
        let index =
            r#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
        let hub = Hub::with(
            &[
                ("README.md", "boats"),
                ("config.json", "{\"model_type\": \"llama\"}"),
                ("tokenizer.json", "{\"version\": \"1.0\"}"),
                ("generation_config.json", "{\"eos_token_id\": 2}"),
                ("model.safetensors.index.json", index),
                ("model-00001-of-00002.safetensors", "first"),
                ("model-00002-of-00002.safetensors", "second part"),
                ("consolidated.safetensors", "the same in another layout"),
                ("pytorch_model.bin", "the same again, longer"),
                ("original/params.json", "and again, longer still"),
            ],
            &[],
        )?;
        let cache = tempfile::tempdir()?;
        let mut reported = Vec::new();
        let source = ModelSource::resolve("keeper/boats", &hub.settings(cache.path()), &mut |file| {
            reported.push(file.to_owned());
        })?;
        let expected = [
            "config.json",
            "generation_config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json",
        ];
        assert_eq!(hub.files(), expected);
        reported.sort();
        assert_eq!(reported, expected);
        let ModelSource::Folder(folder) = source else {
            return Err("not a folder".into());
        };
        assert_eq!(
            fs::read_to_string(folder.join("model-00002-of-00002.safetensors"))?,
            "second part"
        );

        // The second time everything is there.
        assert_eq!(
            resolve("keeper/boats", &offline(cache.path()))?,
            ModelSource::Folder(folder)
        );
        Ok(())
    }

    #[test]
    fn what_is_cached_already_is_not_downloaded_again() -> TestResult {
        let files = [
            ("config.json", "{\"model_type\": \"llama\"}"),
            ("tokenizer.json", "{\"version\": \"1.0\"}"),
            ("model.safetensors", "weights"),
        ];
        let hub = Hub::with(&files, &[])?;
        let cache = tempfile::tempdir()?;
        fill_cache(cache.path(), &files[..2])?;
        resolve("keeper/boats", &hub.settings(cache.path()))?;
        assert_eq!(hub.files(), ["model.safetensors"]);
        Ok(())
    }

    #[rstest]
    #[case::absent(
        "/api/models/keeper/boats/revision/main",
        404,
        "the hub has no repository `keeper/boats`, or it is private"
    )]
    #[case::hidden(
        "/api/models/keeper/boats/revision/main",
        401,
        "the hub has no repository `keeper/boats`, or it is private"
    )]
    #[case::terms_not_accepted(
        "/keeper/boats/resolve/main/config.json",
        403,
        "the hub refuses to hand out `config.json` of `keeper/boats`"
    )]
    #[case::terms_without_token("/keeper/boats/resolve/main/config.json", 401, "accept the model's terms")]
    #[case::broken_server(
        "/keeper/boats/resolve/main/model.safetensors",
        500,
        "model `keeper/boats` could not be downloaded: model.safetensors"
    )]
    fn a_refusal_of_the_hub_says_what_to_do(#[case] path: &str, #[case] status: u16, #[case] part: &str) -> TestResult {
        let files = [
            ("config.json", "{\"model_type\": \"llama\"}"),
            ("tokenizer.json", "{\"version\": \"1.0\"}"),
            ("model.safetensors", "weights"),
        ];
        let hub = Hub::with(&files, &[(path, status)])?;
        let cache = tempfile::tempdir()?;
        let message = message(resolve("keeper/boats", &hub.settings(cache.path())));
        assert!(message.contains(part), "{message}");
        Ok(())
    }

    #[test]
    fn a_repository_without_safetensors_names_what_it_has() -> TestResult {
        let hub = Hub::with(
            &[("config.json", "{}"), ("pytorch_model.bin", "x"), ("boats.gguf", "y")],
            &[],
        )?;
        let cache = tempfile::tempdir()?;
        let message = message(resolve("keeper/boats", &hub.settings(cache.path())));
        assert!(message.contains("has no weights in safetensors format"), "{message}");
        assert!(message.contains("found: pytorch_model.bin, boats.gguf"), "{message}");
        Ok(())
    }
}
