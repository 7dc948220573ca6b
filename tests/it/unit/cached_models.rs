//! The hub's cache: what is listed, where it lies, and that removing takes that away and nothing else.

#![cfg(unix)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use mlx_diagnose::model::{CacheError, CachedModel, list_models, locate_model, plan_removal};
use serde_json::Value;
use tempfile::TempDir;

const FIRST: &str = "1111111111111111111111111111111111111111";
const SECOND: &str = "2222222222222222222222222222222222222222";
const MODEL: [(&str, &str); 3] = [
    ("config.json", "{}"),
    ("tokenizer.json", "tokenizer"),
    ("model.safetensors", "weights of the first revision"),
];

/// Adds a revision as the hub's own programs do: contents once, links to them by name.
fn add(cache: &Path, folder: &str, commit: &str, branch: Option<&str>, files: &[(&str, &str)]) -> PathBuf {
    let repository = cache.join(folder);
    let snapshot = repository.join("snapshots").join(commit);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(repository.join("blobs")).unwrap();
    for (name, content) in files {
        let blob = format!(
            "{:x}",
            content.bytes().map(u64::from).sum::<u64>() * 1000 + content.len() as u64
        );
        fs::write(repository.join("blobs").join(&blob), content).unwrap();
        symlink(Path::new("../../blobs").join(&blob), snapshot.join(name)).unwrap();
    }
    if let Some(branch) = branch {
        let reference = repository.join("refs").join(branch);
        fs::create_dir_all(reference.parent().unwrap()).unwrap();
        fs::write(reference, commit).unwrap();
    }
    snapshot
}

/// A cache with one whole model of two files of its own name.
fn cache() -> (TempDir, PathBuf) {
    let cache = tempfile::tempdir().unwrap();
    let snapshot = add(cache.path(), "models--keeper--boats", FIRST, Some("main"), &MODEL);
    (cache, snapshot)
}

/// The same with a second revision, which has weights of its own.
fn two_revisions() -> (TempDir, PathBuf) {
    let (cache, first) = cache();
    let files = [MODEL[0], MODEL[1], ("model.safetensors", "other weights")];
    add(cache.path(), "models--keeper--boats", SECOND, Some("refs/pr/1"), &files);
    (cache, first)
}

fn boats(cache: &Path) -> CachedModel {
    locate_model(cache, "keeper/boats").unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_cache_that_is_not_there_holds_nothing() {
    assert_eq!(list_models(Path::new("/nowhere/at/all")).unwrap(), []);
}

#[test]
fn models_are_listed_by_name_and_nothing_else_is() {
    let (cache, _) = cache();
    add(cache.path(), "models--gpt2", FIRST, Some("main"), &MODEL);
    add(cache.path(), "models--a--b--c", FIRST, Some("main"), &MODEL);
    add(cache.path(), "datasets--keeper--logs", FIRST, Some("main"), &MODEL);
    fs::create_dir(cache.path().join(".locks")).unwrap();
    fs::write(cache.path().join("version.txt"), "1").unwrap();
    let ids: Vec<String> = list_models(cache.path())
        .unwrap()
        .into_iter()
        .map(|model| model.id)
        .collect();
    assert_eq!(ids, ["a/b--c", "gpt2", "keeper/boats"]);
}

#[test]
fn a_whole_model_has_its_size_and_its_folder() {
    let (cache, snapshot) = cache();
    let model = boats(cache.path());
    let contents: usize = MODEL.iter().map(|(_, content)| content.len()).sum();
    // The branch's file holds the commit.
    assert_eq!(model.bytes, (contents + FIRST.len()) as u64);
    assert!(model.is_whole());
    let revision = model.current().unwrap();
    assert_eq!(
        (&revision.commit[..], &revision.branches[..]),
        (FIRST, &["main".to_owned()][..])
    );
    assert_eq!((revision.bytes, &revision.folder), (contents as u64, &snapshot));
}

#[test]
fn what_two_revisions_share_counts_once() {
    let (cache, _) = two_revisions();
    let model = boats(cache.path());
    let contents: usize = MODEL.iter().map(|(_, content)| content.len()).sum();
    let commits = FIRST.len() + SECOND.len();
    assert_eq!(model.bytes, (contents + "other weights".len() + commits) as u64);
    assert_eq!(model.revisions.len(), 2);
    assert_eq!(model.revisions[1].branches, ["refs/pr/1"]);
    assert_eq!(model.current().unwrap().commit, FIRST);
}

#[test]
fn a_model_that_is_not_whole_says_what_it_lacks() {
    let (cache, snapshot) = cache();
    fs::remove_file(snapshot.join("model.safetensors")).unwrap();
    fs::write(cache.path().join("models--keeper--boats/blobs/abc.part"), "wei").unwrap();
    fs::write(cache.path().join("models--keeper--boats/blobs/def.incomplete"), "").unwrap();
    let model = boats(cache.path());
    assert!(!model.is_whole());
    assert_eq!(model.current().unwrap().missing, ["model.safetensors"]);
    assert_eq!(model.unfinished, 2);
}

#[test]
fn a_link_whose_content_is_gone_is_a_file_that_is_lacking() {
    let (cache, snapshot) = cache();
    fs::remove_file(snapshot.join("tokenizer.json").canonicalize().unwrap()).unwrap();
    assert_eq!(boats(cache.path()).current().unwrap().missing, ["tokenizer.json"]);
}

#[test]
fn a_name_with_a_slip_is_answered_with_the_nearest() {
    let (cache, _) = cache();
    let error = locate_model(cache.path(), "keeper/boast").unwrap_err();
    assert!(matches!(error, CacheError::Absent { .. }), "{error}");
    assert!(error.to_string().contains("did you mean `keeper/boats`?"), "{error}");
}

#[test]
fn a_name_that_leads_out_of_the_cache_is_not_there() {
    let (cache, _) = cache();
    for name in [
        "../boats",
        "/etc",
        "keeper/../keeper/boats",
        "",
        "models--keeper--boats",
    ] {
        let error = locate_model(cache.path(), name).unwrap_err();
        assert!(matches!(error, CacheError::Absent { .. }), "{name}: {error}");
    }
}

#[test]
fn removing_a_model_takes_its_folder_and_its_locks_and_nothing_else() {
    let (cache, _) = cache();
    add(cache.path(), "models--keeper--ships", FIRST, Some("main"), &MODEL);
    for name in ["models--keeper--boats", "models--keeper--ships"] {
        fs::create_dir_all(cache.path().join(".locks").join(name)).unwrap();
    }
    let plan = plan_removal(&boats(cache.path()), None).unwrap();
    assert_eq!(plan.bytes, boats(cache.path()).bytes);
    plan.carry_out().unwrap();
    assert_eq!(names(cache.path()), [".locks", "models--keeper--ships"]);
    assert_eq!(names(&cache.path().join(".locks")), ["models--keeper--ships"]);
}

#[test]
fn removing_a_revision_keeps_what_another_shares() {
    let (cache, first) = two_revisions();
    let plan = plan_removal(&boats(cache.path()), Some(SECOND)).unwrap();
    assert_eq!(plan.bytes, ("other weights".len() + SECOND.len()) as u64);
    plan.carry_out().unwrap();
    let model = boats(cache.path());
    assert_eq!(model.revisions.len(), 1);
    assert!(model.is_whole());
    assert_eq!(fs::read_to_string(first.join("model.safetensors")).unwrap(), MODEL[2].1);
    assert_eq!(names(&model.folder.join("blobs")).len(), 3);
}

#[test]
fn removing_the_only_revision_removes_the_model() {
    let (cache, _) = cache();
    plan_removal(&boats(cache.path()), Some("main"))
        .unwrap()
        .carry_out()
        .unwrap();
    assert!(names(cache.path()).is_empty());
}

#[test]
fn a_revision_that_is_not_there_is_refused_with_those_that_are() {
    let (cache, _) = two_revisions();
    let error = plan_removal(&boats(cache.path()), Some("1111"))
        .unwrap_err()
        .to_string();
    assert!(error.contains(FIRST) && error.contains(SECOND), "{error}");
}

#[test]
fn a_model_that_is_a_link_is_not_removed() {
    let (cache, _) = cache();
    let elsewhere = tempfile::tempdir().unwrap();
    add(elsewhere.path(), "models--keeper--ships", FIRST, Some("main"), &MODEL);
    symlink(
        elsewhere.path().join("models--keeper--ships"),
        cache.path().join("models--keeper--ships"),
    )
    .unwrap();
    let model = locate_model(cache.path(), "keeper/ships").unwrap();
    for revision in [None, Some(FIRST)] {
        let error = plan_removal(&model, revision).unwrap_err();
        assert!(matches!(error, CacheError::Link { .. }), "{error}");
    }
}

#[test]
fn links_within_a_model_are_removed_and_not_followed() {
    let (cache, first) = two_revisions();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("precious"), "kept").unwrap();
    symlink(elsewhere.path(), first.join("original")).unwrap();
    symlink(elsewhere.path().join("precious"), first.join("precious")).unwrap();
    let plan = plan_removal(&boats(cache.path()), Some(FIRST)).unwrap();
    assert!(plan.paths.iter().all(|path| path.starts_with(cache.path())), "{plan:?}");
    plan.carry_out().unwrap();
    plan_removal(&boats(cache.path()), None).unwrap().carry_out().unwrap();
    assert_eq!(fs::read_to_string(elsewhere.path().join("precious")).unwrap(), "kept");
}

#[test]
fn contents_behind_a_linked_folder_are_left_alone() {
    let (cache, _) = two_revisions();
    let folder = cache.path().join("models--keeper--boats");
    let elsewhere = tempfile::tempdir().unwrap();
    let blobs = elsewhere.path().join("blobs");
    fs::rename(folder.join("blobs"), &blobs).unwrap();
    symlink(&blobs, folder.join("blobs")).unwrap();
    plan_removal(&boats(cache.path()), Some(FIRST))
        .unwrap()
        .carry_out()
        .unwrap();
    plan_removal(&boats(cache.path()), None).unwrap().carry_out().unwrap();
    assert_eq!(names(&blobs).len(), 4);
    assert!(!folder.exists());
}

fn models(cache: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_diagnose"))
        .arg("models")
        .args(arguments)
        .env("HF_HUB_CACHE", cache)
        .env("HF_HUB_OFFLINE", "1")
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn the_command_lists_locates_and_removes_only_when_it_is_told_twice() {
    let (cache, snapshot) = two_revisions();
    add(cache.path(), "models--gpt2", FIRST, Some("main"), &MODEL[..2]);
    let listed = stdout(&models(cache.path(), &["list"]));
    assert!(
        listed.contains("keeper/boats      133 B  whole, 2 revisions\n"),
        "{listed}"
    );
    assert!(listed.contains("partial: no model.safetensors\n"), "{listed}");
    let json: Value = serde_json::from_str(&stdout(&models(cache.path(), &["list", "--json"]))).unwrap();
    assert_eq!(json[1]["id"], "keeper/boats");
    assert_eq!(json[0]["whole"], false);
    let located = stdout(&models(cache.path(), &["locate", "keeper/boats"]));
    assert_eq!(located, format!("{}\n", snapshot.display()));
    let lacking = models(cache.path(), &["locate", "gpt2"]);
    assert_eq!(lacking.status.code(), Some(2));
    let planned = stdout(&models(cache.path(), &["remove", "keeper/boats"]));
    assert!(
        planned.contains("would remove") && planned.contains("add --yes"),
        "{planned}"
    );
    assert!(snapshot.exists());
    let removed = stdout(&models(cache.path(), &["remove", "keeper/boats", "--yes"]));
    assert!(removed.contains("133 B freed"), "{removed}");
    assert_eq!(names(cache.path()), ["models--gpt2"]);
}
