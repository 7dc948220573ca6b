//! The engine's handle: requests in, answers out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use mlx_rs::error::Exception;
use thiserror::Error;

use super::models::Models;
use super::sequence::Submitted;
use super::worker::{Command, Worker};
use super::{
    Answer, CachePrecision, EngineStatistics, Event, Refusal, Request, RequestError, RequestId, RequestLimits,
    Scheduler, SchedulerLimits, SchedulerLimitsError, StepPlan,
};
use crate::model::{CausalModel, Tokenizer};
use crate::suggestion::closest;

/// What an engine answers with.
#[derive(Debug)]
pub struct EngineModel {
    /// The model without an adapter.
    pub base: CausalModel,
    /// The base with each adapter, by the adapter's name. They share the base's arrays.
    pub adapters: BTreeMap<String, CausalModel>,
    /// Turns tokens into text.
    pub tokenizer: Arc<Tokenizer>,
    /// Tokens of prompt and answer together at most.
    pub context: usize,
}

/// How an engine works.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EngineSettings {
    /// What sequences may use.
    pub limits: SchedulerLimits,
    /// How keys and values are kept.
    pub cache_precision: CachePrecision,
    /// Bytes of keys and values that are kept for later prompts; 0 for none.
    pub prefix_bytes: usize,
    /// Streams of the CPU on which prompts are read at the same time; 1 where a GPU computes.
    pub lanes: usize,
    /// Where the draws of requests without a seed of their own begin.
    pub seed: u64,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            limits: SchedulerLimits {
                max_sequences: 8,
                step_tokens: 520,
                prefill_chunk: 512,
                cache_tokens: 32_768,
                max_waiting: 256,
                max_overtakings: 16,
            },
            cache_precision: CachePrecision::Whole,
            prefix_bytes: 0,
            lanes: 1,
            seed: 0,
        }
    }
}

/// Why there is no engine.
#[derive(Debug, Error)]
pub enum StartError<E> {
    /// Nothing could run within the limits.
    #[error(transparent)]
    Limits(#[from] SchedulerLimitsError),
    /// The model could not be loaded.
    #[error("{0}")]
    Load(E),
    /// MLX failed.
    #[error("the model and its adapters could not be compared: {0}")]
    Mlx(Exception),
    /// The system gives no thread.
    #[error("the engine's thread could not be started: {0}")]
    Thread(#[from] std::io::Error),
    /// The thread ended while it loaded the model.
    #[error("the engine's thread ended before the model was loaded")]
    Ended,
}

/// Why a request was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SubmitError {
    /// It can never be answered.
    #[error(transparent)]
    Invalid(#[from] RequestError),
    /// There is no such adapter.
    #[error("there is no adapter `{name}`\n  found: {found}{}", suggestion.as_ref().map_or_else(String::new, |name| format!("\n  hint: did you mean `{name}`?")))]
    UnknownAdapter {
        /// The name.
        name: String,
        /// The names there are.
        found: String,
        /// The nearest of them.
        suggestion: Option<String>,
    },
    /// There is no room for it, now or ever.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The engine has ended.
    #[error("the engine has stopped")]
    Stopped,
}

/// Cancels a request when it is dropped, unless the request has ended.
#[derive(Debug)]
pub struct Ticket {
    id: RequestId,
    commands: Sender<Command>,
}

impl Ticket {
    /// The request's number.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// Cancels the request; what was generated until then has been told, and [`Event::Finished`] follows.
    pub fn cancel(&self) {
        // An engine that has ended has cancelled everything.
        let _ = self.commands.send(Command::Cancel(self.id));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// A model that answers many requests at one time, on a thread of its own.
///
/// Clones ask the same engine. It ends when the last of them is dropped; what is not answered then is cancelled.
#[derive(Debug, Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

struct Shared {
    commands: Sender<Command>,
    thread: Option<JoinHandle<()>>,
    statistics: Arc<Mutex<EngineStatistics>>,
    outstanding: Arc<AtomicUsize>,
    next_id: AtomicU64,
    limits: SchedulerLimits,
    request_limits: RequestLimits,
    adapters: BTreeSet<String>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Engine")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // A thread that has ended already needs no word.
        let _ = self.commands.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic there has ended every answer already.
            let _ = thread.join();
        }
    }
}

/// What the thread tells of the model it loaded.
struct Loaded {
    request_limits: RequestLimits,
    adapters: BTreeSet<String>,
}

impl Engine {
    /// Starts a thread that loads the model and answers with it.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start<E: Send + 'static>(
        settings: EngineSettings,
        load: impl FnOnce() -> Result<EngineModel, E> + Send + 'static,
    ) -> Result<Self, StartError<E>> {
        // Whoever asks is refused before the request reaches the scheduler's queue.
        let scheduler = Scheduler::new(SchedulerLimits {
            max_waiting: settings
                .limits
                .max_waiting
                .saturating_add(settings.limits.max_sequences),
            ..settings.limits
        })?;
        let statistics = Arc::new(Mutex::new(EngineStatistics::default()));
        let (commands, received) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let of_worker = Arc::clone(&statistics);
        let thread = std::thread::Builder::new().name("engine".to_owned()).spawn(move || {
            let model = match load() {
                Ok(model) => model,
                Err(error) => {
                    let _ = tell.send(Err(StartError::Load(error)));
                    return;
                }
            };
            let loaded = Loaded {
                request_limits: RequestLimits {
                    context: model.context,
                    vocabulary: model.base.model.embed_tokens.vocabulary_size() as usize,
                },
                adapters: model.adapters.keys().cloned().collect(),
            };
            let models = match Models::new(model.base, model.adapters) {
                Ok(models) => models,
                Err(error) => {
                    let _ = tell.send(Err(StartError::Mlx(error)));
                    return;
                }
            };
            if tell.send(Ok(loaded)).is_ok() {
                Worker::new(models, model.tokenizer, settings, scheduler, received, of_worker).serve();
            }
        })?;
        let loaded = told.recv().map_err(|_| StartError::Ended)??;
        Ok(Self {
            shared: Arc::new(Shared {
                commands,
                thread: Some(thread),
                statistics,
                outstanding: Arc::default(),
                next_id: AtomicU64::new(0),
                limits: settings.limits,
                request_limits: loaded.request_limits,
                adapters: loaded.adapters,
            }),
        })
    }

    /// Asks for an answer.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was begun then.
    pub fn submit(&self, request: Request) -> Result<Answer, SubmitError> {
        let (sender, events) = mpsc::channel();
        let ticket = self.submit_to(request, move |event| {
            // Whoever asked may be gone; the ticket cancels the rest.
            let _ = sender.send(event);
        })?;
        Ok(Answer { events, ticket })
    }

    /// Asks for an answer whose events `sink` is handed on the engine's thread, which it must not hold up.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was begun then.
    pub fn submit_to(
        &self,
        request: Request,
        mut sink: impl FnMut(Event) + Send + 'static,
    ) -> Result<Ticket, SubmitError> {
        let shared = &self.shared;
        request.validate(shared.request_limits)?;
        if let Some(name) = request.adapter.as_ref().filter(|name| !shared.adapters.contains(*name)) {
            return Err(SubmitError::UnknownAdapter {
                name: name.clone(),
                found: match shared.adapters.len() {
                    0 => "no adapters".to_owned(),
                    _ => shared
                        .adapters
                        .iter()
                        .map(String::as_str)
                        .collect::<Vec<_>>()
                        .join(", "),
                },
                suggestion: closest(name, shared.adapters.iter().map(String::as_str)).map(str::to_owned),
            });
        }
        let (needed, available) = (request.prompt.len() + request.max_tokens, shared.limits.cache_tokens);
        if needed > available {
            return Err(Refusal::NeverFits { needed, available }.into());
        }
        let most = shared.limits.max_waiting.saturating_add(shared.limits.max_sequences);
        let place = Place::take(&shared.outstanding, most).ok_or(Refusal::QueueFull {
            waiting: shared.limits.max_waiting,
        })?;
        let id = RequestId(shared.next_id.fetch_add(1, Ordering::Relaxed));
        let submitted = Submitted {
            id,
            request,
            at: Instant::now(),
            sink: Box::new(move |event| {
                let _held = &place;
                sink(event);
            }),
        };
        let sent = shared.commands.send(Command::Submit(Box::new(submitted)));
        sent.map_err(|_| SubmitError::Stopped)?;
        Ok(Ticket {
            id,
            commands: shared.commands.clone(),
        })
    }

    /// Requests that have not ended.
    pub fn outstanding(&self) -> usize {
        self.shared.outstanding.load(Ordering::SeqCst)
    }

    /// Whether its thread runs. It ends before its time only by a panic, and then nothing is answered any more.
    pub fn is_running(&self) -> bool {
        let thread = self.shared.thread.as_ref();
        thread.is_some_and(|thread| !thread.is_finished())
    }

    /// What the engine has done so far.
    pub fn statistics(&self) -> EngineStatistics {
        let statistics = self.shared.statistics.lock();
        statistics.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The steps planned lately, oldest first.
    ///
    /// # Errors
    /// [`SubmitError::Stopped`].
    pub fn trace(&self) -> Result<Vec<StepPlan>, SubmitError> {
        let (sender, told) = mpsc::channel();
        let tell = move |plans| {
            let _ = sender.send(plans);
        };
        let sent = self.shared.commands.send(Command::Trace(Box::new(tell)));
        sent.map_err(|_| SubmitError::Stopped)?;
        told.recv().map_err(|_| SubmitError::Stopped)
    }

    /// What of the model limits a request.
    pub fn request_limits(&self) -> RequestLimits {
        self.shared.request_limits
    }

    /// The names of the adapters, sorted.
    pub fn adapters(&self) -> impl Iterator<Item = &str> {
        self.shared.adapters.iter().map(String::as_str)
    }
}

/// One of the places for requests that have not ended; it is free again when the request's sink is dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(outstanding: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let taken = outstanding.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |held| {
            (held < most).then_some(held + 1)
        });
        taken.is_ok().then(|| Self(Arc::clone(outstanding)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
