//! What a process needs only while it runs goes with it, even where it ends at once.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use rstest::rstest;

use super::fine_tuning_runs::PROGRAM;
use crate::support::interrupting::{EXIT_KILLED_BY_INTERRUPT, interrupted};
use crate::support::temporary::left_in;

/// As a diagnosis ends that was interrupted and had time for its report.
const EXIT_INCOMPLETE: i32 = 2;
/// Times a process is interrupted; in nearly all it is ended before it has written its report.
const ROUNDS: usize = 10;

/// Interrupts a long diagnosis until it ends; returns its exit code.
fn ended(options: &[&str]) -> Option<i32> {
    let folder = tempfile::tempdir().unwrap();
    let temporary = folder.path().join("temporary");
    std::fs::create_dir(&temporary).unwrap();
    let mut process = Command::new(PROGRAM)
        .args(["--steps", "100000"])
        .args(options)
        .current_dir(folder.path())
        .env("TMPDIR", &temporary)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(process.stderr.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().starts_with("phase 1 of 5")));
    assert!(!left_in(&temporary).is_empty(), "it has a temporary folder by then");
    let ended = interrupted(&mut process);
    assert_eq!(left_in(&temporary), [""; 0]);
    ended.code()
}

#[rstest]
#[case::with_an_unpacked_model(&[])]
#[case::with_copies_for_a_fault(&["--inject", "scale-ignored"])]
fn a_diagnosis_that_is_ended_at_once_leaves_no_temporary_folder(#[case] options: &[&str]) {
    let codes: Vec<_> = (0..ROUNDS).map(|_| ended(options)).collect();
    let ended_at_once = Some(EXIT_KILLED_BY_INTERRUPT);
    assert!(codes.contains(&ended_at_once), "{codes:?}");
    assert!(
        codes
            .iter()
            .all(|&code| code == ended_at_once || code == Some(EXIT_INCOMPLETE)),
        "{codes:?}"
    );
}
