//! The answers to one request over HTTP, as they come.

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;

use super::api_error::ApiError;
use super::service::Phase;
use crate::engine::{AnswerToken, Event, FinishReason, Finished, Ticket, Usage};

/// Answers that are under way. Dropping them cancels what has not ended.
#[derive(Debug)]
pub(super) struct Answers {
    events: UnboundedReceiver<(usize, Event)>,
    tickets: Vec<Ticket>,
    open: usize,
    phase: watch::Receiver<Phase>,
}

/// What came of one of the answers.
#[derive(Debug)]
pub(super) enum Step {
    Token(AnswerToken),
    Finished(Finished),
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) text: String,
    pub(super) tokens: Vec<AnswerToken>,
    pub(super) reason: FinishReason,
    pub(super) usage: Usage,
}

impl Answers {
    pub(super) fn new(
        events: UnboundedReceiver<(usize, Event)>,
        tickets: Vec<Ticket>,
        phase: watch::Receiver<Phase>,
    ) -> Self {
        Self {
            events,
            open: tickets.len(),
            tickets,
            phase,
        }
    }

    /// How many answers there are, ended ones among them.
    pub(super) fn len(&self) -> usize {
        self.tickets.len()
    }

    /// What comes next, and of which answer; `None` when all have ended.
    ///
    /// # Errors
    /// An answer broke off.
    pub(super) async fn next(&mut self) -> Result<Option<(usize, Step)>, ApiError> {
        if self.open == 0 {
            return Ok(None);
        }
        let closed = self.phase.wait_for(|phase| *phase == Phase::Closed);
        let event = tokio::select! {
            biased;
            _ = closed => return Err(ApiError::stopping()),
            event = self.events.recv() => event,
        };
        match event {
            Some((index, Event::Token(token))) => Ok(Some((index, Step::Token(token)))),
            Some((_, Event::Finished(finished))) if finished.reason == FinishReason::Cancelled => {
                Err(ApiError::stopping())
            }
            Some((index, Event::Finished(finished))) => {
                self.open -= 1;
                Ok(Some((index, Step::Finished(finished))))
            }
            Some((_, Event::Failed(error))) => Err(error.into()),
            None => Err(ApiError::engine_stopped()),
        }
    }

    /// Waits for all of them.
    ///
    /// # Errors
    /// One of them broke off.
    pub(super) async fn complete(mut self) -> Result<Vec<Choice>, ApiError> {
        let mut parts: Vec<(String, Vec<AnswerToken>, Option<Finished>)> = Vec::new();
        parts.resize_with(self.len(), Default::default);
        while let Some((index, step)) = self.next().await? {
            let (text, tokens, end) = &mut parts[index];
            match step {
                Step::Token(token) => {
                    text.push_str(&token.text);
                    tokens.push(token);
                }
                Step::Finished(finished) => {
                    text.push_str(&finished.text);
                    *end = Some(finished);
                }
            }
        }
        let choices = parts.into_iter().map(|(text, tokens, end)| {
            let end = end.ok_or_else(|| ApiError::internal("an answer has no end"))?;
            Ok(Choice {
                text,
                tokens,
                reason: end.reason,
                usage: end.usage,
            })
        });
        choices.collect()
    }
}
