use std::fmt;

use super::FixCommand;
use super::wording::shortest;
use crate::evidence::{FineTuneKind, RunSettings};
use crate::shell_word::quoted;

/// The command that repeats a run with some settings changed.
#[derive(Debug, Clone)]
pub struct Rerun(RunSettings);

impl Rerun {
    /// Repeats the run as it was.
    pub fn of(settings: &RunSettings) -> Self {
        Self(settings.clone())
    }

    /// With adapters, or with all weights trained.
    #[must_use]
    pub fn fine_tune(self, fine_tune: FineTuneKind) -> Self {
        self.trained_with(|settings| settings.fine_tune = fine_tune)
    }

    /// With another learning rate.
    #[must_use]
    pub fn learning_rate(self, learning_rate: f64) -> Self {
        self.trained_with(|settings| settings.learning_rate = learning_rate)
    }

    /// With another number of steps over which the learning rate rises.
    #[must_use]
    pub fn warmup_steps(self, steps: usize) -> Self {
        self.trained_with(|settings| settings.warmup_steps = steps)
    }

    /// With another limit on the norm of gradients, or none.
    #[must_use]
    pub fn clip_norm(self, norm: Option<f64>) -> Self {
        self.trained_with(|settings| settings.clip_norm = norm)
    }

    /// With moments that are corrected for their start at zero, or not.
    #[must_use]
    pub fn bias_correction(self, bias_correction: bool) -> Self {
        self.trained_with(|settings| settings.bias_correction = bias_correction)
    }

    /// With another number of steps.
    #[must_use]
    pub fn steps(self, steps: usize) -> Self {
        self.trained_with(|settings| settings.steps = steps)
    }

    /// With another number of rows per step.
    #[must_use]
    pub fn batch_size(self, rows: usize) -> Self {
        self.trained_with(|settings| settings.batch_size = rows)
    }

    /// With another rank of the adapters.
    #[must_use]
    pub fn rank(self, rank: usize) -> Self {
        self.trained_with(|settings| settings.rank = rank)
    }

    /// With another factor on the adapters' output.
    #[must_use]
    pub fn scale(self, scale: f64) -> Self {
        self.trained_with(|settings| settings.scale = scale)
    }

    /// With adapters on the last `layers` blocks, or on all.
    #[must_use]
    pub fn layers(self, layers: Option<usize>) -> Self {
        self.trained_with(|settings| settings.layers = layers)
    }

    /// With prompts that carry a loss, or none.
    #[must_use]
    pub fn mask_prompt(self, mask_prompt: bool) -> Self {
        self.trained_with(|settings| settings.mask_prompt = mask_prompt)
    }

    /// With another length limit, in tokens.
    #[must_use]
    pub fn max_sequence_length(self, tokens: usize) -> Self {
        self.trained_with(|settings| settings.max_sequence_length = tokens)
    }

    /// Computed in another element type, for example `bfloat16`, or in the program's choice.
    #[must_use]
    pub fn dtype(mut self, dtype: Option<&str>) -> Self {
        self.0.dtype = dtype.map(str::to_owned);
        self
    }

    /// On another backend, for example `cpu`, or on the program's choice.
    #[must_use]
    pub fn backend(mut self, backend: Option<&str>) -> Self {
        self.0.backend = backend.map(str::to_owned);
        self
    }

    /// With one setting of the training changed; a finished adapter cannot take it on, so one is trained.
    fn trained_with(mut self, change: impl FnOnce(&mut RunSettings)) -> Self {
        if self.0.adapter.take().is_some() {
            self.0.log = None;
            // Nothing would be trained.
            self.0.check_only = false;
        }
        change(&mut self.0);
        self
    }
}

impl From<Rerun> for FixCommand {
    fn from(rerun: Rerun) -> Self {
        Self {
            text: rerun.to_string(),
            settings: Some(rerun.0),
        }
    }
}

impl fmt::Display for Rerun {
    /// Every setting that is not the default, in the order of `diagnose --help`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let default = RunSettings::default();
        // Every field is named, so that a new one cannot be forgotten here.
        let RunSettings {
            model,
            data,
            adapter,
            trained,
            trainer,
            generator,
            log,
            prompts,
            dtype,
            backend,
            cross_check,
            keep_packed,
            check_only,
            fine_tune,
            steps,
            batch_size,
            learning_rate,
            bias_correction,
            warmup_steps,
            clip_norm,
            rank,
            scale,
            dropout,
            layers,
            keys,
            mask_prompt,
            max_sequence_length,
            max_tokens,
            seed,
        } = &self.0;
        let mut command = Command("diagnose".to_owned());
        command.text("--model", (*model != default.model).then_some(model.as_str()));
        command.text("--data", (*data != default.data).then_some(data.as_str()));
        command.text("--adapter", adapter.as_deref());
        command.text("--trained", trained.as_deref());
        command.text("--trainer", trainer.as_deref());
        command.text("--generator", generator.as_deref());
        command.text("--log", log.as_deref());
        command.text("--prompts", prompts.as_deref());
        command.count("--max-tokens", *max_tokens, default.max_tokens);
        // A finished adapter brings the rest of its training along.
        let is_finished = self.0.is_finished();
        if !is_finished {
            command.count("--steps", *steps, default.steps);
            command.count("--batch-size", *batch_size, default.batch_size);
            command.number("--learning-rate", *learning_rate, default.learning_rate);
        }
        // Another trainer is not told of these.
        if !is_finished && trainer.is_none() {
            command.count("--warmup-steps", *warmup_steps, default.warmup_steps);
            command.text("--clip-norm", clip_norm.map(shortest).as_deref());
            command.switch("--bias-correction", *bias_correction);
        }
        match fine_tune {
            _ if is_finished => {}
            FineTuneKind::Full => command.switch("--full", true),
            FineTuneKind::Lora => {
                command.count("--rank", *rank, default.rank);
                command.number("--scale", *scale, default.scale);
                command.number("--dropout", *dropout, default.dropout);
                command.text("--layers", layers.map(|layers| layers.to_string()).as_deref());
                command.text("--keys", (!keys.is_empty()).then(|| keys.join(",")).as_deref());
            }
        }
        command.switch("--no-mask-prompt", !mask_prompt);
        command.count("--max-seq-length", *max_sequence_length, default.max_sequence_length);
        command.text("--seed", (*seed != default.seed).then(|| seed.to_string()).as_deref());
        command.text("--dtype", dtype.as_deref());
        command.text("--backend", backend.as_deref());
        command.text("--cross-check", cross_check.as_deref());
        command.switch("--keep-packed", *keep_packed);
        command.switch("--check-only", *check_only);
        formatter.write_str(&command.0)
    }
}

/// A command line that grows option by option.
struct Command(String);

impl Command {
    fn text(&mut self, option: &str, value: Option<&str>) {
        let Some(value) = value else {
            return;
        };
        // Behind a space a leading dash would begin another option.
        let separator = if value.starts_with('-') { "=" } else { " " };
        for part in [" ", option, separator, &quoted(value)] {
            self.0.push_str(part);
        }
    }

    fn count(&mut self, option: &str, value: usize, default: usize) {
        if value != default {
            self.text(option, Some(&value.to_string()));
        }
    }

    #[expect(clippy::float_cmp, reason = "a default is the same number or it is not the default")]
    fn number(&mut self, option: &str, value: f64, default: f64) {
        if value != default {
            self.text(option, Some(&shortest(value)));
        }
    }

    fn switch(&mut self, option: &str, on: bool) {
        if on {
            self.0.push(' ');
            self.0.push_str(option);
        }
    }
}
