//! Running a comparison: every test in its turn, each written before the next begins.
//!
//! ```text
//! Plan -> order of tests -> one test at a time on a stage -> ResultsFolder
//! ```

mod estimate;
mod observer;
mod order;
mod resume;

use std::cell::Cell;
use std::path::{Path, PathBuf};

use super::scenarios::{Progress, Routing, Scenario, Setting, Stage, StartWatch, TokenCounter};
use super::servers::{Server, Surroundings};
use super::{
    Failure, FailureKind, Machine, MemorySample, ModelPair, Outcome, Plan, RECORD_SCHEMA_VERSION, Record,
    ResultsFolder, Side, TestKey, TestRecord,
};
use crate::interrupt::Interrupt;
use crate::time_stamp::time_stamp;

pub use estimate::Remaining;
pub use observer::{Event, Observer};
pub use order::tests;
pub use resume::ResumeError;

/// Opens the server of a side.
pub type OpenServer<'run> = dyn Fn(&Side, &Surroundings) -> Result<Box<dyn Server>, Failure> + 'run;

/// The tokenizer of a pair; `None` where the plan names none.
pub type OpenCounter<'run> = dyn Fn(&ModelPair) -> Result<Option<Box<dyn TokenCounter>>, String> + 'run;

/// What a comparison is run with.
pub struct Parts<'run> {
    /// Scenarios by which the plan's names are found.
    pub scenarios: &'run [&'run dyn Scenario],
    /// Opens servers.
    pub open: &'run OpenServer<'run>,
    /// Watches memory.
    pub watch: &'run StartWatch<'run>,
    /// Opens tokenizers.
    pub counter: &'run OpenCounter<'run>,
    /// Looks into mixtures.
    pub routing: &'run Routing<'run>,
    /// What it is measured on.
    pub machine: Machine,
    /// The user's wish to stop.
    pub interrupt: Interrupt,
    /// This program, which `serve` is started of.
    pub program: PathBuf,
}

/// How a comparison ended.
#[derive(Debug)]
pub struct Ended {
    /// Everything that was measured.
    pub record: Record,
    /// Why the results could not be written in the end; the run stopped there, and what was written before is whole.
    pub not_written: Option<Failure>,
}

/// Runs every test of a plan. What goes wrong within a test is recorded, and the next one begins.
pub fn compare(plan: &Plan, parts: &Parts<'_>, results: &ResultsFolder, observer: &dyn Observer) -> Ended {
    let record = Record {
        schema_version: RECORD_SCHEMA_VERSION,
        began: time_stamp(),
        machine: parts.machine.clone(),
        plan: plan.clone(),
        interrupted: false,
        tests: Vec::new(),
    };
    Run::new(parts, results, observer, record).finish()
}

/// Goes on with a comparison that was ended early: tests that were completed, few of whose requests failed, or
/// that had nothing to measure stay as they are.
///
/// # Errors
/// Another plan or another machine was measured.
pub fn resume(
    earlier: Record,
    plan: &Plan,
    parts: &Parts<'_>,
    results: &ResultsFolder,
    observer: &dyn Observer,
) -> Result<Ended, ResumeError> {
    let record = resume::resumable(earlier, plan, &parts.machine)?;
    Ok(Run::new(parts, results, observer, record).finish())
}

struct Run<'run> {
    parts: &'run Parts<'run>,
    results: &'run ResultsFolder,
    observer: &'run dyn Observer,
    /// What was measured so far.
    record: Record,
    /// Every test of the plan, in order.
    tests: Vec<TestKey>,
    /// Whether the log could not be written, which is told once: a full disk takes no line of many.
    is_log_lost: Cell<bool>,
}

impl<'run> Run<'run> {
    fn new(
        parts: &'run Parts<'run>,
        results: &'run ResultsFolder,
        observer: &'run dyn Observer,
        record: Record,
    ) -> Self {
        Self {
            tests: tests(&record.plan, parts.scenarios),
            parts,
            results,
            observer,
            record,
            is_log_lost: Cell::new(false),
        }
    }

    fn finish(mut self) -> Ended {
        let plan = self.record.plan.clone();
        let mut not_written = self.write_record();
        let finished: Vec<TestKey> = self.record.tests.iter().map(|test| test.key.clone()).collect();
        for pair in &plan.pairs {
            // Opened once for each pair: a tokenizer can take seconds to read.
            let mut counter = None;
            for (number, key) in self.tests.clone().into_iter().enumerate() {
                if key.pair != pair.name || finished.contains(&key) || not_written.is_some() {
                    continue;
                }
                if self.parts.interrupt.is_requested() {
                    self.record.interrupted = true;
                    break;
                }
                let counter = counter.get_or_insert_with(|| (self.parts.counter)(pair));
                self.begin(number, &key);
                let (test, samples) = self.test(&plan, pair, &key, counter);
                not_written = self.end(test, &samples);
            }
        }
        if self.record.interrupted {
            self.tell(&Event::Interrupted);
            not_written = not_written.or(self.write_record());
        }
        Ended {
            record: self.record,
            not_written,
        }
    }

    fn begin(&self, number: usize, key: &TestKey) {
        let rest = self.tests.get(number..).unwrap_or_default();
        self.tell(&Event::TestBegins {
            key,
            number: number + 1,
            of: self.tests.len(),
            remaining: Remaining::of(&self.record.tests, rest),
        });
    }

    /// Records a test, and writes everything that is known. Returns why the results cannot be written any more.
    fn end(&mut self, mut test: TestRecord, samples: &[MemorySample]) -> Option<Failure> {
        if let Err(error) = self.results.write_metrics(&test, samples) {
            let failure = not_written(&error, "the requests and samples of a test");
            test.notes
                .push(format!("of what was measured, only this record is left: {failure}"));
            if test.outcome == Outcome::Completed {
                test.outcome = Outcome::Failed { failure };
            }
        }
        self.tell(&Event::TestEnds(&test));
        if test.outcome == Outcome::Interrupted {
            self.record.interrupted = true;
        }
        self.record.tests.push(test);
        // After a resumption they would stand in the order of measuring.
        let position = |key: &TestKey| self.tests.iter().position(|test| test == key);
        self.record.tests.sort_by_key(|test| position(&test.key));
        self.write_record()
    }

    fn write_record(&self) -> Option<Failure> {
        let error = self.results.write_record(&self.record).err()?;
        let failure = not_written(&error, "the results");
        self.tell(&Event::NotWritten(&failure));
        Some(failure)
    }

    /// One test from beginning to end.
    fn test(
        &self,
        plan: &Plan,
        pair: &ModelPair,
        key: &TestKey,
        counter: &Result<Option<Box<dyn TokenCounter>>, String>,
    ) -> (TestRecord, Vec<MemorySample>) {
        let known = self
            .parts
            .scenarios
            .iter()
            .find(|scenario| scenario.name() == key.scenario);
        let applies = known
            .ok_or_else(|| format!("this program has no scenario `{}`", key.scenario))
            .and_then(|scenario| scenario.applies(plan, pair).map(|()| *scenario));
        let scenario = match applies {
            Ok(scenario) => scenario,
            Err(reason) => return (TestRecord::empty(key.clone(), Outcome::Skipped { reason }), Vec::new()),
        };
        let logs = self.results.logs(key);
        let server = make_folder(&logs).and_then(|()| {
            let surroundings = Surroundings {
                limits: plan.limits,
                interrupt: self.parts.interrupt.clone(),
                program: self.parts.program.clone(),
                logs: logs.clone(),
                scripts: self.results.scripts(),
            };
            (self.parts.open)(pair.side(key.format), &surroundings)
        });
        let server = match server {
            Ok(server) => server,
            Err(failure) => return (TestRecord::empty(key.clone(), Outcome::Failed { failure }), Vec::new()),
        };
        let progress = |progress: Progress<'_>| self.tell(&Event::Progress(key, progress));
        let mut stage = Stage::new(Setting {
            plan,
            pair,
            key: key.clone(),
            server,
            watch: self.parts.watch,
            counter: counter.as_ref().ok().and_then(Option::as_deref),
            routing: self.parts.routing,
            interrupt: &self.parts.interrupt,
            progress: &progress,
        });
        if let Err(reason) = counter {
            stage.note(format!("answers are not counted here: {reason}"));
        }
        let ended = scenario.run(&mut stage);
        let finished = stage.finish(ended);
        // Servers that were not started here print nothing; a folder with something in it stays.
        let _ = std::fs::remove_dir(&logs);
        finished
    }

    /// Tells the observer and the log.
    fn tell(&self, event: &Event<'_>) {
        self.observer.hear(event);
        if let Some(line) = event.line()
            && let Err(error) = self.results.log(&line)
            && !self.is_log_lost.replace(true)
        {
            self.observer
                .hear(&Event::NotWritten(&not_written(&error, "a line of the log")));
        }
    }
}

fn make_folder(path: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(path).map_err(|error| not_written(&error, "the folder for what servers print"))
}

fn not_written(error: &std::io::Error, what: &str) -> Failure {
    Failure {
        kind: FailureKind::NotWritten,
        reason: format!("{what} cannot be written: {error}"),
        hint: Some("make room, then go on with `--resume`".to_owned()),
    }
}
