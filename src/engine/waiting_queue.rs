//! Requests that wait to run: by priority, then first come, first served.

use super::{RequestId, SequenceDemand};

/// Nobody waits for ever: a request that `max_overtakings` later ones were taken before goes ahead of every priority.
/// All that came before it have been overtaken by the same ones, so those who are due are first come, first served too.
#[derive(Debug, Clone)]
pub struct WaitingQueue {
    /// In the order they came.
    waiting: Vec<Waiting>,
    max_overtakings: usize,
}

/// One request that waits.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// Which.
    pub id: RequestId,
    /// What it needs.
    pub demand: SequenceDemand,
    overtaken: usize,
}

impl WaitingQueue {
    /// An empty queue.
    pub fn new(max_overtakings: usize) -> Self {
        Self {
            waiting: Vec::new(),
            max_overtakings,
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether a request waits.
    pub fn contains(&self, id: RequestId) -> bool {
        self.waiting.iter().any(|waiting| waiting.id == id)
    }

    /// Adds a request behind those of its priority.
    pub fn push(&mut self, id: RequestId, demand: SequenceDemand) {
        self.waiting.push(Waiting {
            id,
            demand,
            overtaken: 0,
        });
    }

    /// Takes a request out; returns whether it waited.
    pub fn remove(&mut self, id: RequestId) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| waiting.id != id);
        self.waiting.len() < before
    }

    /// Takes the next request out if `fits` has room for it. One that does not fit holds back all behind it.
    pub fn take_next(&mut self, fits: impl Fn(&SequenceDemand) -> bool) -> Option<Waiting> {
        let is_due = |waiting: &Waiting| waiting.overtaken >= self.max_overtakings;
        // Of equals the last is the maximum, so the oldest has to come last.
        let (next, _) = self.waiting.iter().enumerate().rev().max_by_key(|(_, waiting)| {
            if is_due(waiting) {
                (true, 0)
            } else {
                (false, waiting.demand.priority)
            }
        })?;
        if !fits(&self.waiting[next].demand) {
            return None;
        }
        for earlier in &mut self.waiting[..next] {
            earlier.overtaken += 1;
        }
        Some(self.waiting.remove(next))
    }
}
