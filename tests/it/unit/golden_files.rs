//! What golden files say of themselves, and that none changes without a reason (`scripts/check-goldens`).

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use rstest::rstest;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::golden::root;
use crate::support::skip;
use crate::unit::architecture::sources;

/// Where golden numbers of models, with their random weights, lie.
const MODELS: [&str; 2] = ["transformers", "tiny"];

#[test]
fn golden_numbers_of_models_name_their_script_seed_and_versions() {
    let mut count = 0;
    for folder in MODELS {
        for path in sources(&root().join("fixtures/golden").join(folder)) {
            if path.file_name().is_none_or(|name| name != "golden.json") {
                continue;
            }
            let golden: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
            let made_by = &golden["made_by"];
            let peer = if folder == "tiny" {
                ["mlx", "mlx-lm"]
            } else {
                ["torch", "transformers"]
            };
            for name in ["script", "seed", "python", "numpy"].into_iter().chain(peer) {
                assert!(made_by[name].is_string(), "{}: no {name} in {made_by}", path.display());
            }
            let script = root().join(made_by["script"].as_str().unwrap());
            assert!(script.is_file(), "{}: no {}", path.display(), script.display());
            count += 1;
        }
    }
    assert!(count >= 18, "{count}");
}

/// Runs git in `folder`, apart from the settings of whoever runs the tests.
fn git(folder: &Path, arguments: &[&str]) {
    let output = Command::new("git")
        .current_dir(folder)
        .args([
            "-c",
            "user.name=a test",
            "-c",
            "user.email=test@localhost",
            "-c",
            "commit.gpgsign=false",
        ])
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

const GOLDEN: &str = "fixtures/golden/tiny/one/golden.json";
const SNAPSHOT: &str = "snapshots/help_one.snap";
const CHANGES: &str = "fixtures/golden/CHANGES.md";

/// A repository with one golden file and one snapshot; `None` where there is no git or python3.
fn repository() -> Option<TempDir> {
    for program in ["git", "python3"] {
        if Command::new(program).arg("--version").output().is_err() {
            skip::because(&format!("there is no {program}"));
            return None;
        }
    }
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in [
        (GOLDEN, "1.5\n"),
        (SNAPSHOT, "---\nsource: tests/it/help.rs\n---\ntext\n"),
        (CHANGES, "# Changes\n\n- `tiny/*`: a reason of earlier\n"),
    ] {
        write(folder.path(), path, text);
    }
    git(folder.path(), &["init", "--quiet", "--initial-branch=main"]);
    git(folder.path(), &["add", "."]);
    git(folder.path(), &["commit", "--quiet", "--message=first"]);
    Some(folder)
}

fn write(folder: &Path, path: &str, text: &str) {
    let path = folder.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn check(folder: &Path) -> Output {
    Command::new(root().join("scripts/check-goldens"))
        .arg("HEAD")
        .current_dir(folder)
        .output()
        .unwrap()
}

fn assert_exits(folder: &Path, code: i32, words: &str) {
    let output = check(folder);
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(words), "{said}");
}

#[rstest]
#[case::a_golden_file(GOLDEN, "1.6\n", "tiny/*/golden.json")]
#[case::a_snapshot(SNAPSHOT, "---\nsource: tests/it/help.rs\n---\nother\n", "snapshots/help_*.snap")]
fn a_change_needs_a_line_of_its_own_with_a_reason(#[case] path: &str, #[case] text: &str, #[case] pattern: &str) {
    let Some(folder) = repository() else { return };
    let folder = folder.path();
    assert_exits(folder, 0, "0 golden files and snapshots changed");
    write(folder, path, text);
    // The line that is there already is the reason of another change.
    assert_exits(folder, 1, &format!("`{path}` changed without a reason"));
    let changes = fs::read_to_string(folder.join(CHANGES)).unwrap();
    write(folder, CHANGES, &format!("{changes}- `{pattern}`:\n"));
    assert_exits(folder, 1, "without a reason");
    write(folder, CHANGES, &format!("{changes}- `{pattern}`: measured anew\n"));
    assert_exits(folder, 0, "1 golden files and snapshots changed");
}

#[test]
fn a_golden_file_that_is_gone_needs_a_reason_and_a_new_one_or_another_header_does_not() {
    let Some(folder) = repository() else { return };
    let folder = folder.path();
    write(
        folder,
        SNAPSHOT,
        "---\nsource: tests/it/command_line/help.rs\n---\ntext\n",
    );
    write(folder, "fixtures/golden/tiny/two/golden.json", "2.5\n");
    assert_exits(folder, 0, "0 golden files and snapshots changed");
    fs::remove_file(folder.join(GOLDEN)).unwrap();
    assert_exits(folder, 1, &format!("`{GOLDEN}` changed without a reason"));
}
