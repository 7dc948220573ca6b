//! Completions and manual pages are made from the arguments themselves, and other programs can read them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::skip;
use clap::CommandFactory;
use mlx_diagnose::cli::Arguments;
use rstest::rstest;

fn diagnose(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_diagnose"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn completions(shell: &str) -> String {
    let output = diagnose(&["completions", shell]);
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// Whether a program is installed.
fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        skip::because(&format!("there is no {program}"));
    }
    found
}

#[rstest]
#[case("bash")]
#[case("zsh")]
#[case("fish")]
fn a_shell_accepts_its_completions(#[case] shell: &str) {
    if !is_installed(shell) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("completions");
    fs::write(&script, completions(shell)).unwrap();
    let output = Command::new(shell).arg("-n").arg(&script).output().unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[rstest]
#[case("diagnose ", "selftest")]
#[case("diagnose sel", "selftest")]
#[case("diagnose --lear", "--learning-rate")]
#[case("diagnose env --", "--json")]
#[case("diagnose bench --", "--baseline")]
#[case("diagnose completions ", "fish")]
#[case("diagnose --backend ", "metal")]
fn bash_completes_a_line(#[case] line: &str, #[case] expected: &str) {
    if !is_installed("bash") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("completions");
    fs::write(&script, completions("bash")).unwrap();
    // What bash does when the tab key is pressed behind the line.
    let press = r#"source "$1"; read -ra COMP_WORDS <<< "$2"; [[ $2 == *" " ]] && COMP_WORDS+=(""); COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
        _diagnose diagnose "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"; printf '%s\n' "${COMPREPLY[@]}""#;
    let output = Command::new("bash")
        .args(["--norc", "-c", press, "bash"])
        .arg(&script)
        .arg(line)
        .output()
        .unwrap();
    let offered = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        offered.lines().any(|word| word == expected),
        "`{expected}` is not in: {offered}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn an_unknown_shell_is_refused_with_those_that_are_known() {
    let output = diagnose(&["completions", "tcsh"]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("[possible values: bash, zsh, fish]"), "{error}");
}

/// Every option of a command, with the file of its page.
fn options(command: &clap::Command, found: &mut Vec<(String, String)>) {
    let page = format!("{}.1", command.get_display_name().unwrap_or(command.get_name()));
    for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
        if let Some(long) = argument.get_long() {
            found.push((page.clone(), format!("--{long}")));
        }
    }
    for subcommand in command.get_subcommands().filter(|one| one.get_name() != "help") {
        options(subcommand, found);
    }
}

/// The text of a page, without the marks of the typesetter.
fn plain(folder: &Path, page: &str) -> String {
    let source = fs::read_to_string(folder.join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
    source
        .replace("\\-", "-")
        .replace("\\fB", "")
        .replace("\\fR", "")
        .replace("\\fI", "")
}

#[test]
fn every_command_has_a_page_and_every_page_its_options() {
    let folder = tempfile::tempdir().unwrap();
    let output = diagnose(&["man", "--out", folder.path().to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut command = Arguments::command();
    command.build();
    let mut expected = Vec::new();
    options(&command, &mut expected);
    assert!(expected.len() > 60, "{expected:?}");
    for (page, option) in &expected {
        let text = plain(folder.path(), page);
        let words: BTreeSet<&str> = text.split(|one: char| !one.is_alphanumeric() && one != '-').collect();
        assert!(words.contains(option.as_str()), "`{option}` is not in {page}:\n{text}");
    }
    let pages: BTreeSet<String> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let with_options: BTreeSet<String> = expected.into_iter().map(|(page, _)| page).collect();
    assert!(pages.is_superset(&with_options), "{pages:?}");
    assert!(
        pages.contains("diagnose.1") && pages.contains("diagnose-convert-adapter.1"),
        "{pages:?}"
    );
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.starts_with(&format!("{} manual pages: ", pages.len())), "{said}");
}

#[test]
fn the_typesetter_has_nothing_to_complain_of() {
    if !is_installed("groff") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    diagnose(&["man", "--out", folder.path().to_str().unwrap()]);
    let output = Command::new("groff")
        .args(["-man", "-Tutf8", "-ww"])
        .arg(folder.path().join("diagnose.1"))
        .output()
        .unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let page = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(page.contains("Exit codes: 0 healthy"), "{page}");
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let output = diagnose(&["man", "--out", file.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("cannot write to the folder"), "{error}");
}
