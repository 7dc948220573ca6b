//! What a fine-tuning is configured with, and the folder that an earlier one left.

use mlx_diagnose::fine_tuning::{Configuration, FineTuneSettings, MetricsFile, RunCheckpoint, RunFolder};

use super::Verdict;
use super::scratch::{file, folder};

/// The YAML of `diagnose train start`.
pub(super) fn configuration(bytes: &[u8]) -> Verdict {
    let (_folder, path) = file("train.yaml", bytes);
    let configuration = match Configuration::read(&path) {
        Ok(configuration) => configuration,
        refused @ Err(_) => return Verdict::of(refused),
    };
    let read = FineTuneSettings::read(&configuration);
    if let Ok((settings, _)) = &read {
        let written = Configuration::from_json(&settings.to_json(), "run.json");
        let (again, _) = FineTuneSettings::read(&written).expect("what is written is read");
        assert_eq!(again.to_json(), settings.to_json());
    }
    Verdict::of(read)
}

/// The record of a run, the state of a checkpoint and the lines of the figures: the bytes as each of them.
pub(super) fn run_folder(bytes: &[u8]) -> Verdict {
    let folder = folder(&[("run.json", bytes), ("state.json", bytes), ("metrics.jsonl", bytes)]);
    let checkpoint = RunCheckpoint::read(folder.path());
    let metrics = MetricsFile::resume(&folder.path().join("metrics.jsonl"), usize::MAX);
    let (_, figures) = metrics.expect("a file that can be written");
    if !figures.is_empty() {
        return Verdict::Accepted;
    }
    Verdict::of(RunFolder::open(folder.path())).or(Verdict::of(checkpoint))
}
