//! A server that answers from a script, the memory of its process, and a comparison that is run with both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mlx_diagnose::compare::client::{Answer, ChatRequest, Clock};
use mlx_diagnose::compare::memory::Processes;
use mlx_diagnose::compare::run::{Ended, Event, Observer, Parts, compare};
use mlx_diagnose::compare::scenarios::{SCENARIOS, TokenCounter, Watch};
use mlx_diagnose::compare::servers::{LoadRequest, NextTokens, Server};
use mlx_diagnose::compare::{
    AnswerTimes, Failure, FailureKind, Figure, Format, Loaded, Machine, MemoryRecord, MemorySample, ModelPair, Plan,
    ProcessSample, ResultsFolder, ServerDescription, ServerKind, Side, Start, TestRecord, Unit, Usage,
};
use mlx_diagnose::interrupt::Interrupt;

pub(crate) fn failure(kind: FailureKind, reason: &str) -> Failure {
    Failure {
        kind,
        reason: reason.to_owned(),
        hint: None,
    }
}

type OnLoad = dyn Fn(Format, &LoadRequest) -> Result<Start, Failure> + Send + Sync;
type OnAsk = dyn Fn(Format, &ChatRequest) -> Result<String, Failure> + Send + Sync;
type OnUnload = dyn Fn(Format) -> Result<(), Failure> + Send + Sync;
type OnNextTokens = dyn Fn(Format, &str) -> Result<NextTokens, Failure> + Send + Sync;

/// What servers do, and everything that they were asked.
pub(crate) struct Script {
    pub(crate) on_load: Box<OnLoad>,
    pub(crate) on_ask: Box<OnAsk>,
    pub(crate) on_unload: Box<OnUnload>,
    pub(crate) on_next_tokens: Box<OnNextTokens>,
    pub(crate) details: BTreeMap<String, String>,
    /// The command that each load with or without caches of prompts is started by.
    pub(crate) command: fn(&LoadRequest) -> Option<Vec<String>>,
    /// Its process, by number and name.
    pub(crate) process: (u32, String),
    /// Tokens that it says each answer has; `None` counts words.
    pub(crate) counts: Option<usize>,
    /// The model that answers, where it is not the one that was asked.
    pub(crate) answers_as: Option<String>,
    /// Time of an answer.
    pub(crate) latency: Duration,
    /// What was done, in order.
    pub(crate) events: Mutex<Vec<String>>,
    pub(crate) requests: Mutex<Vec<ChatRequest>>,
    pub(crate) loads: Mutex<Vec<LoadRequest>>,
    /// Models in memory.
    pub(crate) loaded: AtomicUsize,
    pub(crate) under_way: AtomicUsize,
    /// Most requests that were under way at one time since the last load.
    pub(crate) most_under_way: AtomicUsize,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            on_load: Box::new(|_, _| Ok(Start::Process)),
            on_ask: Box::new(|_, _| Ok("an answer of five words".to_owned())),
            on_unload: Box::new(|_| Ok(())),
            on_next_tokens: Box::new(|_, _| Err(failure(FailureKind::Unsupported, "the API does not tell"))),
            details: BTreeMap::new(),
            command: |_| None,
            process: (7, "fake, \"server\"".to_owned()),
            counts: None,
            answers_as: None,
            latency: Duration::ZERO,
            events: Mutex::default(),
            requests: Mutex::default(),
            loads: Mutex::default(),
            loaded: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
            most_under_way: AtomicUsize::new(0),
        }
    }
}

impl Script {
    fn happened(&self, event: String) {
        self.events.lock().unwrap().push(event);
    }

    /// What was done, in order, without what happened before.
    pub(crate) fn take_events(&self) -> Vec<String> {
        std::mem::take(&mut *self.events.lock().unwrap())
    }
}

/// A server that does what a script says.
struct FakeServer {
    format: Format,
    script: Arc<Script>,
    is_loaded: bool,
}

struct OneProcess;

impl Processes for OneProcess {
    fn roots(&self) -> Vec<u32> {
        vec![std::process::id()]
    }
}

impl Server for FakeServer {
    fn kind(&self) -> ServerKind {
        ServerKind::OpenAi
    }

    fn load(&mut self, request: &LoadRequest) -> Result<Loaded, Failure> {
        self.script.happened(format!("{} load", self.format.name()));
        self.script.loads.lock().unwrap().push(request.clone());
        let start = (self.script.on_load)(self.format, request)?;
        assert_eq!(
            self.script.loaded.fetch_add(1, Ordering::SeqCst),
            0,
            "two models are in memory"
        );
        self.is_loaded = true;
        self.script.most_under_way.store(0, Ordering::SeqCst);
        Ok(Loaded {
            server: ServerDescription {
                kind: self.kind(),
                version: None,
                address: "http://127.0.0.1:1".to_owned(),
                command: (self.script.command)(request),
                model: "model".to_owned(),
                quantisation: None,
                context_length: Some(request.context_length),
                start,
                details: self.script.details.clone(),
            },
            ready_seconds: (start != Start::Already).then_some(0.25),
            told_seconds: None,
        })
    }

    fn unload(&mut self) -> Result<(), Failure> {
        self.script.happened(format!("{} unload", self.format.name()));
        self.script.loaded.store(0, Ordering::SeqCst);
        self.is_loaded = false;
        (self.script.on_unload)(self.format)
    }

    fn ask(&self, request: &ChatRequest, clock: Clock) -> Answer {
        let script = &self.script;
        let under_way = script.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        script.most_under_way.fetch_max(under_way, Ordering::SeqCst);
        script.requests.lock().unwrap().push(request.clone());
        let sent = clock.now();
        let answered = (script.on_ask)(self.format, request);
        std::thread::sleep(script.latency);
        script.under_way.fetch_sub(1, Ordering::SeqCst);
        let ended = clock.now();
        let words = |text: &str| text.split_whitespace().count();
        let (text, failure) = match answered {
            Ok(text) => (text, None),
            Err(failure) => (String::new(), Some(failure)),
        };
        Answer {
            times: AnswerTimes {
                sent,
                headers: Some(sent),
                pieces: text.split_whitespace().map(|_| ended).collect(),
                ended,
            },
            status: failure.is_none().then_some(200),
            other_model: script.answers_as.clone().filter(|_| failure.is_none()),
            usage: failure.is_none().then(|| Usage {
                prompt_tokens: request.messages.iter().map(|message| words(&message.content)).sum(),
                completion_tokens: script.counts.unwrap_or_else(|| words(&text)),
                cached_tokens: Some(0),
            }),
            finish_reason: failure.is_none().then(|| "stop".to_owned()),
            text,
            timings: None,
            failure,
        }
    }

    fn next_tokens(&self, text: &str, _count: usize) -> Result<NextTokens, Failure> {
        (self.script.on_next_tokens)(self.format, text)
    }

    fn processes(&self) -> Arc<dyn Processes> {
        Arc::new(OneProcess)
    }

    fn log(&self) -> Option<&Path> {
        None
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        assert!(
            std::thread::panicking() || !self.is_loaded,
            "a server is dropped with its model in memory"
        );
    }
}

/// The memory of one process that has always so many bytes, looked at every millisecond.
struct FakeWatch {
    clock: Clock,
    began: f64,
    process: (u32, String),
}

/// Bytes of the process.
pub(crate) const RESIDENT: u64 = 123_456_789;

impl Watch for FakeWatch {
    fn stop(self: Box<Self>) -> (MemoryRecord, Vec<MemorySample>) {
        let count = ((self.clock.now() - self.began) * 1000.0) as usize + 1;
        let sample = |number: usize| MemorySample {
            at: self.began + number as f64 / 1000.0,
            processes: vec![ProcessSample {
                pid: self.process.0,
                name: self.process.1.clone(),
                resident: Some(RESIDENT),
                proportional: None,
                anonymous: Some(RESIDENT - 1),
                file: Some(1),
                footprint: None,
                wired: None,
            }],
            available: Some(1 << 33),
            wired: None,
        };
        let record = MemoryRecord {
            interval_ms: 1,
            taken: count,
            missed: 0,
            cost_seconds: 0.0,
            holder: Some("fake (7)".to_owned()),
            unknown: Vec::new(),
        };
        (record, (0..count).map(sample).collect())
    }
}

/// Counts words.
pub(crate) struct Words;

impl TokenCounter for Words {
    fn count(&self, text: &str) -> Result<usize, String> {
        Ok(text.split_whitespace().count())
    }
}

/// Hears nothing.
pub(crate) struct Deaf;

impl Observer for Deaf {
    fn hear(&self, _event: &Event<'_>) {}
}

/// A pair whose models are served by fakes.
pub(crate) fn pair(name: &str) -> ModelPair {
    let side = |format: Format| Side {
        server: ServerKind::OpenAi,
        model: format.name().to_owned(),
        address: Some("http://127.0.0.1:1".to_owned()),
        command: None,
        environment: BTreeMap::new(),
        api_key_variable: None,
    };
    ModelPair {
        name: name.to_owned(),
        gguf: side(Format::Gguf),
        mlx: side(Format::Mlx),
        tokenizer: None,
        mixture: None,
    }
}

/// A plan that is over at once.
pub(crate) fn quick_plan(scenarios: &[&str]) -> Plan {
    Plan {
        scenarios: scenarios.iter().map(|&name| name.to_owned()).collect(),
        rounds: 2,
        repeats: 2,
        warm_ups: 1,
        leak_requests: 3,
        memory_interval_ms: 1,
        ..Plan::with_defaults(vec![pair("pair")])
    }
}

pub(crate) fn machine() -> Machine {
    Machine {
        tool_version: "1.0.0".to_owned(),
        platform: "linux x86_64".to_owned(),
        system: None,
        processor: Some("processor".to_owned()),
        usable_cores: 2,
        memory: Some(1 << 34),
        load_average: Some([0.1, 0.2, 0.3]),
    }
}

/// Calls `run` with parts that do what a script says.
pub(crate) fn with_parts<T>(script: &Arc<Script>, interrupt: &Interrupt, run: impl FnOnce(&Parts<'_>) -> T) -> T {
    run(&Parts {
        scenarios: SCENARIOS,
        open: &|side, _| {
            // A model may be a path, whose last part tells.
            let is_of = |format: &Format| Path::new(&side.model).ends_with(format.name());
            let format = Format::ALL.into_iter().find(is_of).unwrap();
            Ok(Box::new(FakeServer {
                format,
                script: Arc::clone(script),
                is_loaded: false,
            }))
        },
        watch: &|_, clock, _| {
            Box::new(FakeWatch {
                clock,
                began: clock.now(),
                process: script.process.clone(),
            })
        },
        counter: &|pair| match pair.tokenizer {
            Some(_) => Ok(Some(Box::new(Words))),
            None => Ok(None),
        },
        routing: &|side, texts| {
            Ok(vec![Figure {
                name: "routing-entropy".to_owned(),
                unit: Unit::Nats,
                values: vec![texts.len() as f64],
                note: format!("of `{}`", side.model),
            }])
        },
        machine: machine(),
        interrupt: interrupt.clone(),
        program: PathBuf::from("diagnose"),
    })
}

/// Runs a plan into a folder of its own.
pub(crate) fn run_into(folder: &Path, plan: &Plan, script: &Arc<Script>) -> (Ended, ResultsFolder) {
    let results = ResultsFolder::create(folder).unwrap();
    let ended = with_parts(script, &Interrupt::default(), |parts| {
        compare(plan, parts, &results, &Deaf)
    });
    (ended, results)
}

/// The tests of a plan that was run to its end.
pub(crate) fn tests_of(plan: &Plan, script: Script) -> (Vec<TestRecord>, Arc<Script>) {
    let folder = tempfile::tempdir().unwrap();
    let script = Arc::new(script);
    let (ended, _) = run_into(folder.path(), plan, &script);
    assert_eq!(ended.not_written, None);
    (ended.record.tests, script)
}
