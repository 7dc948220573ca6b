use std::collections::VecDeque;
use std::rc::Rc;

use super::SequenceCache;

/// Caches of earlier prompts, from which later ones that begin alike continue.
///
/// What was not used for longest is dropped first when the caches take more than `limit` bytes.
#[derive(Debug)]
pub struct PrefixCache {
    limit: usize,
    /// The one that was not used for longest at the front.
    entries: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    /// The adapter that the keys and values were computed with.
    adapter: Option<Rc<str>>,
    tokens: Vec<u32>,
    cache: SequenceCache,
}

impl PrefixCache {
    /// A cache of `limit` bytes at most; 0 keeps nothing.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            entries: VecDeque::new(),
        }
    }

    /// Bytes that are kept.
    pub fn bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.cache.bytes()).sum()
    }

    /// A cache that holds the longest beginning of `prompt` there is, at most all but its last token, whose logits are
    /// needed; `None` when there is none.
    pub fn take(&mut self, prompt: &[u32], adapter: Option<&str>) -> Option<SequenceCache> {
        let (index, length) = self.best(prompt, adapter)?;
        let entry = self.entries.remove(index)?;
        let mut cache = entry.cache.clone();
        self.entries.push_back(entry);
        if !cache.go_back_to(length) {
            return None;
        }
        Some(cache)
    }

    fn best(&self, prompt: &[u32], adapter: Option<&str>) -> Option<(usize, usize)> {
        let most = prompt.len().saturating_sub(1);
        let usable = self.entries.iter().enumerate().filter_map(|(index, entry)| {
            if entry.adapter.as_deref() != adapter {
                return None;
            }
            let alike = entry.tokens.iter().zip(prompt).take_while(|(one, other)| one == other);
            let length = alike.count().min(most);
            let is_whole = length == entry.tokens.len();
            (length > 0 && (is_whole || entry.cache.can_go_back())).then_some((index, length))
        });
        usable.max_by_key(|(_, length)| *length)
    }

    /// Keeps `cache`, which holds `tokens`.
    pub fn keep(&mut self, tokens: &[u32], adapter: Option<Rc<str>>, cache: &SequenceCache) {
        let bytes = cache.bytes();
        if bytes > self.limit || tokens.is_empty() || tokens.len() != cache.length() {
            return;
        }
        // What the new one begins with is served by it from now on, where it can go back.
        self.entries.retain(|entry| {
            entry.adapter != adapter
                || !(tokens.starts_with(&entry.tokens) && (cache.can_go_back() || tokens.len() == entry.tokens.len()))
        });
        let mut held = self.bytes() + bytes;
        while held > self.limit {
            let Some(dropped) = self.entries.pop_front() else { break };
            held -= dropped.cache.bytes();
        }
        self.entries.push_back(Entry {
            adapter,
            tokens: tokens.to_vec(),
            cache: cache.clone(),
        });
    }
}
