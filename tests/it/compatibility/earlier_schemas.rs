//! Files that earlier versions of this program wrote (`fixtures/evidence/earlier`, one of each schema) are told apart from
//! broken ones: the version is named, and what to do.

use std::path::Path;
use std::process::Output;

use mlx_diagnose::evidence::EVIDENCE_SCHEMA_VERSION;
use rstest::rstest;
use serde_json::Value;

use crate::command_line::program::{diagnose, stderr, stdout};
use crate::support::golden::root;

fn earlier(version: u32) -> String {
    format!("fixtures/evidence/earlier/schema-{version}.json")
}

fn run(arguments: &[&str]) -> Output {
    diagnose().current_dir(root()).args(arguments).output().unwrap()
}

fn assert_told(output: &Output, version: u32) {
    let expected = format!(
        "error: `{}` is evidence of another version\n  found: schema version {version}\n  expected: \
         {EVIDENCE_SCHEMA_VERSION}\n  hint: use the program that wrote it, or run the diagnosis again\n",
        earlier(version)
    );
    assert_eq!(stderr(output), expected);
    assert_eq!((output.status.code(), stdout(output).as_str()), (Some(2), ""));
}

#[test]
fn there_is_a_file_of_every_earlier_schema() {
    for version in 1..EVIDENCE_SCHEMA_VERSION {
        let text = std::fs::read_to_string(root().join(earlier(version))).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["schema_version"], version);
    }
    assert!(!Path::new(&root().join(earlier(EVIDENCE_SCHEMA_VERSION))).exists());
}

#[rstest]
fn replaying_evidence_of_an_earlier_schema_names_its_version(#[values(1, 2, 3)] version: u32) {
    assert_told(&run(&["replay", &earlier(version)]), version);
}

#[rstest]
fn a_baseline_of_an_earlier_schema_is_refused_before_the_run(#[values(1, 2, 3)] version: u32) {
    assert_told(&run(&["--baseline", &earlier(version)]), version);
}

#[test]
fn evidence_of_this_schema_is_replayed() {
    let output = run(&["replay", "fixtures/evidence/healthy.json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}
