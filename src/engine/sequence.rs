//! One request between its submission and its end.

use std::rc::Rc;
use std::time::Instant;

use super::{
    AnswerError, AnswerToken, Event, FinishReason, Finished, Request, RequestId, Sampled, Sampler, SequenceCache,
    TextStream, Usage,
};
use crate::model::Tokenizer;

/// Takes the events of a request.
pub(super) type EventSink = Box<dyn FnMut(Event) + Send>;

/// A request on its way to the engine's thread.
pub(super) struct Submitted {
    pub(super) id: RequestId,
    pub(super) request: Request,
    pub(super) sink: EventSink,
    pub(super) at: Instant,
}

/// A request that waits or runs.
pub(super) struct Sequence {
    pub(super) request: Request,
    pub(super) adapter: Option<Rc<str>>,
    /// Prompt and answer.
    pub(super) tokens: Vec<u32>,
    pub(super) cache: SequenceCache,
    pub(super) sampler: Sampler,
    reused: usize,
    text: TextStream,
    sink: EventSink,
    submitted: Instant,
    begun: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
}

/// When two tokens of an answer came.
pub(super) struct TokenTimes {
    pub(super) submitted: Instant,
    pub(super) before: Option<Instant>,
    pub(super) now: Instant,
}

impl Sequence {
    /// A sequence whose `cache` holds the beginning of its prompt.
    pub(super) fn new(
        submitted: Submitted,
        adapter: Option<Rc<str>>,
        cache: SequenceCache,
        text: TextStream,
        fallback_seed: u64,
    ) -> Self {
        let request = submitted.request;
        Self {
            tokens: request.prompt.clone(),
            sampler: Sampler::new(request.sampling.clone(), request.top_log_probabilities, fallback_seed),
            reused: cache.length(),
            adapter,
            cache,
            text,
            sink: submitted.sink,
            submitted: submitted.at,
            begun: None,
            first_token: None,
            last_token: None,
            request,
        }
    }

    pub(super) fn submitted(&self) -> Instant {
        self.submitted
    }

    /// Notes that the first step begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.begun = Some(now);
    }

    fn generated(&self) -> usize {
        self.tokens.len() - self.request.prompt.len()
    }

    /// Takes the next token; returns how the answer ends, if it does, and when the tokens came.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub(super) fn take(
        &mut self,
        sampled: Sampled,
        tokenizer: &Tokenizer,
    ) -> Result<(Option<FinishReason>, TokenTimes), AnswerError> {
        let now = Instant::now();
        let times = TokenTimes {
            submitted: self.submitted,
            before: self.last_token.replace(now),
            now,
        };
        self.first_token.get_or_insert(now);
        self.tokens.push(sampled.id);
        if self.request.stop_ids.contains(&sampled.id) {
            self.end(FinishReason::Stop, Some(sampled.id));
            return Ok((Some(FinishReason::Stop), times));
        }
        let decode = |ids: &[u32]| tokenizer.decode(ids, true);
        let text = self
            .text
            .push(sampled.id, decode)
            .map_err(|error| AnswerError::Failed {
                detail: error.to_string(),
            })?;
        (self.sink)(Event::Token(AnswerToken {
            id: sampled.id,
            text,
            log_probabilities: sampled.log_probabilities,
        }));
        let reason = if self.text.has_stopped() {
            Some(FinishReason::Stop)
        } else if self.generated() >= self.request.max_tokens {
            Some(FinishReason::Length)
        } else {
            None
        };
        if let Some(reason) = reason {
            self.end(reason, None);
        }
        Ok((reason, times))
    }

    /// Tells that the answer has ended.
    pub(super) fn end(&mut self, reason: FinishReason, stop_token: Option<u32>) {
        let had_stopped = self.text.has_stopped();
        let text = self.text.finish();
        // What was held back may complete a stop string.
        let is_cut = self.text.has_stopped() && !had_stopped && reason == FinishReason::Length;
        let reason = if is_cut { FinishReason::Stop } else { reason };
        let now = Instant::now();
        let since = |moment: Option<Instant>| moment.unwrap_or(now).duration_since(self.submitted);
        let usage = Usage {
            prompt_tokens: self.request.prompt.len(),
            reused_tokens: self.reused,
            generated_tokens: self.generated(),
            queued: since(self.begun),
            to_first_token: since(self.first_token),
            total: since(Some(now)),
        };
        (self.sink)(Event::Finished(Finished {
            reason,
            text,
            stop_token,
            usage,
        }));
    }

    /// Tells that the answer broke off.
    pub(super) fn fail(mut self, error: AnswerError) {
        (self.sink)(Event::Failed(error));
    }
}
