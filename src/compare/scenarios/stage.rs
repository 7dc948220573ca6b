//! What a scenario runs on: one server, watched, with everything that happens recorded.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::nonce::Nonces;
use super::thresholds::{NAP_MS, SETTLING_SAMPLES, VANISHING_MS};
use super::{Stop, TokenCounter};
use crate::compare::client::Clock;
use crate::compare::memory::{MemoryWatch, Processes, survivors};
use crate::compare::servers::{LoadRequest, NextTokens, Server};
use crate::compare::{
    Failure, FailureKind, Figure, Format, Loaded, MemoryRecord, MemorySample, ModelPair, Outcome, Phase, Plan,
    RequestRecord, ServerDescription, Side, Start, TestKey, TestRecord, Unit,
};
use crate::interrupt::Interrupt;

/// The detail that tells how the server was started before, within the same test.
const EARLIER_COMMAND: &str = "earlier-command";

/// Watches memory until it is stopped or dropped.
pub trait Watch {
    /// Ends it; returns how it went, and every sample.
    fn stop(self: Box<Self>) -> (MemoryRecord, Vec<MemorySample>);
}

impl Watch for MemoryWatch {
    fn stop(self: Box<Self>) -> (MemoryRecord, Vec<MemorySample>) {
        MemoryWatch::stop(*self)
    }
}

/// Begins to watch processes by a clock, with a sample every so often.
pub type StartWatch<'run> = dyn Fn(Arc<dyn Processes>, Clock, Duration) -> Box<dyn Watch> + 'run;

/// The [`StartWatch`] of this machine.
pub fn watch_memory(processes: Arc<dyn Processes>, clock: Clock, interval: Duration) -> Box<dyn Watch> {
    Box::new(MemoryWatch::start(processes, clock, interval))
}

/// What happens within a test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Progress<'test> {
    /// A part of the test begins.
    Phase(&'test str),
    /// A request has ended.
    Request(&'test RequestRecord),
}

/// Where a mixture sends the tokens of these texts, read off its files in this process; why that cannot be told, in one
/// sentence without a final period.
pub type Routing<'run> = dyn Fn(&Side, &[String]) -> Result<Vec<Figure>, String> + 'run;

/// What a stage is made of.
pub struct Setting<'run> {
    /// What was asked for.
    pub plan: &'run Plan,
    /// The model.
    pub pair: &'run ModelPair,
    /// Which test.
    pub key: TestKey,
    /// Who serves.
    pub server: Box<dyn Server>,
    /// How memory is watched.
    pub watch: &'run StartWatch<'run>,
    /// Counts tokens as the model does, where the plan names a tokenizer.
    pub counter: Option<&'run dyn TokenCounter>,
    /// Looks into a mixture.
    pub routing: &'run Routing<'run>,
    /// The user's wish to stop.
    pub interrupt: &'run Interrupt,
    /// Hears what happens.
    pub progress: &'run dyn Fn(Progress<'_>),
}

/// What a scenario runs on.
pub struct Stage<'run> {
    pub(super) setting: Setting<'run>,
    pub(super) clock: Clock,
    pub(super) nonces: Nonces,
    pub(super) test: TestRecord,
    /// Whether the model takes a system message; `None` until the first requests have ended.
    pub(super) takes_system: Option<bool>,
    watch: Option<Box<dyn Watch>>,
    samples: Vec<MemorySample>,
    is_loaded: bool,
}

impl<'run> Stage<'run> {
    /// A stage whose clock begins now.
    pub fn new(setting: Setting<'run>) -> Self {
        Self {
            clock: Clock::start(),
            nonces: Nonces::new(setting.plan.seed, &setting.key),
            test: TestRecord::empty(setting.key.clone(), Outcome::Completed),
            takes_system: None,
            watch: None,
            samples: Vec::new(),
            is_loaded: false,
            setting,
        }
    }

    /// What was asked for.
    pub fn plan(&self) -> &'run Plan {
        self.setting.plan
    }

    /// The model.
    pub fn pair(&self) -> &'run ModelPair {
        self.setting.pair
    }

    /// The format that is tested.
    pub fn format(&self) -> Format {
        self.test.key.format
    }

    /// The side that is tested.
    pub fn side(&self) -> &'run Side {
        self.setting.pair.side(self.format())
    }

    /// Counts tokens as the model does, where the plan names a tokenizer.
    pub fn counter(&self) -> Option<&'run dyn TokenCounter> {
        self.setting.counter
    }

    /// Who serves; `None` before the model was loaded.
    pub fn server(&self) -> Option<&ServerDescription> {
        self.test.server.as_ref()
    }

    /// Requests that have ended, in the order in which they were due.
    pub fn requests(&self) -> &[RequestRecord] {
        &self.test.requests
    }

    /// Seconds since the test began.
    pub fn now(&self) -> f64 {
        self.clock.now()
    }

    /// Records `work` as a part of the test, whatever its end.
    pub fn phase<T, E>(&mut self, name: &str, work: impl FnOnce(&mut Self) -> Result<T, E>) -> Result<T, E> {
        (self.setting.progress)(Progress::Phase(name));
        let index = self.test.phases.len();
        let begin = self.now();
        self.test.phases.push(Phase {
            name: name.to_owned(),
            begin,
            end: begin,
        });
        let result = work(self);
        let end = self.now();
        if let Some(phase) = self.test.phases.get_mut(index) {
            phase.end = end;
        }
        result
    }

    /// Loads the model as the phase `load`, with memory watched from before it until [`Self::unload`].
    ///
    /// # Errors
    /// It cannot be loaded, or there is no time left.
    pub fn load(&mut self, request: &LoadRequest) -> Result<Loaded, Failure> {
        self.may_go_on()?;
        let interval = self.sampling_interval();
        self.watch = Some((self.setting.watch)(
            self.setting.server.processes(),
            self.clock,
            interval,
        ));
        let loaded = self.phase("load", |stage| stage.setting.server.load(request));
        match &loaded {
            Ok(loaded) => {
                self.is_loaded = true;
                let mut server = loaded.server.clone();
                if let Some(earlier) = self.test.server.take() {
                    keep_command(&earlier, &mut server);
                }
                self.test.server = Some(server);
            }
            Err(_) => self.end_watch(),
        }
        loaded
    }

    /// Takes the model out of memory as the phase `unload`.
    ///
    /// # Errors
    /// It stays, or goes by force only.
    pub fn unload(&mut self) -> Result<(), Failure> {
        self.is_loaded = false;
        let unloaded = self.phase("unload", |stage| stage.setting.server.unload());
        self.end_watch();
        self.note_survivors();
        unloaded
    }

    /// Notes what a server that was started here left running: a process that leaves its group is not ended with it.
    fn note_survivors(&mut self) {
        if self
            .test
            .server
            .as_ref()
            .is_none_or(|server| server.start != Start::Process)
        {
            return;
        }
        let ended = self.now();
        let mut left = survivors(&self.samples);
        while !left.is_empty() && self.now() - ended < Duration::from_millis(VANISHING_MS).as_secs_f64() {
            thread::sleep(Duration::from_millis(NAP_MS));
            left = survivors(&self.samples);
        }
        if !left.is_empty() {
            self.note(format!(
                "of the server's processes, these are still running after it was ended: {}; end them, since they take memory \
                 from what is measured next",
                left.join(", ")
            ));
        }
    }

    /// The likeliest `count` next tokens after a text.
    ///
    /// # Errors
    /// The server does not tell, or there is no time left.
    pub fn next_tokens(&self, text: &str, count: usize) -> Result<NextTokens, Failure> {
        self.may_go_on()?;
        self.setting.server.next_tokens(text, count)
    }

    /// Waits until memory has settled; returns when it began and ended to wait, in seconds since the test began.
    ///
    /// # Errors
    /// There is no time left.
    pub fn settle(&self) -> Result<(f64, f64), Failure> {
        let begin = self.now();
        let end = begin + (self.sampling_interval() * SETTLING_SAMPLES).as_secs_f64();
        while self.now() < end {
            self.may_go_on()?;
            let left = Duration::try_from_secs_f64(end - self.now()).unwrap_or_default();
            thread::sleep(left.min(Duration::from_millis(NAP_MS)));
        }
        Ok((begin, self.now()))
    }

    /// Memory of the server between two times in bytes, the last sample of them; known once the watch has ended, `None` where
    /// there was none.
    pub fn memory_between(&self, (begin, end): (f64, f64)) -> Option<u64> {
        let within = self.samples.iter().filter(|sample| (begin..=end).contains(&sample.at));
        within.filter_map(MemorySample::charged).next_back()
    }

    /// Records what was measured. What is no finite number is left out and told.
    pub fn figure(&mut self, name: &str, unit: Unit, values: &[f64], note: &str) {
        let finite: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
        if finite.len() < values.len() {
            let lost = values.len() - finite.len();
            self.note(format!(
                "{lost} of {} values of `{name}` are no finite numbers and are left out",
                values.len()
            ));
        }
        self.test.figures.push(Figure {
            name: name.to_owned(),
            unit,
            values: finite,
            note: note.to_owned(),
        });
    }

    /// Records where the mixture sends the tokens of the plan's prompts, as its files say; on the side of MLX, whose files this
    /// program reads.
    pub fn routing(&mut self) {
        if self.setting.key.format != Format::Mlx {
            return;
        }
        let side = self.setting.pair.side(Format::Mlx);
        match (self.setting.routing)(side, &self.setting.plan.prompts) {
            Ok(figures) => self.test.figures.extend(figures),
            Err(reason) => self.note(format!(
                "a server's API does not tell which experts tokens are sent to, and it could not be read off the files: {reason}"
            )),
        }
    }

    /// Records what has to be known beside the figures, once.
    pub fn note(&mut self, sentence: impl Into<String>) {
        let sentence = sentence.into();
        if !self.test.notes.contains(&sentence) {
            self.test.notes.push(sentence);
        }
    }

    /// Whether the test may go on.
    ///
    /// # Errors
    /// The user ended it, or it has taken too long.
    pub fn may_go_on(&self) -> Result<(), Failure> {
        may_go_on(self.clock, self.plan(), self.setting.interrupt)
    }

    /// Ends the test: what is loaded is unloaded. Returns the record and every sample of memory.
    pub fn finish(mut self, ended: Result<(), Stop>) -> (TestRecord, Vec<MemorySample>) {
        if self.is_loaded
            && let Err(failure) = self.unload()
        {
            self.note(format!("the model was not unloaded as it should be: {failure}"));
        }
        self.end_watch();
        self.test.outcome = match ended {
            Ok(()) => self.unless_all_failed(),
            Err(Stop::Skip(reason)) => Outcome::Skipped { reason },
            // A signal from the terminal ends servers too, whose failures are none then.
            Err(Stop::Failure(_)) if self.setting.interrupt.is_requested() => Outcome::Interrupted,
            Err(Stop::Failure(failure)) => Outcome::Failed { failure },
        };
        self.test.seconds = self.clock.now();
        (self.test, self.samples)
    }

    /// A test without a single answer has measured nothing.
    fn unless_all_failed(&self) -> Outcome {
        let requests = &self.test.requests;
        let first = requests.iter().find_map(|request| request.failure.as_ref());
        match first {
            Some(first) if requests.iter().all(|request| request.failure.is_some()) => Outcome::Failed {
                failure: Failure {
                    kind: first.kind,
                    reason: format!("no request was answered: {first}"),
                    hint: first.hint.clone(),
                },
            },
            _ => Outcome::Completed,
        }
    }

    fn sampling_interval(&self) -> Duration {
        Duration::from_millis(self.plan().memory_interval_ms)
    }

    fn end_watch(&mut self) {
        let Some(watch) = self.watch.take() else { return };
        let (record, samples) = watch.stop();
        self.samples.extend(samples);
        self.test.memory = Some(match self.test.memory.take() {
            Some(earlier) => together(earlier, record),
            None => record,
        });
    }
}

/// Keeps the command of an earlier load where it was another one, as with caches of prompts on and off.
fn keep_command(earlier: &ServerDescription, server: &mut ServerDescription) {
    let kept = if earlier.command_line() == server.command_line() {
        earlier.details.get(EARLIER_COMMAND).cloned()
    } else {
        earlier.command_line()
    };
    if let Some(kept) = kept {
        server.details.insert(EARLIER_COMMAND.to_owned(), kept);
    }
}

/// One record of two watches of a test.
fn together(earlier: MemoryRecord, later: MemoryRecord) -> MemoryRecord {
    let mut unknown = earlier.unknown;
    unknown.extend(later.unknown);
    unknown.sort();
    unknown.dedup();
    MemoryRecord {
        interval_ms: earlier.interval_ms,
        taken: earlier.taken + later.taken,
        missed: earlier.missed + later.missed,
        cost_seconds: earlier.cost_seconds + later.cost_seconds,
        holder: earlier.holder.or(later.holder),
        unknown,
    }
}

pub(super) fn may_go_on(clock: Clock, plan: &Plan, interrupt: &Interrupt) -> Result<(), Failure> {
    if interrupt.is_requested() {
        return Err(Failure {
            kind: FailureKind::Interrupted,
            reason: "the user ended it".to_owned(),
            hint: None,
        });
    }
    if clock.now() > plan.limits.test {
        return Err(Failure {
            kind: FailureKind::TimedOut,
            reason: format!("the test took longer than {} s", plan.limits.test),
            hint: Some("raise `limits.test`, or ask for less".to_owned()),
        });
    }
    Ok(())
}
