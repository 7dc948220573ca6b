//! What each process of a training recorded.

use mlx_diagnose::diagnosis::diagnose_log;
use mlx_diagnose::report::{Report, to_html};

use super::Verdict;
use super::scratch::{folder, write};

/// Ends a file; the files of the ranks follow each other.
const END: u8 = 0;

/// What `diagnose --log FOLDER` does.
pub(super) fn judge(bytes: &[u8]) -> Verdict {
    let folder = folder(&[]);
    for (rank, file) in bytes.split(|&byte| byte == END).enumerate() {
        write(&folder.path().join(format!("rank-{rank}.jsonl")), file);
    }
    let evidence = match diagnose_log(folder.path()) {
        Ok(evidence) => evidence,
        refused => return Verdict::of(refused),
    };
    to_html(&Report::new(&evidence, Vec::new()));
    Verdict::Accepted
}
