//! What trainers write while they run.

use super::Verdict;
use super::scratch::file;

pub(super) fn read(bytes: &[u8]) -> Verdict {
    let (_folder, path) = file("training.log", bytes);
    Verdict::of(mlx_diagnose::training_log::read(&path))
}
