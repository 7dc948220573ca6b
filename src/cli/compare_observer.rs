//! What a comparison says on standard error while it runs.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::output::{is_dumb_terminal, note, without_controls};
use crate::compare::Outcome;
use crate::compare::run::{Event, Observer};
use crate::compare::scenarios::Progress;

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

/// Every event as the log has it, except that a test begins with how much is left.
struct Everything;

impl Observer for Everything {
    fn hear(&self, event: &Event<'_>) {
        if let Some(line) = beginning(event).or_else(|| event.line()) {
            note(&without_controls(line));
        }
    }
}

/// One line for each test that begins, and one for what went wrong.
struct Lines;

impl Observer for Lines {
    fn hear(&self, event: &Event<'_>) {
        if let Some(line) = beginning(event).or_else(|| trouble(event)) {
            note(&without_controls(line));
        }
    }
}

struct Bar {
    bar: ProgressBar,
}

impl Observer for Bar {
    fn hear(&self, event: &Event<'_>) {
        if let Some(line) = beginning(event).map(without_controls) {
            self.bar.set_prefix(line.clone());
            self.bar.set_message(line);
        } else if let Event::Progress(_, Progress::Phase(phase)) = event {
            self.bar.set_message(format!("{}: {phase}", self.bar.prefix()));
        } else if let Some(line) = trouble(event) {
            self.bar.suspend(|| note(&without_controls(line)));
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// `3 of 20: SmolLM2, simple-generation, GGUF (round 1); about 4 min left`; `None` where no test begins.
fn beginning(event: &Event<'_>) -> Option<String> {
    let Event::TestBegins {
        key,
        number,
        of,
        remaining,
    } = event
    else {
        return None;
    };
    let minutes = remaining.seconds / 60.0;
    let left = match (remaining.unknown, minutes) {
        (_, 0.0) => String::new(),
        (0, ..1.0) => "; less than a minute left".to_owned(),
        (0, _) => format!("; about {minutes:.0} min left"),
        (_, ..1.0) => "; at least a minute left".to_owned(),
        (..) => format!("; at least {minutes:.0} min left"),
    };
    Some(format!(
        "{number} of {of}: {}, {}, {} (round {}){left}",
        key.pair,
        key.scenario,
        key.format.title(),
        key.round + 1
    ))
}

/// What the user has to know without asking: why a test gave nothing, or why the run ends; `None` where all is well.
fn trouble(event: &Event<'_>) -> Option<String> {
    let test = match event {
        Event::TestEnds(test) => test,
        Event::NotWritten(_) | Event::Interrupted => return event.line(),
        Event::TestBegins { .. } | Event::Progress(..) => return None,
    };
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
