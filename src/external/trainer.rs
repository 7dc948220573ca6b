use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::mlx_lm_command::mlx_lm;
use super::{Template, TemplateError};

/// Everything that a placeholder in a trainer's command can stand for.
const PLACEHOLDERS: [&str; 13] = [
    "batch_size",
    "data",
    "dropout",
    "layers",
    "learning_rate",
    "max_seq_length",
    "model",
    "output",
    "rank",
    "scale",
    "seed",
    "settings",
    "steps",
];

/// Files by which a folder is known to hold an adapter.
const ADAPTER_FILES: [&str; 3] = ["adapters.safetensors", "adapter_model.safetensors", "adapters.npz"];
/// The settings that mlx-lm takes from a file alone.
const SETTINGS_FILE: &str = "lora.yaml";
/// What Python's mlx-lm is asked with.
const MLX_LM: &str = "--train --model {model} --data {data} --adapter-path {output} --iters {steps} \
     --learning-rate {learning_rate} --batch-size {batch_size} --max-seq-length {max_seq_length} --seed {seed} \
     --num-layers {layers} --steps-per-report 1 --steps-per-eval {steps} --config {settings}";

/// transformers and PEFT, by the program beside the settings.
const PEFT: &str = "exec \"${MLX_DIAGNOSE_PYTHON:-python3}\" \"$(dirname {settings})/peft_trainer.py\" --model {model} \
     --data {data} --output {output} --steps {steps} --learning-rate {learning_rate} --batch-size {batch_size} \
     --max-seq-length {max_seq_length} --layers {layers} --seed {seed} --settings {settings}";
/// That program.
const PEFT_TRAINER: &str = include_str!("peft_trainer.py");
/// What it is called beside the settings.
const PEFT_TRAINER_FILE: &str = "peft_trainer.py";

/// A trainer that is another program.
#[derive(Debug, Clone)]
pub struct ExternalTrainer {
    /// What the user called it: `mlx-lm`, `peft`, or the command.
    pub name: String,
    /// Longest time it may take.
    pub timeout: Duration,
}

/// What a trainer is asked to do.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// The base.
    pub model: PathBuf,
    /// A folder with `train.jsonl`.
    pub data: PathBuf,
    /// An empty folder for what it leaves.
    pub output: PathBuf,
    /// Optimizer steps.
    pub steps: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Rank of the adapters.
    pub rank: usize,
    /// Factor on the adapters' output.
    pub scale: f64,
    /// Dropout on the adapters' input.
    pub dropout: f64,
    /// Blocks adapted, counted from the last; `None` for all.
    pub layers: Option<usize>,
    /// Whether prompts carry no loss.
    pub mask_prompt: bool,
    /// Seed of everything random.
    pub seed: u64,
    /// Rows per step.
    pub batch_size: usize,
    /// Longest row in tokens.
    pub max_sequence_length: usize,
}

impl ExternalTrainer {
    /// The preset for Python's mlx-lm.
    pub const MLX_LM: &str = "mlx-lm";

    /// The preset for transformers with PEFT.
    pub const PEFT: &str = "peft";

    /// The command with its placeholders.
    pub fn template(&self) -> Template {
        Template(match self.name.as_str() {
            Self::MLX_LM => mlx_lm("lora", MLX_LM),
            Self::PEFT => PEFT.to_owned(),
            command => command.to_owned(),
        })
    }

    /// Writes what the command runs, as far as this program carries it, to the folder of the settings.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_program(&self, folder: &Path) -> std::io::Result<()> {
        if self.name == Self::PEFT {
            std::fs::write(folder.join(PEFT_TRAINER_FILE), PEFT_TRAINER)?;
        }
        Ok(())
    }

    /// Whether its command can be filled in.
    ///
    /// # Errors
    /// It names a placeholder that there is not.
    pub fn check(&self) -> Result<(), TemplateError> {
        self.template().check(&PLACEHOLDERS)
    }
}

impl Assignment {
    /// The values of all placeholders; `folder` takes a file with the settings that have no option.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn values(&self, folder: &Path) -> std::io::Result<BTreeMap<&'static str, String>> {
        let settings = folder.join(SETTINGS_FILE);
        // JSON is YAML.
        let text = json!({
            "lora_parameters": { "rank": self.rank, "scale": self.scale, "dropout": self.dropout },
            "mask_prompt": self.mask_prompt,
        });
        std::fs::write(&settings, text.to_string())?;
        let path = |path: &Path| path.display().to_string();
        Ok(BTreeMap::from([
            ("model", path(&self.model)),
            ("data", path(&self.data)),
            ("output", path(&self.output)),
            ("steps", self.steps.to_string()),
            ("learning_rate", self.learning_rate.to_string()),
            ("rank", self.rank.to_string()),
            ("scale", self.scale.to_string()),
            ("dropout", self.dropout.to_string()),
            (
                "layers",
                self.layers.map_or_else(|| "-1".to_owned(), |layers| layers.to_string()),
            ),
            ("seed", self.seed.to_string()),
            ("batch_size", self.batch_size.to_string()),
            ("max_seq_length", self.max_sequence_length.to_string()),
            ("settings", path(&settings)),
        ]))
    }
}

/// The folder in which a trainer left an adapter: its output, or the last of the folders in it by name.
pub fn find_adapter(output: &Path) -> Option<PathBuf> {
    let has_adapter = |folder: &Path| ADAPTER_FILES.iter().any(|file| folder.join(file).exists());
    if has_adapter(output) {
        return Some(output.to_owned());
    }
    let mut folders: Vec<PathBuf> = output
        .read_dir()
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir() && has_adapter(path))
        .collect();
    folders.sort();
    folders.pop()
}
