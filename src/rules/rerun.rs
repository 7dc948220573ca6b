use super::FixCommand;
use super::wording::shortest;
use crate::evidence::{FineTuneKind, RunSettings};
use std::fmt;

/// What the settings call a model or data set that the program carries itself.
const EMBEDDED: &str = "embedded";

/// The command that repeats a run with some settings changed.
#[derive(Debug, Clone)]
pub struct Rerun(RunSettings);

impl Rerun {
    /// Repeats the run as it was.
    pub fn of(settings: &RunSettings) -> Self {
        Self(settings.clone())
    }

    /// With another learning rate.
    #[must_use]
    pub fn learning_rate(mut self, learning_rate: f64) -> Self {
        self.0.learning_rate = learning_rate;
        self
    }

    /// With another scale of the adapters.
    #[must_use]
    pub fn scale(mut self, scale: f64) -> Self {
        self.0.scale = scale;
        self
    }

    /// With another number of steps.
    #[must_use]
    pub fn steps(mut self, steps: usize) -> Self {
        self.0.steps = steps;
        self
    }

    /// With another number of rows per step.
    #[must_use]
    pub fn batch_size(mut self, rows: usize) -> Self {
        self.0.batch_size = rows;
        self
    }

    /// With prompts that carry a loss, or none.
    #[must_use]
    pub fn mask_prompt(mut self, mask_prompt: bool) -> Self {
        self.0.mask_prompt = mask_prompt;
        self
    }

    /// With another length limit, in tokens.
    #[must_use]
    pub fn max_sequence_length(mut self, tokens: usize) -> Self {
        self.0.max_sequence_length = tokens;
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
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.0;
        formatter.write_str("diagnose")?;
        for (option, value) in [("--model", &settings.model), ("--data", &settings.data)] {
            if value != EMBEDDED {
                write!(formatter, " {option} {}", quoted(value))?;
            }
        }
        write!(
            formatter,
            " --steps {} --batch-size {} --learning-rate {}",
            settings.steps,
            settings.batch_size,
            shortest(settings.learning_rate)
        )?;
        if settings.fine_tune == FineTuneKind::Lora {
            write!(
                formatter,
                " --rank {} --scale {}",
                settings.rank,
                shortest(settings.scale)
            )?;
            if let Some(layers) = settings.layers {
                write!(formatter, " --layers {layers}")?;
            }
        }
        write!(
            formatter,
            " --max-seq-length {} --seed {}",
            settings.max_sequence_length, settings.seed
        )
    }
}

/// The argument as a POSIX shell reads it back.
fn quoted(argument: &str) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "/._-+=:,@%".contains(character);
    if !argument.is_empty() && argument.chars().all(is_plain) {
        argument.to_owned()
    } else {
        format!("'{}'", argument.replace('\'', r"'\''"))
    }
}
