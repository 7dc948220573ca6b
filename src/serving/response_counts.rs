//! How requests were answered, by place and status.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Counts of answers.
#[derive(Debug, Default)]
pub(super) struct ResponseCounts {
    counts: Mutex<BTreeMap<(&'static str, u16), u64>>,
}

impl ResponseCounts {
    /// Counts one answer to a request at `place`.
    pub(super) fn add(&self, place: &'static str, status: u16) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((place, status)).or_default() += 1;
    }

    /// All counts, sorted.
    pub(super) fn all(&self) -> BTreeMap<(&'static str, u16), u64> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
