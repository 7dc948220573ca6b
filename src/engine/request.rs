//! What the engine is asked for, and what it refuses before anything runs.

use std::collections::BTreeSet;
use std::fmt;

use thiserror::Error;

use super::SamplingSettings;
use crate::model::{Problem, Problems};

/// Stop strings of one request; OpenAI's interface allows 4. Each is searched for after every token.
pub const MAX_STOP_STRINGS: usize = 16;

/// Bytes of one stop string. As much text may have to be held back until it is clear that it is none.
pub const MAX_STOP_STRING_BYTES: usize = 1024;

/// Most alternatives reported beside a token, as OpenAI's interface has it.
pub const MAX_TOP_LOG_PROBABILITIES: usize = 20;

/// One request among all that an engine ever gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

impl fmt::Display for RequestId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "request {}", self.0)
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// At a stop token or a stop string.
    Stop,
    /// After as many tokens as were asked for.
    Length,
    /// Because nobody wanted the rest.
    Cancelled,
}

/// A prompt and how it is to be answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Token ids.
    pub prompt: Vec<u32>,
    /// Tokens of the answer at most.
    pub max_tokens: usize,
    /// Tokens that end the answer. Ids that the model does not have are allowed and never met: files declare such ends.
    pub stop_ids: BTreeSet<u32>,
    /// Texts that end the answer and are no part of it.
    pub stop_strings: Vec<String>,
    /// How tokens are chosen.
    pub sampling: SamplingSettings,
    /// How many of the likeliest tokens are reported with each token; `None` reports no log-probabilities at all.
    pub top_log_probabilities: Option<usize>,
    /// The adapter to answer with; `None` asks the base.
    pub adapter: Option<String>,
    /// Higher goes first; of the same priority whoever came first.
    pub priority: i32,
}

/// What of a model limits a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// Tokens of prompt and answer together.
    pub context: usize,
    /// Token ids lie below it.
    pub vocabulary: usize,
}

/// A request that can never be answered.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the request cannot be answered\n{problems}\n  hint: change what is named and ask again")]
pub struct RequestError {
    /// Every fault of it; the location is the name of a field.
    pub problems: Problems,
}

impl Request {
    /// The likeliest tokens after `prompt` until there are `max_tokens`, whatever they are, from the base.
    pub fn greedy(prompt: Vec<u32>, max_tokens: usize) -> Self {
        Self {
            prompt,
            max_tokens,
            stop_ids: BTreeSet::new(),
            stop_strings: Vec::new(),
            sampling: SamplingSettings::default(),
            top_log_probabilities: None,
            adapter: None,
            priority: 0,
        }
    }

    /// Finds every fault of the request that is known before it runs.
    ///
    /// # Errors
    /// [`RequestError`] with all of them.
    pub fn validate(&self, limits: RequestLimits) -> Result<(), RequestError> {
        let mut problems = Problems::default();
        for problem in self
            .prompt_problems(limits)
            .into_iter()
            .chain(self.stop_problems())
            .chain(self.sampling.problems(limits.vocabulary))
        {
            problems.push(problem);
        }
        let most = MAX_TOP_LOG_PROBABILITIES.min(limits.vocabulary);
        if let Some(asked) = self.top_log_probabilities.filter(|asked| *asked > most) {
            let expected = format!("{most} or fewer");
            problems.push(Problem::new("top_log_probabilities", asked.to_string(), expected));
        }
        if self.adapter.as_deref() == Some("") {
            problems.push(Problem::new(
                "adapter",
                "an empty name",
                "the name of an adapter, or none",
            ));
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(RequestError { problems })
        }
    }

    fn prompt_problems(&self, limits: RequestLimits) -> Vec<Problem> {
        let mut problems = Vec::new();
        let vocabulary = limits.vocabulary;
        if self.prompt.is_empty() {
            problems.push(Problem::new("prompt", "no tokens", "at least one token"));
        }
        // One is enough: a prompt of another tokenizer has thousands.
        if let Some(position) = self.prompt.iter().position(|&id| id as usize >= vocabulary) {
            let found = format!("token id {}", self.prompt[position]);
            let expected = format!("an id below {vocabulary}");
            problems.push(Problem::new(format!("prompt[{position}]"), found, expected));
        }
        if self.max_tokens == 0 {
            problems.push(Problem::new("max_tokens", "0", "1 or more"));
        }
        let tokens = self.prompt.len().saturating_add(self.max_tokens);
        if tokens > limits.context {
            let found = format!("{} after a prompt of {} tokens", self.max_tokens, self.prompt.len());
            let expected = format!("{} or fewer together, the model's context", limits.context);
            problems.push(Problem::new("max_tokens", found, expected));
        }
        problems
    }

    fn stop_problems(&self) -> Vec<Problem> {
        if self.stop_strings.len() > MAX_STOP_STRINGS {
            let found = format!("{} texts", self.stop_strings.len());
            let expected = format!("{MAX_STOP_STRINGS} or fewer");
            return vec![Problem::new("stop_strings", found, expected)];
        }
        let lengths = self.stop_strings.iter().map(String::len).enumerate();
        lengths
            .filter(|(_, bytes)| !(1..=MAX_STOP_STRING_BYTES).contains(bytes))
            .map(|(index, bytes)| {
                let expected = format!("1 to {MAX_STOP_STRING_BYTES} bytes");
                Problem::new(format!("stop_strings[{index}]"), format!("{bytes} bytes"), expected)
            })
            .collect()
    }
}
