//! What the engine says about one request while it is answered.

use std::sync::mpsc::{Receiver, RecvError};
use std::time::Duration;

use thiserror::Error;

use super::{FinishReason, LogProbabilities, Ticket};

/// Something that happened to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// One more token.
    Token(AnswerToken),
    /// The answer has ended; nothing comes after it.
    Finished(Finished),
    /// The request could not be answered to its end; nothing comes after it.
    Failed(AnswerError),
}

/// One token of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerToken {
    /// Its id.
    pub id: u32,
    /// Text that is certain now: whole characters, and no beginning of what may become a stop string. Empty where neither
    /// is known yet.
    pub text: String,
    /// Of the token and the likeliest ones, where they were asked for.
    pub log_probabilities: Option<LogProbabilities>,
}

/// How an answer ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// Why.
    pub reason: FinishReason,
    /// Text that was held back until the end.
    pub text: String,
    /// The token that ended it, which is no part of the answer.
    pub stop_token: Option<u32>,
    /// What it took.
    pub usage: Usage,
}

/// What an answer took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt whose keys and values were there already.
    pub reused_tokens: usize,
    /// Tokens that were generated, the one that ended the answer among them.
    pub generated_tokens: usize,
    /// From the request to its first step.
    pub queued: Duration,
    /// From the request to its first token.
    pub to_first_token: Duration,
    /// From the request to its end.
    pub total: Duration,
}

/// Why an answer broke off.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AnswerError {
    /// The model's numbers are broken.
    #[error("the model's logits are not finite after {tokens} tokens\n  hint: `diagnose --model MODEL` says why")]
    NotFinite {
        /// Tokens of prompt and answer before them.
        tokens: usize,
    },
    /// MLX or the tokenizer failed.
    #[error("the answer broke off\n  found: {detail}")]
    Failed {
        /// What it said.
        detail: String,
    },
    /// The engine has ended.
    #[error("the engine has stopped")]
    Stopped,
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq)]
pub struct CompleteAnswer {
    /// Its tokens, without the one that ended it.
    pub tokens: Vec<u32>,
    /// Its text.
    pub text: String,
    /// One for each token, where they were asked for.
    pub log_probabilities: Vec<LogProbabilities>,
    /// How it ended.
    pub finished: Finished,
}

/// The events of one request as they come. Dropping it cancels the request.
#[derive(Debug)]
pub struct Answer {
    pub(super) events: Receiver<Event>,
    pub(super) ticket: Ticket,
}

impl Answer {
    /// What cancels the request from elsewhere.
    pub fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// [`AnswerError`], after which there is none.
    pub fn next_event(&self) -> Result<Event, AnswerError> {
        match self.events.recv() {
            Ok(Event::Failed(error)) => Err(error),
            Ok(event) => Ok(event),
            Err(RecvError) => Err(AnswerError::Stopped),
        }
    }

    /// Waits for the whole answer, showing each event to `seen`.
    ///
    /// # Errors
    /// [`AnswerError`].
    pub fn complete_with(&self, mut seen: impl FnMut(&Event)) -> Result<CompleteAnswer, AnswerError> {
        let (mut tokens, mut text, mut log_probabilities) = (Vec::new(), String::new(), Vec::new());
        loop {
            let event = self.next_event()?;
            seen(&event);
            match event {
                Event::Token(token) => {
                    tokens.push(token.id);
                    text.push_str(&token.text);
                    log_probabilities.extend(token.log_probabilities);
                }
                Event::Failed(error) => return Err(error),
                Event::Finished(finished) => {
                    text.push_str(&finished.text);
                    return Ok(CompleteAnswer {
                        tokens,
                        text,
                        log_probabilities,
                        finished,
                    });
                }
            }
        }
    }

    /// Waits for the whole answer.
    ///
    /// # Errors
    /// [`AnswerError`].
    pub fn complete(self) -> Result<CompleteAnswer, AnswerError> {
        self.complete_with(|_| ())
    }
}
