//! Plans of comparisons, and the folders that comparisons left.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mlx_diagnose::compare::analysis::analyse;
use mlx_diagnose::compare::report::{report_files, to_text};
use mlx_diagnose::compare::{ConfiguredPlan, Record, ResultsFolder};

use super::Verdict;
use super::scratch::{folder, write};

/// The YAML of `diagnose compare run`.
pub(super) fn plan(bytes: &[u8]) -> Verdict {
    let (_folder, path) = super::scratch::file("compare.yaml", bytes);
    Verdict::of(ConfiguredPlan::read(&path))
}

/// `test_results.json` and behind a zero byte, where there is one, the samples of memory of its first test; everything that
/// `diagnose compare analyze` makes of them.
pub(super) fn results(bytes: &[u8]) -> Verdict {
    let mut parts = bytes.splitn(2, |&byte| byte == 0);
    let record = parts.next().unwrap_or_default();
    let folder = folder(&[("test_results.json", record)]);
    if let Some(samples) = parts.next() {
        write_samples(folder.path(), record, samples);
    }
    let results = match ResultsFolder::at(folder.path()).read() {
        Ok(results) => results,
        refused @ Err(_) => return Verdict::of(refused),
    };
    let analysis = analyse(&results.record, &results.samples);
    let files = report_files(&results.record, &results.samples, &analysis);
    to_text(&results.record, &analysis, folder.path(), &files);
    // Without its samples a record must be borne too.
    let analysis = analyse(&results.record, &BTreeMap::new());
    report_files(&results.record, &BTreeMap::new(), &analysis);
    Verdict::Accepted
}

fn write_samples(folder: &Path, record: &[u8], samples: &[u8]) {
    let record: Option<Record> = serde_json::from_slice(record).ok();
    if let Some(test) = record.as_ref().and_then(|record| record.tests.first()) {
        let metrics = folder.join("metrics");
        fs::create_dir(&metrics).expect("a temporary folder");
        write(&metrics.join(format!("{}.memory.json", test.key.file_name())), samples);
    }
}
