//! Which sequences run, and what each step computes for them.
//!
//! ```text
//! submit -> waiting -> (admitted) prefilling -> decoding -> finish
//!              |                      |             |
//!              +----------------------+-------------+-----> cancel
//! ```
//!
//! A sequence is admitted when its whole prompt and its longest answer fit beside what is reserved already, so whatever
//! runs can finish and nothing is ever thrown out to make room. The next in line is never passed over by a smaller one
//! that would fit: a large request would wait for ever under a stream of small ones, and as it is, it waits at most for
//! those that run. The price is room that stays empty for that long.

use std::collections::BTreeMap;

use thiserror::Error;

use super::waiting_queue::WaitingQueue;
use super::{PrefillChunk, RequestId, SchedulerLimits, SchedulerLimitsError, StepPlan, Trace};

/// Steps that the trace remembers.
const TRACE_STEPS: usize = 1024;

/// What one sequence needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SequenceDemand {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the answer at most.
    pub max_tokens: usize,
    /// Tokens at the prompt's beginning whose keys and values are there already; fewer than the prompt has, since the
    /// last one's logits are needed.
    pub already_cached: usize,
    /// Higher goes first.
    pub priority: i32,
}

impl SequenceDemand {
    /// Tokens of keys and values that the sequence may come to hold. A reused beginning counts too: a sequence holds its
    /// own copy.
    pub fn cache_tokens(&self) -> usize {
        self.prompt_tokens.saturating_add(self.max_tokens)
    }
}

/// Why a request was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// It needs more room than there is when nothing else runs.
    #[error(
        "the request needs more memory than the engine has\n  found: {needed} tokens of prompt and answer\n  expected: {available} or fewer\n  hint: ask for fewer tokens or shorten the prompt"
    )]
    NeverFits {
        /// Tokens of prompt and longest answer.
        needed: usize,
        /// Tokens that fit.
        available: usize,
    },
    /// Too many wait already.
    #[error(
        "the engine is busy\n  found: {waiting} requests that wait\n  expected: fewer than {waiting}\n  hint: ask again later"
    )]
    QueueFull {
        /// Requests that wait.
        waiting: usize,
    },
    /// There is nothing to compute, or a beginning is reused that the prompt does not have.
    #[error(
        "the request has nothing to compute\n  found: {prompt_tokens} prompt tokens, {already_cached} of them cached, and {max_tokens} tokens to generate\n  expected: at least one prompt token that is not cached, and one to generate\n  hint: this is the caller's mistake"
    )]
    Nothing {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens of a reused beginning.
        already_cached: usize,
        /// Tokens of the answer at most.
        max_tokens: usize,
    },
    /// The number is in use.
    #[error(
        "{id} is there already\n  found: a second request of this number\n  expected: a number of its own\n  hint: this is the caller's mistake"
    )]
    Duplicate {
        /// The number.
        id: RequestId,
    },
}

/// Where a request was when it was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It had not begun.
    Waiting,
    /// It held keys and values.
    Running,
}

/// One sequence that runs.
#[derive(Debug, Clone, Copy)]
struct Running {
    demand: SequenceDemand,
    /// Prompt tokens whose keys and values are there after the last planned step.
    read: usize,
    /// Tokens of the answer after the last planned step.
    generated: usize,
}

/// Which sequences run, and what each step computes for them; whatever is admitted can finish.
#[derive(Debug, Clone)]
pub struct Scheduler {
    limits: SchedulerLimits,
    waiting: WaitingQueue,
    /// In the order of admission, by a number that only grows.
    running: BTreeMap<u64, (RequestId, Running)>,
    admissions: u64,
    reserved: usize,
    steps: u64,
    trace: Trace,
}

impl Scheduler {
    /// # Errors
    /// [`SchedulerLimitsError`] when nothing could run.
    pub fn new(limits: SchedulerLimits) -> Result<Self, SchedulerLimitsError> {
        limits.validate()?;
        Ok(Self {
            limits,
            waiting: WaitingQueue::new(limits.max_overtakings),
            running: BTreeMap::new(),
            admissions: 0,
            reserved: 0,
            steps: 0,
            trace: Trace::new(TRACE_STEPS),
        })
    }

    /// Lets a request wait for its turn.
    ///
    /// # Errors
    /// [`Refusal`]; the scheduler is then as before.
    pub fn submit(&mut self, id: RequestId, demand: SequenceDemand) -> Result<(), Refusal> {
        if demand.already_cached >= demand.prompt_tokens || demand.max_tokens == 0 {
            return Err(Refusal::Nothing {
                prompt_tokens: demand.prompt_tokens,
                already_cached: demand.already_cached,
                max_tokens: demand.max_tokens,
            });
        }
        if demand.cache_tokens() > self.limits.cache_tokens {
            return Err(Refusal::NeverFits {
                needed: demand.cache_tokens(),
                available: self.limits.cache_tokens,
            });
        }
        if self.waiting.contains(id) || self.place(id).is_some() {
            return Err(Refusal::Duplicate { id });
        }
        if self.waiting.len() >= self.limits.max_waiting {
            return Err(Refusal::QueueFull {
                waiting: self.waiting.len(),
            });
        }
        self.waiting.push(id, demand);
        Ok(())
    }

    /// Admits whom there is room for and plans the next step, which then counts as computed: every sequence that decodes
    /// gets a token, and the rest of the step reads prompts, oldest first. A sequence whose answer is complete is planned
    /// no more and keeps its room until [`Self::finish`].
    pub fn plan(&mut self) -> StepPlan {
        let admitted = self.admit();
        let mut left = self.limits.step_tokens;
        let mut decode = Vec::new();
        for (id, sequence) in self.running.values_mut() {
            if sequence.generated > 0 && sequence.generated < sequence.demand.max_tokens {
                sequence.generated += 1;
                left -= 1;
                decode.push(*id);
            }
        }
        let mut prefill = Vec::new();
        for (id, sequence) in self.running.values_mut() {
            let prompt = sequence.demand.prompt_tokens;
            let tokens = (prompt - sequence.read).min(self.limits.prefill_chunk).min(left);
            if tokens == 0 {
                continue;
            }
            let start = sequence.read;
            sequence.read += tokens;
            left -= tokens;
            let is_last = sequence.read == prompt;
            sequence.generated = usize::from(is_last);
            prefill.push(PrefillChunk {
                id: *id,
                start,
                end: sequence.read,
                is_last,
            });
        }
        let plan = StepPlan {
            step: self.steps,
            admitted,
            decode,
            prefill,
        };
        if !plan.is_idle() {
            self.steps += 1;
            self.trace.record(plan.clone());
        }
        plan
    }

    fn admit(&mut self) -> Vec<RequestId> {
        let mut admitted = Vec::new();
        while self.running.len() < self.limits.max_sequences {
            let room = self.limits.cache_tokens - self.reserved;
            let Some(next) = self.waiting.take_next(|demand| demand.cache_tokens() <= room) else {
                break;
            };
            let sequence = Running {
                demand: next.demand,
                read: next.demand.already_cached,
                generated: 0,
            };
            self.reserved += next.demand.cache_tokens();
            self.running.insert(self.admissions, (next.id, sequence));
            self.admissions += 1;
            admitted.push(next.id);
        }
        admitted
    }

    /// Takes a request out wherever it is; `None` when it has ended already or never was.
    pub fn cancel(&mut self, id: RequestId) -> Option<Stage> {
        if self.waiting.remove(id) {
            return Some(Stage::Waiting);
        }
        self.finish(id).then_some(Stage::Running)
    }

    /// Frees the room of a sequence that ran; returns whether it did run.
    pub fn finish(&mut self, id: RequestId) -> bool {
        let ended = self.place(id).and_then(|place| self.running.remove(&place));
        if let Some((_, sequence)) = ended {
            self.reserved -= sequence.demand.cache_tokens();
        }
        ended.is_some()
    }

    fn place(&self, id: RequestId) -> Option<u64> {
        let mut places = self.running.iter();
        places.find(|(_, (running, _))| *running == id).map(|(place, _)| *place)
    }

    /// How many requests wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many sequences run.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Tokens of keys and values reserved by those that run.
    pub fn reserved_tokens(&self) -> usize {
        self.reserved
    }

    /// What sequences may use.
    pub fn limits(&self) -> SchedulerLimits {
        self.limits
    }

    /// The steps planned lately; idle ones are none.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }
}
