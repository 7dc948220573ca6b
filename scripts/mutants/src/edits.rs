//! Insertions into a source text that nest as the syntax does.

use std::cmp::Reverse;
use std::ops::Range;

/// Insertions that are applied together; nothing that was written is taken away.
#[derive(Default)]
pub struct Edits {
    wraps: Vec<Wrap>,
}

struct Wrap {
    region: Range<usize>,
    before: String,
    after: String,
}

impl Edits {
    /// Puts `before` and `after` around a region in bytes. Regions nest or are disjoint; of two wraps around the same
    /// region the later one is the inner one.
    pub fn wrap(&mut self, region: Range<usize>, before: String, after: String) {
        self.wraps.push(Wrap { region, before, after });
    }

    /// The text with all insertions.
    pub fn apply(&self, source: &str) -> String {
        // What ends at a place stands before what starts there; outer wraps open first and close last.
        let mut insertions: Vec<((usize, u8, Reverse<usize>, usize), &str)> = Vec::new();
        for (number, wrap) in self.wraps.iter().enumerate() {
            let Range { start, end } = wrap.region;
            insertions.push(((start, 1, Reverse(end), number), &wrap.before));
            insertions.push(((end, 0, Reverse(start), usize::MAX - number), &wrap.after));
        }
        insertions.sort();
        let mut text = String::with_capacity(source.len() * 2);
        let mut copied = 0;
        for ((place, ..), inserted) in insertions {
            text.push_str(&source[copied..place]);
            text.push_str(inserted);
            copied = place;
        }
        text.push_str(&source[copied..]);
        text
    }
}
