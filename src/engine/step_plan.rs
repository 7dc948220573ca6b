//! What one step computes, and the steps computed lately.

use std::collections::VecDeque;

use super::RequestId;

/// A stretch of one prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefillChunk {
    /// Whose prompt.
    pub id: RequestId,
    /// The first position.
    pub start: usize,
    /// The position after the last one.
    pub end: usize,
    /// Whether the prompt ends here, so that the step gives the first token of the answer.
    pub is_last: bool,
}

/// One pass of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepPlan {
    /// Counts steps from 0.
    pub step: u64,
    /// Sequences that begin to run, in the order they were admitted.
    pub admitted: Vec<RequestId>,
    /// Sequences that get one more token, oldest first.
    pub decode: Vec<RequestId>,
    /// Prompts read, oldest first.
    pub prefill: Vec<PrefillChunk>,
}

impl StepPlan {
    /// Whether there is nothing to compute.
    pub fn is_idle(&self) -> bool {
        self.decode.is_empty() && self.prefill.is_empty()
    }

    /// Tokens that go through the model.
    pub fn tokens(&self) -> usize {
        let prompts: usize = self.prefill.iter().map(|chunk| chunk.end - chunk.start).sum();
        self.decode.len() + prompts
    }
}

/// The last steps, oldest first.
#[derive(Debug, Clone)]
pub struct Trace {
    plans: VecDeque<StepPlan>,
    capacity: usize,
}

impl Trace {
    /// A trace of at most `capacity` steps.
    pub fn new(capacity: usize) -> Self {
        Self {
            plans: VecDeque::new(),
            capacity,
        }
    }

    /// Adds a step; the oldest goes when the trace is full.
    pub fn record(&mut self, plan: StepPlan) {
        if self.plans.len() >= self.capacity {
            self.plans.pop_front();
        }
        if self.capacity > 0 {
            self.plans.push_back(plan);
        }
    }

    /// The steps, oldest first.
    pub fn plans(&self) -> impl ExactSizeIterator<Item = &StepPlan> {
        self.plans.iter()
    }
}
