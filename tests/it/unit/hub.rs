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
    #[case::a_broken_index(&[("config.json", "{}"), ("tokenizer.json", "{}"), ("pytorch_model.bin.index.json", "{")], "a whole pytorch_model.bin.index.json")]
    #[case::no_second_part_of_torch(
    &[
        ("config.json", "{}"),
        ("tokenizer.json", "{}"),
        ("pytorch_model-00001-of-00002.bin", ""),
        ("pytorch_model.bin.index.json", r#"{"weight_map": {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}}"#),
    ],
    "pytorch_model-00002-of-00002.bin"
)]
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

    /// What a hub does: the files it has, what it refuses, and where its connections break.
    #[derive(Default)]
    struct Served {
        bodies: BTreeMap<String, String>,
        statuses: BTreeMap<String, u16>,
        /// By path, after how many bytes each of the next answers ends.
        breaks: Mutex<BTreeMap<String, Vec<usize>>>,
        /// The name of every content, where it is not what it should be.
        etag: Option<String>,
        requests: Mutex<Vec<Request>>,
    }

    /// A request as the hub heard it.
    #[derive(Debug, Clone)]
    struct Request {
        path: String,
        range: Option<String>,
        authorization: Option<String>,
    }

    /// A hub with one repository. It answers every request for a file with the file, or with the status set for it.
    struct Hub {
        endpoint: String,
        served: Arc<Served>,
    }

    fn path_of(file: &str) -> String {
        format!("/keeper/boats/resolve/main/{file}")
    }

    impl Hub {
        fn with(files: &[(&str, &str)], statuses: &[(&str, u16)]) -> Result<Self, TestError> {
            Self::start(files, statuses, &[], None)
        }

        /// A hub that names every content `etag`.
        fn named(files: &[(&str, &str)], etag: &str) -> Result<Self, TestError> {
            Self::start(files, &[], &[], Some(etag.to_owned()))
        }

        /// `breaks` says after how many bytes the answers for a file end, one after another.
        fn that_breaks(files: &[(&str, &str)], breaks: &[(&str, &[usize])]) -> Result<Self, TestError> {
            Self::start(files, &[], breaks, None)
        }

        fn start(
            files: &[(&str, &str)],
            statuses: &[(&str, u16)],
            breaks: &[(&str, &[usize])],
            etag: Option<String>,
        ) -> Result<Self, TestError> {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let endpoint = format!("http://{}", listener.local_addr()?);
            let siblings: Vec<_> = files.iter().map(|(name, _)| json!({ "rfilename": name })).collect();
            let mut bodies: BTreeMap<String, String> = files
                .iter()
                .map(|(name, content)| (path_of(name), (*content).to_owned()))
                .collect();
            bodies.insert(
                "/api/models/keeper/boats/revision/main".to_owned(),
                json!({ "sha": COMMIT, "siblings": siblings }).to_string(),
            );
            let statuses = statuses.iter().map(|(path, status)| ((*path).to_owned(), *status));
            let breaks = breaks.iter().map(|(file, after)| (path_of(file), after.to_vec()));
            let served = Arc::new(Served {
                bodies,
                statuses: statuses.collect(),
                breaks: Mutex::new(breaks.collect()),
                etag,
                requests: Mutex::default(),
            });
            let answers = Arc::clone(&served);
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let served = Arc::clone(&answers);
                    thread::spawn(move || answer(stream, &served));
                }
            });
            Ok(Self { endpoint, served })
        }

        fn settings(&self, cache: &Path) -> HubSettings {
            HubSettings {
                cache: Some(cache.to_owned()),
                endpoint: self.endpoint.clone(),
                token: None,
                offline: false,
            }
        }

        fn requests(&self) -> Vec<Request> {
            self.served.requests.lock().unwrap().clone()
        }

        /// The files asked for, each once, sorted.
        fn files(&self) -> Vec<String> {
            let mut files: Vec<String> = self
                .requests()
                .iter()
                .filter_map(|request| request.path.strip_prefix(&path_of("")).map(str::to_owned))
                .collect();
            files.sort();
            files.dedup();
            files
        }

        /// The ranges in which a file's content was asked for, in order.
        fn ranges(&self, file: &str) -> Vec<String> {
            let requests = self
                .requests()
                .into_iter()
                .filter(|request| request.path == path_of(file));
            requests
                .filter_map(|request| request.range)
                .filter(|range| range != "0-0")
                .collect()
        }
    }

    /// What the hub calls the content of a file, and the cache its blob.
    fn etag(path: &str, body: &str) -> String {
        format!("{:x}", path.len() * 1000 + body.len())
    }

    fn answer(mut stream: TcpStream, served: &Served) -> Option<()> {
        let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
        let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
        let (mut range, mut authorization) = (None, None);
        for line in lines {
            let line = line.ok()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ")?;
            match name.to_lowercase().as_str() {
                "range" => range = value.strip_prefix("bytes=").map(str::to_owned),
                "authorization" => authorization = Some(value.to_owned()),
                _ => {}
            }
        }
        served.requests.lock().ok()?.push(Request {
            path: path.clone(),
            range: range.clone(),
            authorization,
        });
        let (status, body) = match (served.statuses.get(&path), served.bodies.get(&path)) {
            (Some(status), _) => (*status, "refused"),
            (None, None) => (404, "absent"),
            (None, Some(body)) => (200, body.as_str()),
        };
        let whole = body.len();
        let (status, part) = match range.as_deref().and_then(|range| range.split_once('-')) {
            Some((from, to)) if status == 200 => {
                let from: usize = from.parse().ok()?;
                let to = to.parse().map_or(whole, |to: usize| (to + 1).min(whole));
                if from >= whole {
                    (416, "")
                } else {
                    (206, &body[from..to])
                }
            }
            _ => (status, body),
        };
        let is_content = range.as_deref().is_some_and(|range| range != "0-0");
        let ends_after = match served.breaks.lock().ok()?.get_mut(&path) {
            Some(breaks) if is_content && !breaks.is_empty() => breaks.remove(0).min(part.len()),
            _ => part.len(),
        };
        let etag = served.etag.clone().unwrap_or_else(|| etag(&path, body));
        write!(
            stream,
            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\ncontent-range: bytes 0-0/{whole}\r\netag: \"{etag}\"\r\nx-repo-commit: {COMMIT}\r\nconnection: close\r\n\r\n{}",
            part.len(),
            &part[..ends_after],
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
    fn a_repository_without_weights_that_are_read_names_what_it_has() -> TestResult {
        let hub = Hub::with(
            &[("config.json", "{}"), ("flax_model.msgpack", "x"), ("boats.gguf", "y")],
            &[],
        )?;
        let cache = tempfile::tempdir()?;
        let message = message(resolve("keeper/boats", &hub.settings(cache.path())));
        assert!(message.contains("has no weights that are read"), "{message}");
        assert!(message.contains("found: flax_model.msgpack, boats.gguf"), "{message}");
        Ok(())
    }

    const TORCH_INDEX: &str =
        r#"{"weight_map": {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}}"#;

    #[rstest]
    #[case::torch(&[("pytorch_model.bin", "weights")], &["pytorch_model.bin"])]
    #[case::torch_in_shards(
        &[("pytorch_model-00001-of-00002.bin", "first"), ("pytorch_model-00002-of-00002.bin", "second"), ("pytorch_model.bin.index.json", TORCH_INDEX)],
        &["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json"]
    )]
    #[case::npz(&[("weights.npz", "weights")], &["weights.npz"])]
    #[case::npz_in_shards(&[("weights.00.npz", "first"), ("weights.01.npz", "second")], &["weights.00.npz", "weights.01.npz"])]
    #[case::torch_beside_npz(&[("weights.npz", "weights"), ("pytorch_model.bin", "the same"), ("training_args.bin", "none")], &["pytorch_model.bin"])]
    fn a_repository_without_safetensors_is_downloaded_in_the_next_best_format(
        #[case] weights: &[(&str, &str)],
        #[case] fetched: &[&str],
    ) -> TestResult {
        let small = [
            ("config.json", "{\"model_type\": \"llama\"}"),
            ("tokenizer.json", "{\"version\": \"1.0\"}"),
        ];
        let hub = Hub::with(&[&small[..], weights].concat(), &[])?;
        let cache = tempfile::tempdir()?;
        let source = resolve("keeper/boats", &hub.settings(cache.path()))?;
        let mut expected = [&["config.json", "tokenizer.json"][..], fetched].concat();
        expected.sort_unstable();
        assert_eq!(hub.files(), expected);
        // Offline, the cache is whole; without its first weight file it is not.
        assert_eq!(resolve("keeper/boats", &offline(cache.path()))?, source);
        let weights = fetched
            .iter()
            .find(|name| !name.contains(".index."))
            .ok_or("no weights")?;
        fs::remove_file(source.path().join(weights))?;
        let message = message(resolve("keeper/boats", &offline(cache.path())));
        assert!(message.contains("HF_HUB_OFFLINE is set; missing in"), "{message}");
        Ok(())
    }

    #[rstest]
    #[case::upwards("model.safetensors.index.json", "../../../../stolen.safetensors")]
    #[case::from_the_root("model.safetensors.index.json", "/etc/passwd")]
    #[case::of_torch("pytorch_model.bin.index.json", "..")]
    #[case::backslashes("pytorch_model.bin.index.json", "..\\\\stolen.bin")]
    fn a_shard_that_leads_out_of_the_folder_is_never_asked_for(#[case] index: &str, #[case] shard: &str) -> TestResult {
        let content = format!(r#"{{"weight_map": {{"a": "{shard}"}}}}"#);
        let files = [
            ("config.json", "{\"model_type\": \"llama\"}"),
            ("tokenizer.json", "{\"version\": \"1.0\"}"),
            (index, &content),
        ];
        let hub = Hub::with(&files, &[])?;
        let cache = tempfile::tempdir()?;
        let message = message(resolve("keeper/boats", &hub.settings(cache.path())));
        assert!(message.contains("the shard name \""), "{message}");
        assert_eq!(hub.files(), [index]);
        Ok(())
    }

    /// A repository whose weights are `content`, and a hub whose answers for them end after so many bytes.
    fn hub_that_breaks(content: &str, breaks: &[usize]) -> Result<Hub, TestError> {
        Hub::that_breaks(
            &[
                ("config.json", "{\"model_type\": \"llama\"}"),
                ("tokenizer.json", "{\"version\": \"1.0\"}"),
                ("model.safetensors", content),
            ],
            &[("model.safetensors", breaks)],
        )
    }

    fn numbers() -> String {
        let numbers: Vec<String> = (0..4000).map(|number| format!("{number:04} ")).collect();
        numbers.concat()
    }

    #[test]
    fn a_download_that_breaks_goes_on_where_it_stopped() -> TestResult {
        let hub = hub_that_breaks(&numbers(), &[7000, 5000])?;
        let cache = tempfile::tempdir()?;
        let source = resolve("keeper/boats", &hub.settings(cache.path()))?;
        assert!(fs::read_to_string(source.path().join("model.safetensors"))? == numbers());
        assert_eq!(hub.ranges("model.safetensors"), ["0-", "7000-", "12000-"]);
        Ok(())
    }

    #[test]
    fn a_download_that_keeps_breaking_is_given_up_and_can_be_tried_again() -> TestResult {
        let hub = hub_that_breaks(&numbers(), &[100; 4])?;
        let cache = tempfile::tempdir()?;
        let message = message(resolve("keeper/boats", &hub.settings(cache.path())));
        assert!(
            message.contains("model `keeper/boats` could not be downloaded: model.safetensors"),
            "{message}"
        );
        assert!(message.contains("hint: try again"), "{message}");
        assert!(resolve("keeper/boats", &offline(cache.path())).is_err());
        let source = resolve("keeper/boats", &hub.settings(cache.path()))?;
        assert!(fs::read_to_string(source.path().join("model.safetensors"))? == numbers());
        Ok(())
    }

    /// Leaves in the cache what a killed download of the weights would.
    fn leave_unfinished(cache: &Path, left: &str, content: &str) -> TestResult {
        let blobs = cache.join("models--keeper--boats/blobs");
        fs::create_dir_all(&blobs)?;
        let name = etag(&path_of("model.safetensors"), content);
        Ok(fs::write(blobs.join(format!("{name}.part")), left)?)
    }

    #[rstest]
    #[case::half_of_it(3000, &["3000-"])]
    #[case::all_of_it(20000, &["0-"])]
    #[case::more_than_it(20001, &["0-"])]
    fn what_a_killed_download_left_is_gone_on_with(#[case] left: usize, #[case] ranges: &[&str]) -> TestResult {
        let hub = hub_that_breaks(&numbers(), &[])?;
        let cache = tempfile::tempdir()?;
        let unfinished: String = numbers().chars().chain("?".chars()).take(left).collect();
        leave_unfinished(cache.path(), &unfinished, &numbers())?;
        let source = resolve("keeper/boats", &hub.settings(cache.path()))?;
        assert!(fs::read_to_string(source.path().join("model.safetensors"))? == numbers());
        assert_eq!(hub.ranges("model.safetensors"), ranges);
        Ok(())
    }

    #[test]
    fn a_download_that_breaks_before_it_goes_on_is_whole_in_the_end() -> TestResult {
        let hub = hub_that_breaks(&numbers(), &[0])?;
        let cache = tempfile::tempdir()?;
        leave_unfinished(cache.path(), &numbers()[..3000], &numbers())?;
        let source = resolve("keeper/boats", &hub.settings(cache.path()))?;
        assert!(fs::read_to_string(source.path().join("model.safetensors"))? == numbers());
        Ok(())
    }

    #[test]
    fn a_name_of_content_that_leads_out_of_the_cache_is_refused() -> TestResult {
        let hub = Hub::named(
            &[
                ("config.json", "{}"),
                ("tokenizer.json", "{}"),
                ("model.safetensors", "weights"),
            ],
            "../../../stolen",
        )?;
        let parent = tempfile::tempdir()?;
        let cache = parent.path().join("a/cache");
        let message = message(resolve("keeper/boats", &hub.settings(&cache)));
        assert!(message.contains("`../../../stolen`"), "{message}");
        assert!(!parent.path().join("a/stolen").exists());
        Ok(())
    }

    #[test]
    fn a_file_that_the_hub_lists_and_does_not_have_is_named() -> TestResult {
        let files = [
            ("config.json", "{\"model_type\": \"llama\"}"),
            ("tokenizer.json", "{\"version\": \"1.0\"}"),
            ("model.safetensors", "weights"),
        ];
        let hub = Hub::with(&files, &[("/keeper/boats/resolve/main/tokenizer.json", 404)])?;
        let cache = tempfile::tempdir()?;
        let message = message(resolve("keeper/boats", &hub.settings(cache.path())));
        assert!(message.contains("could not be downloaded: tokenizer.json"), "{message}");
        assert!(message.contains("404"), "{message}");
        Ok(())
    }

    #[test]
    fn the_token_of_the_settings_is_sent_with_every_request() -> TestResult {
        let hub = hub_that_breaks("weights", &[])?;
        let cache = tempfile::tempdir()?;
        let settings = HubSettings {
            token: Some("hf_boats".to_owned()),
            ..hub.settings(cache.path())
        };
        resolve("keeper/boats", &settings)?;
        let requests = hub.requests();
        assert!(requests.len() >= 7, "{requests:?}");
        for request in requests {
            assert_eq!(
                request.authorization.as_deref(),
                Some("Bearer hf_boats"),
                "{}",
                request.path
            );
        }
        Ok(())
    }
}
