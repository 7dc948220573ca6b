//! What a process needs only while it runs goes with it, even where it ends at once.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rstest::rstest;

use super::fine_tuning_runs::PROGRAM;
use crate::support::temporary::left_in;

/// As shells report a process that Ctrl-C ended.
const EXIT_KILLED_BY_INTERRUPT: i32 = 130;
/// As a diagnosis ends that was interrupted and had time for its report.
const EXIT_INCOMPLETE: i32 = 2;
/// Times a process is interrupted; in nearly all it is ended before it has written its report.
const ROUNDS: usize = 10;

/// Interrupts a long diagnosis until it ends; returns its exit code.
fn interrupted(options: &[&str]) -> Option<i32> {
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
    let id = Pid::from_raw(process.id().cast_signed());
    loop {
        // A signal that is still to be delivered takes up another of its kind: it is sent until it was heard twice.
        kill(id, Signal::SIGINT).unwrap();
        std::thread::sleep(Duration::from_micros(100));
        if let Some(ended) = process.try_wait().unwrap() {
            assert_eq!(left_in(&temporary), [""; 0]);
            return ended.code();
        }
    }
}

#[rstest]
#[case::with_an_unpacked_model(&[])]
#[case::with_copies_for_a_fault(&["--inject", "scale-ignored"])]
fn a_diagnosis_that_is_ended_at_once_leaves_no_temporary_folder(#[case] options: &[&str]) {
    let codes: Vec<_> = (0..ROUNDS).map(|_| interrupted(options)).collect();
    let ended_at_once = Some(EXIT_KILLED_BY_INTERRUPT);
    assert!(codes.contains(&ended_at_once), "{codes:?}");
    assert!(
        codes
            .iter()
            .all(|&code| code == ended_at_once || code == Some(EXIT_INCOMPLETE)),
        "{codes:?}"
    );
}
