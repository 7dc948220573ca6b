//! Results of an earlier benchmark.

use mlx_diagnose::bench::{RESULTS, compare, read_results, to_svg, to_text};

use super::Verdict;
use super::scratch::folder;

/// What `diagnose bench --baseline` does with them, compared with themselves.
pub(super) fn read(bytes: &[u8]) -> Verdict {
    let folder = folder(&[(RESULTS, bytes)]);
    let results = match read_results(folder.path()) {
        Ok(results) => results,
        refused @ Err(_) => return Verdict::of(refused),
    };
    let comparison = compare(&results, &results);
    to_text(&results, comparison.as_ref().ok());
    to_svg(&results);
    Verdict::of(comparison)
}
