//! What a comparison says on standard error while it runs.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::output::{is_dumb_terminal, note};
use crate::compare::run::{Event, Observer, Remaining};
use crate::compare::scenarios::Progress;
use crate::compare::{Outcome, TestKey, TestRecord};

/// Redraws of a spinner per second.
const SPINNER_INTERVAL: Duration = Duration::from_millis(120);

/// A moving line on a terminal, one plain line per test elsewhere; every event where the user wants to know.
pub fn observer(verbose: bool) -> Box<dyn Observer> {
    if verbose {
        Box::new(Everything)
    } else if std::io::stderr().is_terminal() && !is_dumb_terminal() {
        let style =
            ProgressStyle::with_template("{spinner} {wide_msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = ProgressBar::new_spinner().with_style(style);
        bar.enable_steady_tick(SPINNER_INTERVAL);
        Box::new(Bar { bar })
    } else {
        Box::new(Lines)
    }
}

/// Every event as the log has it.
struct Everything;

impl Observer for Everything {
    fn hear(&self, event: &Event<'_>) {
        if let Event::TestBegins {
            number,
            of,
            key,
            remaining,
        } = event
        {
            note(&beginning(*number, *of, key, *remaining));
        } else if let Some(line) = event.line() {
            note(&line);
        }
    }
}

/// One line for each test that begins, and one for what went wrong.
struct Lines;

impl Observer for Lines {
    fn hear(&self, event: &Event<'_>) {
        match event {
            Event::TestBegins {
                number,
                of,
                key,
                remaining,
            } => note(&beginning(*number, *of, key, *remaining)),
            Event::TestEnds(test) => {
                if let Some(line) = trouble(test) {
                    note(&line);
                }
            }
            Event::NotWritten(_) | Event::Interrupted => note(&event.line().unwrap_or_default()),
            Event::Progress(..) => {}
        }
    }
}

struct Bar {
    bar: ProgressBar,
}

impl Observer for Bar {
    fn hear(&self, event: &Event<'_>) {
        match event {
            Event::TestBegins {
                number,
                of,
                key,
                remaining,
            } => {
                self.bar.set_message(beginning(*number, *of, key, *remaining));
                self.bar.set_prefix(beginning(*number, *of, key, *remaining));
            }
            Event::Progress(_, Progress::Phase(phase)) => {
                self.bar.set_message(format!("{}: {phase}", self.bar.prefix()));
            }
            Event::Progress(_, Progress::Request(_)) => {}
            Event::TestEnds(test) => {
                if let Some(line) = trouble(test) {
                    self.bar.suspend(|| note(&line));
                }
            }
            Event::NotWritten(_) | Event::Interrupted => {
                self.bar.suspend(|| note(&event.line().unwrap_or_default()));
            }
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// `3 of 20: SmolLM2, simple-generation, GGUF (round 1); about 4 min left`.
fn beginning(number: usize, of: usize, key: &TestKey, remaining: Remaining) -> String {
    let minutes = remaining.seconds / 60.0;
    let left = match (remaining.unknown, minutes) {
        (_, 0.0) => String::new(),
        (0, ..1.0) => "; less than a minute left".to_owned(),
        (0, _) => format!("; about {minutes:.0} min left"),
        (_, ..1.0) => "; at least a minute left".to_owned(),
        (..) => format!("; at least {minutes:.0} min left"),
    };
    format!(
        "{number} of {of}: {}, {}, {} (round {}){left}",
        key.pair,
        key.scenario,
        key.format.title(),
        key.round + 1
    )
}

/// Why a test gave nothing; `None` where it did.
fn trouble(test: &TestRecord) -> Option<String> {
    let (pair, scenario, format) = (&test.key.pair, &test.key.scenario, test.key.format.title());
    match &test.outcome {
        Outcome::Completed | Outcome::Interrupted => None,
        Outcome::Skipped { reason } => Some(format!("  skipped {scenario} with {format}: {reason}")),
        Outcome::Failed { failure } => Some(match &failure.hint {
            Some(hint) => format!("  failed {scenario} of {pair} with {format}: {failure}\n  hint: {hint}"),
            None => format!("  failed {scenario} of {pair} with {format}: {failure}"),
        }),
    }
}
