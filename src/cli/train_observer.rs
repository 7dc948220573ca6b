use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

use super::output::{note, without_controls};
use crate::as_written::as_written;
use crate::data::Example;
use crate::evidence::StepRecord;
use crate::fine_tuning::{
    Configuration, FineTuneSettings, Method, MetricsLine, Observer, Plan, Progress, RunEnd, RunFolder, RunLength,
    RunSummary, ValidationRecord,
};
use crate::rules::wording::{bytes, counted, grouped, shortest};

/// Width of the column of labels.
const LABEL: usize = 13;
/// Seconds of a minute and an hour.
const MINUTE: f64 = 60.0;
const HOUR: f64 = 3600.0;
const DAY: f64 = 24.0 * HOUR;
/// Above it, hours are counted in days.
const LONGEST_IN_HOURS: f64 = 2.0 * DAY;

/// A line with a label.
fn entry(text: &mut String, label: &str, value: &str) {
    let value = without_controls(value.to_owned());
    let _ = writeln!(text, "  {label:LABEL$}{value}");
}

/// Every setting as it will be used, and where those stand that somebody gave.
pub fn effective(settings: &FineTuneSettings, given: &Configuration) -> String {
    let mut text = "Settings\n".to_owned();
    list(&mut text, "", &settings.to_json(), given);
    text
}

fn list(text: &mut String, above: &str, table: &Value, given: &Configuration) {
    const KEY: usize = 40;
    const VALUE: usize = 26;
    for (key, value) in table.as_object().into_iter().flatten() {
        let key = format!("{above}{key}");
        if value.is_object() {
            list(text, &format!("{key}."), value, given);
            continue;
        }
        let shown = match value {
            Value::String(words) => words.clone(),
            other => other.to_string(),
        };
        let origin = given
            .get(&key)
            .map_or("default".to_owned(), |entry| entry.origin.to_string());
        let _ = writeln!(text, "  {key:KEY$}  {shown:VALUE$}  {origin}");
    }
}

/// What is about to happen, in so many processes.
pub fn opening(plan: &Plan, processes: usize) -> String {
    let settings = &plan.settings;
    let mut text = "Training\n".to_owned();
    let configuration = &plan.loaded.configuration;
    entry(
        &mut text,
        "model",
        &format!(
            "{}: {}, {} layers",
            settings.model,
            configuration.architecture.model_type(),
            configuration.num_hidden_layers
        ),
    );
    entry(&mut text, "data", &data(plan));
    let what = match settings.method {
        Method::Full => "all weights".to_owned(),
        Method::Lora | Method::Dora => format!(
            "{} rank {}, scale {}",
            if settings.method == Method::Dora {
                "DoRA"
            } else {
                "LoRA"
            },
            settings.lora.rank,
            shortest(as_written(settings.lora.scale))
        ),
    };
    entry(
        &mut text,
        "trained",
        &format!("{what}: {} values", grouped(plan.trainable_values)),
    );
    entry(&mut text, "run", &run(plan));
    if processes > 1 {
        entry(
            &mut text,
            "processes",
            &format!("{processes}, which share the rows of each batch"),
        );
    }
    entry(
        &mut text,
        "device",
        &format!("{}, {}", plan.environment.device, plan.environment.dtype),
    );
    if let Some(memory) = &plan.memory {
        entry(
            &mut text,
            "memory",
            &format!("{} at the peak, by prediction", bytes(memory.asked.peak())),
        );
    }
    entry(&mut text, "folder", &settings.output.display().to_string());
    for line in &plan.notes {
        entry(&mut text, "note", line);
    }
    text
}

fn data(plan: &Plan) -> String {
    let examples = &plan.train.examples;
    let tokens: usize = examples.iter().map(|row| row.tokens.len()).sum();
    let supervised: usize = examples.iter().map(Example::supervised_tokens).sum();
    let held_out = plan.validation.as_ref().map_or_else(
        || "none held out".to_owned(),
        |rows| format!("{} held out", rows.examples.len()),
    );
    let cut = examples.iter().filter(|row| row.truncated).count();
    let cut = if cut == 0 {
        String::new()
    } else {
        format!(", {} cut", counted(cut, "row"))
    };
    format!(
        "{} ({}) and {held_out}; {} tokens, {} to learn{cut}",
        counted(examples.len(), "row"),
        plan.train.format.name(),
        grouped(tokens as u64),
        grouped(supervised as u64)
    )
}

fn run(plan: &Plan) -> String {
    let settings = &plan.settings;
    let rows = settings.batch_size * settings.accumulation;
    let length = match settings.length {
        RunLength::Epochs(epochs) => format!("{} epochs", shortest(epochs)),
        RunLength::Batches(1) => "1 batch".to_owned(),
        RunLength::Batches(batches) => format!("{} batches", grouped(batches as u64)),
    };
    let warmup = match settings.schedule.warmup_of(plan.updates) {
        0 => String::new(),
        steps => format!(", {steps} of warm-up"),
    };
    format!(
        "{} of {}, {length}; {}, learning rate {}{warmup}",
        counted(plan.updates, "update"),
        counted(rows, "row"),
        settings.optimizer.name(),
        shortest(settings.learning_rate)
    )
}

/// Plain lines on standard error.
pub struct Lines {
    every: usize,
    /// Losses, tokens and seconds since the last line.
    losses: Vec<f64>,
    tokens: usize,
    seconds: f64,
}

impl Lines {
    /// A line every so many updates.
    pub fn new(every: usize) -> Self {
        Self {
            every,
            losses: Vec::new(),
            tokens: 0,
            seconds: 0.0,
        }
    }
}

impl Observer for Lines {
    fn updated(&mut self, step: &StepRecord, progress: &Progress, plan: &Plan) {
        self.losses.extend(step.loss);
        self.tokens += step.tokens;
        self.seconds += step.seconds;
        if !step.step.is_multiple_of(self.every) && step.step != plan.updates {
            return;
        }
        let loss = self.losses.iter().sum::<f64>() / self.losses.len().max(1) as f64;
        let rate = self.tokens as f64 / self.seconds;
        let left = (plan.updates - step.step) as f64 * progress.seconds / step.step as f64;
        let memory = step
            .active_memory
            .map_or_else(String::new, |held| format!("  {} held", bytes(held)));
        note(&format!(
            "update {:>width$} of {}  loss {loss:.4}  learning rate {:.2e}  {} tokens/s{memory}  {} left",
            step.step,
            plan.updates,
            step.learning_rate,
            grouped(rate as u64),
            time(left),
            width = plan.updates.to_string().len()
        ));
        (self.losses, self.tokens, self.seconds) = (Vec::new(), 0, 0.0);
    }

    fn validated(&mut self, record: &ValidationRecord, is_best: bool) {
        let best = if is_best { ", the best so far" } else { "" };
        note(&format!(
            "held-out rows after {}: loss {:.4}{best}",
            counted(record.update, "update"),
            record.loss
        ));
    }

    fn saved(&mut self, checkpoint: &Path) {
        note(&format!("checkpoint: {}", checkpoint.display()));
    }

    fn note(&mut self, text: &str) {
        note(&format!("note: {text}"));
    }
}

/// Prints nothing, where another process prints.
pub struct Quiet;

impl Observer for Quiet {
    fn updated(&mut self, _: &StepRecord, _: &Progress, _: &Plan) {}
    fn validated(&mut self, _: &ValidationRecord, _: bool) {}
    fn saved(&mut self, _: &Path) {}
    fn note(&mut self, _: &str) {}
}

/// What the run came to.
pub fn summary(plan: &Plan, folder: &RunFolder, ended: &RunSummary) -> String {
    let progress = &ended.progress;
    let mut text = match &ended.end {
        _ if ended.peak_memory.is_none() => {
            "nothing is left to train: the result of the finished run was written again".to_owned()
        }
        RunEnd::Completed => "trained".to_owned(),
        RunEnd::StoppedEarly => "trained: ended early, since held-out rows got no better".to_owned(),
        RunEnd::Interrupted => format!(
            "interrupted after {} of {} updates; go on with `diagnose train resume {}`",
            progress.update,
            plan.updates,
            folder.path().display()
        ),
        RunEnd::Diagnosed(_) | RunEnd::EndedByFirst => {
            format!("stopped after {} updates: the run cannot become good", progress.update)
        }
    };
    text.push('\n');
    let rate = progress.tokens as f64 / progress.seconds.max(f64::MIN_POSITIVE);
    let peak = ended
        .peak_memory
        .map_or_else(String::new, |peak| format!(", {} at the peak", bytes(peak)));
    entry(
        &mut text,
        "updates",
        &format!(
            "{}, {} tokens in {} ({} tokens/s){peak}",
            progress.update,
            grouped(progress.tokens),
            time(progress.seconds),
            grouped(rate as u64),
        ),
    );
    let losses: Vec<f64> = ended.metrics.iter().filter_map(training_loss).collect();
    if let [first, .., last] = losses.as_slice() {
        entry(&mut text, "loss", &format!("{first:.4} at first, {last:.4} at last"));
    }
    let held_out: Vec<&ValidationRecord> = ended.metrics.iter().filter_map(validation).collect();
    if let ([first, .., last], Some((update, best))) = (held_out.as_slice(), progress.best) {
        // The first figures may be lost.
        let before = match first.update {
            0 => format!("{:.4} before", first.loss),
            update => format!("{:.4} after {}", first.loss, counted(update, "update")),
        };
        let best = format!("best {best:.4} after {}", counted(update, "update"));
        entry(
            &mut text,
            "held out",
            &format!("{before}, {:.4} at the end; {best}", last.loss),
        );
    }
    let result = ended.result.display();
    match plan.settings.method {
        Method::Lora | Method::Dora => entry(&mut text, "adapter", &format!("{result} (mlx-lm's format)")),
        Method::Full => entry(&mut text, "model", &result.to_string()),
    }
    if folder.loss_plot().is_file() {
        entry(&mut text, "curves", &folder.loss_plot().display().to_string());
    }
    match ended.end {
        RunEnd::Diagnosed(_) => entry(&mut text, "report", &folder.diagnosis().display().to_string()),
        RunEnd::Completed | RunEnd::StoppedEarly | RunEnd::Interrupted | RunEnd::EndedByFirst => entry(
            &mut text,
            "ask it",
            &format!("diagnose generate {}", folder.path().display()),
        ),
    }
    text
}

fn training_loss(line: &MetricsLine) -> Option<f64> {
    match line {
        MetricsLine::Update(step) => step.loss,
        MetricsLine::Validation(_) | MetricsLine::Ranks(_) => None,
    }
}

fn validation(line: &MetricsLine) -> Option<&ValidationRecord> {
    match line {
        MetricsLine::Update(_) | MetricsLine::Ranks(_) => None,
        MetricsLine::Validation(record) => Some(record),
    }
}

fn time(seconds: f64) -> String {
    if seconds >= LONGEST_IN_HOURS {
        format!("{} days", grouped((seconds / DAY).round() as u64))
    } else if seconds >= HOUR {
        format!("{:.1} h", seconds / HOUR)
    } else if seconds >= MINUTE {
        format!("{:.0} min {:02.0} s", (seconds / MINUTE).floor(), seconds % MINUTE)
    } else {
        format!("{seconds:.0} s")
    }
}
