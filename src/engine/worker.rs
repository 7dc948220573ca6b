//! The thread that owns the model.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::models::Models;
use super::sequence::{Sequence, Submitted};
use super::step::{NextLogits, compute};
use super::{
    AnswerError, EngineSettings, EngineStatistics, FinishReason, PrefixCache, RequestId, SamplerError, Scheduler,
    SequenceCache, SequenceDemand, StepPlan, TextStream,
};
use crate::lanes::Lanes;
use crate::model::Tokenizer;

/// What the thread is told.
pub(super) enum Command {
    Submit(Box<Submitted>),
    Cancel(RequestId),
    /// Has the steps computed lately told.
    Trace(Box<dyn FnOnce(Vec<StepPlan>) + Send>),
    /// Nobody can ask any more.
    Stop,
}

pub(super) struct Worker {
    models: Models,
    lanes: Lanes,
    tokenizer: Arc<Tokenizer>,
    settings: EngineSettings,
    scheduler: Scheduler,
    sequences: BTreeMap<RequestId, Sequence>,
    prefixes: PrefixCache,
    commands: Receiver<Command>,
    statistics: Arc<Mutex<EngineStatistics>>,
}

impl Worker {
    pub(super) fn new(
        models: Models,
        tokenizer: Arc<Tokenizer>,
        settings: EngineSettings,
        scheduler: Scheduler,
        commands: Receiver<Command>,
        statistics: Arc<Mutex<EngineStatistics>>,
    ) -> Self {
        Self {
            models,
            lanes: match settings.lanes {
                0 | 1 => Lanes::single(),
                lanes => Lanes::on_cpu(lanes),
            },
            tokenizer,
            settings,
            scheduler,
            sequences: BTreeMap::new(),
            prefixes: PrefixCache::new(settings.prefix_bytes),
            commands,
            statistics,
        }
    }

    /// Serves until nobody can ask any more; what is not answered then is cancelled.
    pub(super) fn serve(mut self) {
        while self.take_commands() {
            let plan = self.scheduler.plan();
            if !plan.is_idle() {
                self.step(&plan);
            }
            self.count_present();
        }
        for id in self.sequences.keys().copied().collect::<Vec<_>>() {
            self.cancel(id);
        }
        self.count_present();
    }

    fn count(&self, change: impl FnOnce(&mut EngineStatistics)) {
        change(&mut self.statistics.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn count_present(&self) {
        let cache_bytes = self.sequences.values().map(|sequence| sequence.cache.bytes()).sum();
        let (waiting, running) = (self.scheduler.waiting(), self.scheduler.running());
        let prefix_bytes = self.prefixes.bytes();
        self.count(|statistics| {
            statistics.waiting = waiting;
            statistics.running = running;
            statistics.cache_bytes = cache_bytes;
            statistics.prefix_bytes = prefix_bytes;
        });
    }

    /// Takes what has been asked, waiting for it where there is nothing to do. Returns whether more may come.
    fn take_commands(&mut self) -> bool {
        let is_idle = self.sequences.is_empty();
        if is_idle {
            match self.commands.recv() {
                Ok(Command::Stop) | Err(_) => return false,
                Ok(command) => self.obey(command),
            }
        }
        loop {
            match self.commands.try_recv() {
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return false,
                Ok(command) => self.obey(command),
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Submit(submitted) => self.submit(*submitted),
            Command::Cancel(id) => self.cancel(id),
            Command::Trace(told) => told(self.scheduler.trace().plans().cloned().collect()),
            Command::Stop => (),
        }
    }

    fn submit(&mut self, submitted: Submitted) {
        let id = submitted.id;
        let adapter: Option<Rc<str>> = submitted.request.adapter.as_deref().map(Rc::from);
        let prompt = &submitted.request.prompt;
        let kept = self.prefixes.take(prompt, adapter.as_deref());
        let cache = kept.unwrap_or_else(|| SequenceCache::new(self.models.base(), self.settings.cache_precision));
        let demand = SequenceDemand {
            prompt_tokens: prompt.len(),
            max_tokens: submitted.request.max_tokens,
            already_cached: cache.length(),
            priority: submitted.request.priority,
        };
        let text = TextStream::new(submitted.request.stop_strings.clone());
        let seed = self.settings.seed.wrapping_add(id.0);
        let sequence = Sequence::new(submitted, adapter, cache, text, seed);
        match self.scheduler.submit(id, demand) {
            Ok(()) => {
                self.sequences.insert(id, sequence);
                self.count(|statistics| {
                    statistics.requests += 1;
                    statistics.reused_tokens += demand.already_cached as u64;
                });
            }
            Err(refusal) => sequence.fail(AnswerError::Failed {
                detail: refusal.to_string(),
            }),
        }
    }

    fn cancel(&mut self, id: RequestId) {
        self.scheduler.cancel(id);
        if let Some(mut sequence) = self.sequences.remove(&id) {
            self.count(|statistics| statistics.cancelled += 1);
            sequence.end(FinishReason::Cancelled, None);
        }
    }

    fn fail(&mut self, id: RequestId, error: AnswerError) {
        self.scheduler.finish(id);
        if let Some(sequence) = self.sequences.remove(&id) {
            self.count(|statistics| statistics.failed += 1);
            sequence.fail(error);
        }
    }

    fn step(&mut self, plan: &StepPlan) {
        let begun = Instant::now();
        for id in &plan.admitted {
            if let Some(sequence) = self.sequences.get_mut(id) {
                sequence.begin(begun);
                let queued = begun.duration_since(sequence.submitted());
                self.count(|statistics| statistics.queued.add(queued));
            }
        }
        let next = match compute(plan, &self.lanes, &mut self.models, &mut self.sequences) {
            Ok(next) => next,
            Err(error) => {
                // Which of the sequences it was cannot be told, and their caches may hold parts of the step.
                let members = plan.decode.iter().chain(plan.prefill.iter().map(|chunk| &chunk.id));
                for id in members {
                    let detail = error.to_string();
                    self.fail(*id, AnswerError::Failed { detail });
                }
                return;
            }
        };
        for chunk in plan.prefill.iter().filter(|chunk| chunk.is_last) {
            if let Some(sequence) = self.sequences.get(&chunk.id) {
                self.prefixes
                    .keep(&sequence.request.prompt, sequence.adapter.clone(), &sequence.cache);
            }
        }
        let prompt_tokens = plan.tokens() - plan.decode.len();
        self.count(|statistics| {
            statistics.steps += 1;
            statistics.decoded_sequences += plan.decode.len() as u64;
            statistics.prompt_tokens += prompt_tokens as u64;
            statistics.step.add(begun.elapsed());
        });
        for (id, logits) in next.iter().flat_map(NextLogits::rows) {
            self.continue_with(id, logits);
        }
    }

    /// Chooses the next token of a sequence, and ends it where the answer ends.
    fn continue_with(&mut self, id: RequestId, logits: &[f32]) {
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return;
        };
        let sampled = match sequence.sampler.sample(logits, &sequence.tokens) {
            Ok(sampled) => sampled,
            Err(SamplerError::NotFinite { .. }) => {
                let tokens = sequence.tokens.len();
                return self.fail(id, AnswerError::NotFinite { tokens });
            }
            Err(error) => {
                let detail = error.to_string();
                return self.fail(id, AnswerError::Failed { detail });
            }
        };
        let (reason, times) = match sequence.take(sampled, &self.tokenizer) {
            Ok(taken) => taken,
            Err(error) => return self.fail(id, error),
        };
        self.count(|statistics| {
            statistics.generated_tokens += 1;
            match times.before {
                Some(before) => statistics.between_tokens.add(times.now.duration_since(before)),
                None => statistics.to_first_token.add(times.now.duration_since(times.submitted)),
            }
        });
        if reason.is_some() {
            self.scheduler.finish(id);
            self.count(|statistics| statistics.finished += 1);
            if let Some(sequence) = self.sequences.remove(&id) {
                let held = &sequence.tokens[..sequence.cache.length()];
                self.prefixes.keep(held, sequence.adapter.clone(), &sequence.cache);
            }
        }
    }
}
