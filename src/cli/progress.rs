use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::output::{is_dumb_terminal, note};
use crate::diagnosis::Progress;
use crate::rules::Phase;

/// Redraws of a spinner per second.
const SPINNER_INTERVAL: Duration = Duration::from_millis(120);

/// Progress on standard error: a moving line on a terminal, one plain line per phase elsewhere.
pub fn progress() -> Box<dyn Progress> {
    if std::io::stderr().is_terminal() && !is_dumb_terminal() {
        Box::new(Bar {
            bar: ProgressBar::hidden(),
        })
    } else {
        Box::new(Lines { title: None })
    }
}

/// Progress of work that is counted: a moving line on a terminal, elsewhere a plain line after every `per_line` units.
///
/// It hears how many are done, of how many, and which one comes next.
pub fn counted_progress(units: &'static str, per_line: usize) -> impl FnMut(usize, usize, &str) {
    let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {eta} {wide_msg}");
    let shows_bar = std::io::stderr().is_terminal() && !is_dumb_terminal();
    let bar =
        shows_bar.then(|| ProgressBar::no_length().with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())));
    move |done, planned, name| match &bar {
        None if done % per_line == 0 || done == planned => note(&format!("{done} of {planned} {units}: {name}")),
        None => {}
        Some(bar) => {
            bar.set_length(planned as u64);
            bar.set_position(done as u64);
            bar.set_message(name.to_owned());
            if done == planned {
                bar.finish_and_clear();
            }
        }
    }
}

fn title(phase: Phase) -> String {
    let number = Phase::ALL
        .iter()
        .position(|known| *known == phase)
        .map_or(0, |index| index + 1);
    format!("phase {number} of {}: {}", Phase::ALL.len(), phase.name())
}

fn beside(work: &str) -> String {
    format!("two by two: {work}")
}

struct Bar {
    bar: ProgressBar,
}

impl Bar {
    fn begin(&mut self, title: String, units: Option<usize>) {
        if !self.bar.is_finished() {
            self.bar.finish_and_clear();
        }
        let template = match units {
            Some(_) => "{prefix:<24} [{bar:24}] {pos}/{len} {wide_msg}",
            None => "{prefix:<24} {spinner} {wide_msg}",
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bar = match units {
            Some(units) => ProgressBar::new(units as u64),
            None => ProgressBar::new_spinner(),
        }
        .with_style(style.progress_chars("=> "))
        .with_prefix(title);
        self.bar.enable_steady_tick(SPINNER_INTERVAL);
    }
}

impl Progress for Bar {
    fn phase(&mut self, phase: Phase, units: Option<usize>) {
        self.begin(title(phase), units);
    }

    fn beside(&mut self, work: &str, units: Option<usize>) {
        self.begin(beside(work), units);
    }

    fn advance(&mut self, done: usize, message: &str) {
        self.bar.set_message(message.to_owned());
        self.bar.set_position(done as u64);
    }

    /// The line stays, with as many units as were done.
    fn finish(&mut self, message: &str) {
        self.bar.abandon_with_message(message.to_owned());
    }
}

struct Lines {
    title: Option<String>,
}

impl Progress for Lines {
    fn phase(&mut self, phase: Phase, _units: Option<usize>) {
        self.title = Some(title(phase));
    }

    fn beside(&mut self, work: &str, _units: Option<usize>) {
        self.title = Some(beside(work));
    }

    fn advance(&mut self, _done: usize, _message: &str) {}

    fn finish(&mut self, message: &str) {
        if let Some(title) = self.title.take() {
            note(&format!("{title}: {message}"));
        }
    }
}
