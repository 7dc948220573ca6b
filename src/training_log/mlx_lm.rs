//! The lines that mlx-lm prints, in both of its forms.
//!
//! From 0.32 on they are a table, `  10    0.537 ▼      159      1.2k` and `  10    val 1.135    0.37s`; before, sentences,
//! `Iter 10: Train loss 2.103, Learning Rate 1.000e-05, It/sec 0.5, ...` and `Iter 1: Val loss 4.411, Val took 0.5s`.

use console::strip_ansi_codes;

use crate::counts::LARGEST_COUNT;
use crate::evidence::{LogEntry, LoggedNumber};

/// What stands behind a training loss in the table: whether it fell or rose.
const ARROWS: [&str; 2] = ["▼", "▲"];

/// Every line that reports a loss.
pub(super) fn entries(text: &str) -> Vec<LogEntry> {
    let plain = strip_ansi_codes(text);
    // A progress bar is drawn over itself with carriage returns.
    plain
        .split(['\n', '\r'])
        .filter_map(|line| in_table(line).or_else(|| in_sentence(line)))
        .collect()
}

fn in_table(line: &str) -> Option<LogEntry> {
    let mut words = line.split_whitespace();
    let step = count(&words.next()?.replace(',', ""))?;
    let (first, second) = (words.next()?, words.next()?);
    if first == "val" {
        return Some(validation(step, number(second)?));
    }
    ARROWS.contains(&second).then(|| training(step, number(first), None))
}

fn in_sentence(line: &str) -> Option<LogEntry> {
    let (_, report) = line.split_once("Iter ")?;
    let (step, report) = report.split_once(": ")?;
    let step = count(step)?;
    let value = |name: &str| {
        let (_, rest) = report.split_once(name)?;
        number(rest.split([',', ' ']).next()?)
    };
    if let Some(loss) = value("Val loss ") {
        return Some(validation(step, loss));
    }
    let rate = value("Learning Rate ").and_then(LoggedNumber::finite);
    Some(training(step, Some(value("Train loss ")?), rate))
}

fn training(step: usize, loss: Option<LoggedNumber>, learning_rate: Option<f64>) -> LogEntry {
    LogEntry {
        step,
        loss,
        validation_loss: None,
        gradient_norm: None,
        learning_rate,
    }
}

fn validation(step: usize, loss: LoggedNumber) -> LogEntry {
    LogEntry {
        validation_loss: Some(loss),
        ..training(step, None, None)
    }
}

/// A step, which no run has too many of to be counted.
fn count(text: &str) -> Option<usize> {
    let count: u64 = text.parse().ok()?;
    (count <= LARGEST_COUNT).then_some(count as usize)
}

fn number(text: &str) -> Option<LoggedNumber> {
    text.parse::<f64>().ok().map(LoggedNumber::from)
}
