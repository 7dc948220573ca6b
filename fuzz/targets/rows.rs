//! Rows of training data.

use std::path::Path;

use mlx_diagnose::data::RecordFile;

use super::Verdict;

/// One object on each line.
pub(super) fn lines(bytes: &[u8]) -> Verdict {
    read("train.jsonl", bytes)
}

/// One array of objects.
pub(super) fn array(bytes: &[u8]) -> Verdict {
    read("train.json", bytes)
}

/// What is read and written again is read as the same.
fn read(name: &str, bytes: &[u8]) -> Verdict {
    let read = RecordFile::parse(Path::new(name), bytes);
    if let Ok(file) = &read {
        assert_eq!(file.records.len(), file.lines.len());
        if file.is_for_mlx_lm() {
            let again = RecordFile::parse(Path::new("again.jsonl"), file.json_lines().as_bytes());
            let again = again.expect("what is written is read");
            assert_eq!((again.format, &again.records), (file.format, &file.records));
        }
    }
    Verdict::of(read)
}
