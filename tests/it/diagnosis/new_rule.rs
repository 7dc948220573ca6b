//! `scripts/new-rule` on a copy of the files that it reads and writes.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use rstest::rstest;
use tempfile::TempDir;

use crate::support::golden::root;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

fn repository() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["src/rules", "fixtures/rules"] {
        copy(&root().join(name), &folder.path().join(name));
    }
    fs::create_dir(folder.path().join("scripts")).unwrap();
    for name in ["scripts/new-rule", "Cargo.toml"] {
        fs::copy(root().join(name), folder.path().join(name)).unwrap();
    }
    folder
}

fn new_rule(repository: &TempDir, arguments: [&str; 3]) -> Output {
    Command::new(repository.path().join("scripts/new-rule"))
        .args(arguments)
        .output()
        .unwrap()
}

fn read(repository: &TempDir, name: &str) -> String {
    fs::read_to_string(repository.path().join(name)).unwrap()
}

#[test]
fn a_new_rule_is_written_registered_and_given_its_code() {
    let repository = repository();
    let output = new_rule(&repository, ["heads-lost-in-fusing", "FUSE987", "state"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let source = read(&repository, "src/rules/heads_lost_in_fusing.rs");
    for part in [
        "name: \"heads-lost-in-fusing\"",
        "code: \"FUSE987\"",
        "phase: State",
        "REPLACE",
    ] {
        assert!(source.contains(part), "{part} is not in {source}");
    }
    let index = read(&repository, "src/rules/mod.rs");
    assert!(index.contains("\nmod heads_lost_in_fusing;\n"), "{index}");
    assert!(
        index.contains("    &heads_lost_in_fusing::HEADS_LOST_IN_FUSING,\n];\n"),
        "{index}"
    );
    assert!(read(&repository, "src/rules/codes.txt").contains("\nFUSE987 heads-lost-in-fusing\n"));
    let cases: serde_json::Value =
        serde_json::from_str(&read(&repository, "fixtures/rules/heads-lost-in-fusing.json")).unwrap();
    for kind in ["fires", "silent", "not_applicable"] {
        assert_eq!(cases[kind].as_array().map(Vec::len), Some(1), "{kind}");
    }
}

#[rstest]
#[case::a_name_that_is_taken(["never-stops", "EOS987", "generation"], "the name `never-stops` is taken")]
#[case::a_code_that_is_taken(["never-starts", "EOS003", "generation"], "was given to `never-stops`")]
#[case::capital_letters(["Never-Starts", "EOS987", "generation"], "not in kebab case")]
#[case::underscores(["never_starts", "EOS987", "generation"], "not in kebab case")]
#[case::a_hyphen_at_the_end(["never-", "EOS987", "generation"], "not in kebab case")]
#[case::an_unknown_family(["never-starts", "NEVER001", "generation"], "not one of the families")]
#[case::two_digits(["never-starts", "EOS98", "generation"], "three digits")]
#[case::an_unknown_phase(["never-starts", "EOS987", "afterwards"], "invalid choice")]
fn a_rule_that_cannot_be_is_refused_and_nothing_is_written(#[case] arguments: [&str; 3], #[case] message: &str) {
    let repository = repository();
    let output = new_rule(&repository, arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains(message), "{error}");
    for name in ["src/rules/mod.rs", "src/rules/codes.txt"] {
        assert_eq!(read(&repository, name), fs::read_to_string(root().join(name)).unwrap());
    }
    let written = |folder: &str| fs::read_dir(repository.path().join(folder)).unwrap().count();
    let there = |folder: &str| fs::read_dir(root().join(folder)).unwrap().count();
    for folder in ["src/rules", "fixtures/rules"] {
        assert_eq!(written(folder), there(folder), "{folder}");
    }
}

#[test]
fn the_code_of_a_rule_that_is_gone_is_refused() {
    let repository = repository();
    let path = repository.path().join("src/rules/codes.txt");
    let codes = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{codes}SAVE987 a-rule-that-is-gone\n")).unwrap();
    let output = new_rule(&repository, ["saved-twice", "SAVE987", "state"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("codes are never reused"), "{error}");
}
