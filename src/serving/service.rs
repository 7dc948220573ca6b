//! What all requests share.

use std::iter::once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};

use super::answers::Answers;
use super::api_error::ApiError;
use super::response_counts::ResponseCounts;
use super::{ServedModel, ServerSettings};
use crate::engine::{Request, SubmitError};

/// Whether requests are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// They are.
    Open,
    /// They are not, and those that run may end.
    Draining,
    /// Those that run are cancelled.
    Closed,
}

/// A model that is served.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) model: ServedModel,
    pub(super) settings: ServerSettings,
    pub(super) responses: ResponseCounts,
    pub(super) phase: watch::Receiver<Phase>,
    /// Seconds since 1970 at its start.
    pub(super) started: u64,
    answers: AtomicU64,
}

impl Service {
    pub(super) fn new(model: ServedModel, settings: ServerSettings, phase: watch::Receiver<Phase>) -> Self {
        Self {
            model,
            settings,
            responses: ResponseCounts::default(),
            phase,
            started: now(),
            answers: AtomicU64::new(0),
        }
    }

    /// The base, then the adapters.
    pub(super) fn model_ids(&self) -> impl Iterator<Item = &str> + Clone {
        let adapters: Vec<&str> = self.model.engine.adapters().collect();
        once(self.settings.model_id.as_str()).chain(adapters)
    }

    /// The adapter behind a model's id, `None` for the base, which is meant where no model is named.
    pub(super) fn adapter_of(&self, id: Option<&str>) -> Result<Option<String>, ApiError> {
        match id {
            None => Ok(None),
            Some(id) if id == self.settings.model_id => Ok(None),
            Some(id) if self.model.engine.adapters().any(|name| name == id) => Ok(Some(id.to_owned())),
            Some(id) => Err(ApiError::unknown_model(id, self.model_ids())),
        }
    }

    /// Looks whether a request would be taken, before the work of reading it.
    ///
    /// # Errors
    /// The server is shutting down, or the queue is full.
    pub(super) fn check_room(&self) -> Result<(), ApiError> {
        self.check_open()?;
        let limits = self.model.limits;
        if self.model.engine.outstanding() >= limits.max_waiting.saturating_add(limits.max_sequences) {
            return Err(ApiError::busy(limits.max_waiting));
        }
        Ok(())
    }

    /// # Errors
    /// The server is shutting down.
    pub(super) fn check_open(&self) -> Result<(), ApiError> {
        if *self.phase.borrow() == Phase::Open {
            Ok(())
        } else {
            Err(ApiError::stopping())
        }
    }

    /// An id of an answer, which no other answer of this or another server gets.
    pub(super) fn answer_id(&self, prefix: &str) -> String {
        let count = self.answers.fetch_add(1, Ordering::Relaxed);
        format!("{prefix}-{:x}{:05x}{count:08x}", self.started, std::process::id())
    }

    /// How long the answer to a prompt may become: as long as was asked for, or what fits where nothing was. Prompt and
    /// length come with the names of their fields.
    ///
    /// # Errors
    /// It does not fit into the context, or is longer than this server's answers.
    pub(super) fn answer_length(
        &self,
        (prompt_name, prompt): (&str, usize),
        (name, asked): (&str, Option<usize>),
    ) -> Result<usize, ApiError> {
        let context = self.model.engine.request_limits().context;
        let room = context.min(self.model.limits.cache_tokens);
        let most = self.settings.max_tokens;
        if prompt >= room {
            return Err(ApiError::context_length(
                prompt_name,
                format!("the prompt has {prompt} tokens, and prompt and answer together have room for {room}"),
            ));
        }
        match asked {
            None => Ok(most.min(room - prompt)),
            Some(asked) if asked > room - prompt => Err(ApiError::context_length(
                name,
                format!(
                    "the prompt has {prompt} tokens and `{name}` asks for {asked} more, and together they have room for \
                     {room}"
                ),
            )),
            Some(asked) if asked > most => {
                let expected = format!("{most} or fewer, the most that this server gives");
                Err(ApiError::field(name, &asked.to_string(), &expected))
            }
            Some(asked) => Ok(asked),
        }
    }

    /// Asks for several answers at one time; where one cannot be taken, those before it are cancelled.
    pub(super) fn submit(&self, requests: Vec<Request>) -> Result<Answers, ApiError> {
        self.check_open()?;
        for request in &requests {
            let checked = request.validate(self.model.engine.request_limits());
            checked.map_err(SubmitError::Invalid)?;
        }
        // Bounded by the tokens that were asked for.
        let (sender, events) = mpsc::unbounded_channel();
        let mut tickets = Vec::with_capacity(requests.len());
        for (index, request) in requests.into_iter().enumerate() {
            let sender = sender.clone();
            let ticket = self.model.engine.submit_to(request, move |event| {
                // Whoever asked may be gone; the ticket cancels the rest.
                let _ = sender.send((index, event));
            })?;
            tickets.push(ticket);
        }
        Ok(Answers::new(events, tickets, self.phase.clone()))
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    // A clock before 1970 is wrong anyway.
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
