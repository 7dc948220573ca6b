//! What each process of another trainer recorded: four updates of Python mlx-lm 0.32.2 in two processes, and what is no such folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use approx::assert_relative_eq;
use mlx_diagnose::training_log::read_ranks;
use rstest::rstest;
use tempfile::TempDir;

use crate::support::golden::root;

/// Rounding of sums of thousands of products in f32, as a share of the gradients' length.
const TOLERANCE: f64 = 1e-5;

fn recorded() -> PathBuf {
    root().join("fixtures/ranks/mlx-lm")
}

/// A copy of the records, with the file of one rank changed.
fn changed(rank: usize, change: impl FnOnce(String) -> String) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..2 {
        fs::copy(file(&recorded(), number), file(folder.path(), number)).unwrap();
    }
    let path = file(folder.path(), rank);
    fs::write(&path, change(fs::read_to_string(&path).unwrap())).unwrap();
    folder
}

fn file(folder: &Path, rank: usize) -> PathBuf {
    folder.join(format!("rank-{rank}.jsonl"))
}

#[test]
fn mlx_lm_applies_the_mean_of_the_means_whatever_targets_they_are_over() {
    let ranks = read_ranks(&recorded()).unwrap();
    assert_eq!((ranks.size, ranks.updates.len()), (2, 4));
    assert_eq!(ranks.start[0], ranks.start[1]);
    for update in &ranks.updates {
        let [one, other] = update.ranks.as_slice() else {
            panic!("two ranks");
        };
        assert_ne!(one.supervised_tokens, other.supervised_tokens);
        assert_eq!(one.parameters, other.parameters);
        let applied = one.applied.unwrap();
        let mean = f64::midpoint(one.own.unwrap().projection, other.own.unwrap().projection);
        assert_relative_eq!(applied.projection, mean, epsilon = TOLERANCE * applied.norm);
    }
}

#[test]
fn records_alone_are_judged() {
    let output = Command::new(env!("CARGO_BIN_EXE_diagnose"))
        .arg("--log")
        .arg(recorded())
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    let report = String::from_utf8(output.stdout).unwrap();
    assert!(
        report.contains("findings: 1 root cause: rank-weighting-wrong"),
        "{report}"
    );
    assert!(report.contains("as rank 0"), "{report}");
}

#[test]
fn an_update_that_one_rank_did_not_end_is_left_out() {
    let folder = changed(1, |text| text[..text.len() - 20].to_owned());
    assert_eq!(read_ranks(folder.path()).unwrap().updates.len(), 3);
}

#[rstest]
#[case::of_another_rank(1, ("\"rank\": 1", "\"rank\": 0"), "rank 0 of 2 in the file of rank 1")]
#[case::of_another_run(1, ("\"size\": 2", "\"size\": 4"), "4 ranks, and 2 by the file of rank 0")]
#[case::no_beginning(0, ("{\"begin\": {\"rank\": 0, \"size\": 2, \"parameters\": ", ""), "line 1")]
#[case::an_update_twice(0, ("\"update\": 2,", "\"update\": 1,"), "line 3: update 1 a second time")]
#[case::a_field_absent(0, ("\"own_seconds\"", "\"my_seconds\""), "line 2: ")]
#[case::a_field_too_much(1, ("\"rows\"", "\"more\": 1, \"rows\""), "unknown field `more`")]
#[case::no_number(1, ("\"update\": 1,", "\"update\": -1,"), "line 2: ")]
#[case::beyond_counting(0, ("\"positions\": ", "\"positions\": 18446744073709551615"), "line 2: ")]
fn records_that_are_broken_are_refused_with_their_line(
    #[case] rank: usize,
    #[case] (from, to): (&str, &str),
    #[case] found: &str,
) {
    let folder = changed(rank, |text| text.replacen(from, to, 1));
    let error = read_ranks(folder.path()).unwrap_err().to_string();
    assert!(error.contains(found), "{error}");
    assert!(error.contains(&format!("rank-{rank}.jsonl")), "{error}");
}

#[test]
fn a_rank_without_a_file_is_named() {
    let folder = changed(0, |text| text);
    fs::remove_file(file(folder.path(), 1)).unwrap();
    let error = read_ranks(folder.path()).unwrap_err().to_string();
    assert!(
        error.starts_with("there is no `") && error.contains("rank-1.jsonl"),
        "{error}"
    );
    let many = changed(0, |text| text.replacen("\"size\": 2", "\"size\": 4503599627370496", 1));
    let error = read_ranks(many.path()).unwrap_err().to_string();
    assert!(error.contains("2 ranks, and 4503599627370496"), "{error}");
}
