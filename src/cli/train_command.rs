//! The command that began a run, with what a fix changes.

use std::path::Path;

use crate::evidence::{FineTuneKind, RunSettings};
use crate::rules::wording::shortest;
use crate::shell_word::quoted;

/// One option of the command: the names that it takes the place of, and its value; without one it is left out.
struct Change {
    names: &'static [&'static str],
    value: Option<String>,
}

/// A command line of `diagnose train start`, as it was typed.
pub struct StartCommand {
    words: Vec<String>,
}

impl StartCommand {
    /// The command line of this process; `None` unless it began a run by `train start`.
    pub fn typed() -> Option<Self> {
        Self::of(std::env::args().skip(1).collect())
    }

    fn of(words: Vec<String>) -> Option<Self> {
        matches!(words.as_slice(), [train, start, ..] if train == "train" && start == "start").then_some(Self { words })
    }

    /// The command with `fixed` in the place of the `given` settings, and another folder where `used` has something in it.
    ///
    /// `None` where something is changed that no option says.
    pub fn with(&self, given: &RunSettings, fixed: &RunSettings, used: Option<&Path>) -> Option<String> {
        let mut changes = changes(given, fixed)?;
        if let Some(used) = used {
            changes.push(Change {
                names: &["--out"],
                value: Some(format!("{}-again", used.display())),
            });
        }
        let mut words = self.words.clone();
        for change in &changes {
            for name in change.names {
                take_out(&mut words, name);
            }
            if let Some(value) = &change.value {
                words.extend([change.names[0].to_owned(), value.clone()]);
            }
        }
        let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
        Some(format!("diagnose {}", words.join(" ")))
    }
}

/// What differs, as options; `None` where something else differs too.
fn changes(given: &RunSettings, fixed: &RunSettings) -> Option<Vec<Change>> {
    let mut changes = Vec::new();
    let mut change = |differs: bool, names: &'static [&'static str], value: Option<String>| {
        if differs {
            changes.push(Change { names, value });
        }
    };
    let mut expressed = given.clone();
    change(
        given.learning_rate != fixed.learning_rate,
        &["--learning-rate"],
        Some(shortest(fixed.learning_rate)),
    );
    expressed.learning_rate = fixed.learning_rate;
    change(
        given.warmup_steps != fixed.warmup_steps,
        &["--warmup-steps"],
        Some(fixed.warmup_steps.to_string()),
    );
    expressed.warmup_steps = fixed.warmup_steps;
    change(
        given.clip_norm != fixed.clip_norm,
        &["--clip-norm"],
        fixed.clip_norm.map(shortest),
    );
    expressed.clip_norm = fixed.clip_norm;
    change(
        given.batch_size != fixed.batch_size,
        &["--batch-size"],
        Some(fixed.batch_size.to_string()),
    );
    expressed.batch_size = fixed.batch_size;
    change(
        given.steps != fixed.steps,
        &["--iters", "--epochs", "--grad-accumulation-steps"],
        Some(fixed.steps.to_string()),
    );
    expressed.steps = fixed.steps;
    change(given.rank != fixed.rank, &["--lora-rank"], Some(fixed.rank.to_string()));
    expressed.rank = fixed.rank;
    change(
        given.scale != fixed.scale,
        &["--lora-scale", "--lora-alpha"],
        Some(shortest(fixed.scale)),
    );
    expressed.scale = fixed.scale;
    change(
        given.layers != fixed.layers,
        &["--num-layers"],
        Some(fixed.layers.map_or("-1".to_owned(), |layers| layers.to_string())),
    );
    expressed.layers = fixed.layers;
    change(
        given.max_sequence_length != fixed.max_sequence_length,
        &["--max-seq-length"],
        Some(fixed.max_sequence_length.to_string()),
    );
    expressed.max_sequence_length = fixed.max_sequence_length;
    change(given.dtype != fixed.dtype, &["--dtype"], fixed.dtype.clone());
    expressed.dtype.clone_from(&fixed.dtype);
    change(given.backend != fixed.backend, &["--backend"], fixed.backend.clone());
    expressed.backend.clone_from(&fixed.backend);
    let kind = match fixed.fine_tune {
        FineTuneKind::Lora => "lora",
        FineTuneKind::Full => "full",
    };
    change(
        given.fine_tune != fixed.fine_tune,
        &["--fine-tune-type"],
        Some(kind.to_owned()),
    );
    expressed.fine_tune = fixed.fine_tune;
    // Whether only the inputs are judged is the diagnosis' own affair.
    expressed.check_only = fixed.check_only;
    (expressed == *fixed).then_some(changes)
}

/// Removes an option and its value, however they are joined.
fn take_out(words: &mut Vec<String>, name: &str) {
    let joined = format!("{name}=");
    while let Some(place) = words.iter().position(|word| word == name || word.starts_with(&joined)) {
        let last = if words[place] == name { place + 2 } else { place + 1 };
        words.drain(place..last.min(words.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::StartCommand;
    use crate::evidence::RunSettings;

    fn command(typed: &str) -> StartCommand {
        StartCommand::of(typed.split(' ').map(str::to_owned).collect()).unwrap()
    }

    #[test]
    fn what_a_fix_changes_takes_the_place_of_what_was_typed() {
        let given = RunSettings::default();
        let fixed = RunSettings {
            learning_rate: 1e-5,
            clip_norm: Some(1.0),
            ..given.clone()
        };
        let typed = command("train start m d --learning-rate=0.5 --profile chat --out o");
        assert_eq!(
            typed.with(&given, &fixed, Some("o".as_ref())).unwrap(),
            "diagnose train start m d --profile chat --learning-rate 1e-5 --clip-norm 1 --out o-again"
        );
    }

    #[test]
    fn what_no_option_says_has_no_command() {
        let given = RunSettings::default();
        let fixed = RunSettings {
            bias_correction: true,
            ..given.clone()
        };
        assert_eq!(command("train start m d").with(&given, &fixed, None), None);
        assert!(StartCommand::of(vec!["train".to_owned(), "resume".to_owned()]).is_none());
    }
}
