//! Puts short rows into common rows of a fixed length.

use std::collections::BTreeSet;

/// The rows with the given lengths, dealt out to packs of at most `limit` tokens: the longest first, each to the
/// fullest pack that has room for it (best fit decreasing: Ding et al. 2024, "Fewer Truncations Improve Language
/// Modeling").
///
/// Every row is in exactly one pack. Packs are sorted by their first row, rows within a pack by their number. A row
/// longer than `limit` gets a pack of its own.
pub fn pack(lengths: &[usize], limit: usize) -> Vec<Vec<usize>> {
    let mut longest_first: Vec<usize> = (0..lengths.len()).collect();
    longest_first.sort_by_key(|&row| std::cmp::Reverse(lengths[row]));
    let mut packs: Vec<Vec<usize>> = Vec::new();
    let mut room: BTreeSet<(usize, usize)> = BTreeSet::new();
    for row in longest_first {
        let length = lengths[row];
        let fullest = room.range((length, 0)..).next().copied();
        let (free, pack) = fullest.unwrap_or_else(|| {
            packs.push(Vec::new());
            (limit.max(length), packs.len() - 1)
        });
        room.remove(&(free, pack));
        room.insert((free - length, pack));
        packs[pack].push(row);
    }
    for pack in &mut packs {
        pack.sort_unstable();
    }
    packs.sort_unstable();
    packs
}
