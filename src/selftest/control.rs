use std::fs;
use std::path::{Path, PathBuf};

use mlx_rs::Dtype;
use serde_json::{Value, json};
use thiserror::Error;

use super::cell::Need;
use super::corpus::{RowFormat, Rows};
use crate::atomic_write::replace_file;
use crate::diagnosis::DiagnosisOptions;
use crate::faults::RunFiles;
use crate::model::{WeightFileError, load_safetensors, save_safetensors};

/// A control could not be laid out.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The system refused.
    #[error("cannot change `{}`: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Weights could not be read or written.
    #[error(transparent)]
    Weights(#[from] WeightFileError),
    /// MLX failed.
    #[error("MLX failed: {0}")]
    Mlx(#[from] mlx_rs::error::Exception),
    /// A file of the carried models is no JSON.
    #[error("`{}` is not JSON: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// A run before it begins.
#[derive(Debug)]
pub struct Setup {
    /// What it is asked to do.
    pub options: DiagnosisOptions,
    /// Its model and data, which are its own.
    pub files: RunFiles,
    /// The rows of its cell, which `files` hold as conversations.
    pub rows: Rows,
    /// Processes that train together.
    pub processes: usize,
}

impl Setup {
    fn write_rows(&self, rows: &Rows, format: RowFormat) -> Result<(), ControlError> {
        rows.write(&self.files.data, format)
            .map_err(|source| ControlError::File {
                path: self.files.data.clone(),
                source,
            })
    }

    fn keep_rows(&mut self, train: usize) -> Result<(), ControlError> {
        let rows = Rows {
            train: self.rows.train.iter().take(train).cloned().collect(),
            ..self.rows.clone()
        };
        self.options.prompts = rows.questions();
        self.write_rows(&rows, RowFormat::Chat)
    }
}

/// A healthy run: odd, perhaps, but legal. Any alarm on it is false.
#[derive(Debug, Clone, Copy)]
pub struct Control {
    /// In kebab case.
    pub name: &'static str,
    /// What is odd about it.
    pub summary: &'static str,
    /// Which runs it can be done in.
    pub needs: &'static [Need],
    /// Changes the ordinary run of a cell.
    pub set: fn(&mut Setup) -> Result<(), ControlError>,
}

/// Every control; the first one changes nothing.
pub static CONTROLS: &[Control] = &[
    Control {
        name: "ordinary",
        summary: "the cell's own settings",
        needs: &[],
        set: |_| Ok(()),
    },
    Control {
        name: "rank-1",
        summary: "the smallest rank",
        needs: &[],
        set: |setup| {
            setup.options.lora.rank = 1;
            Ok(())
        },
    },
    Control {
        name: "rank-128",
        summary: "the largest rank that the tiny models have room for",
        needs: &[],
        set: |setup| {
            setup.options.lora.rank = 128;
            setup.options.lora.scale = 1.0;
            Ok(())
        },
    },
    Control {
        name: "mlx-lm-defaults",
        summary: "rank 8, scale 20, learning rate 1e-5, prompts trained too",
        needs: &[],
        set: |setup| {
            setup.options.lora.rank = 8;
            setup.options.lora.scale = 20.0;
            setup.options.learning_rate = 1e-5;
            setup.options.mask_prompt = false;
            Ok(())
        },
    },
    Control {
        name: "small-rate-and-scale",
        summary: "learning rate 1e-5 with scale 2",
        needs: &[],
        set: |setup| {
            setup.options.lora.scale = 2.0;
            setup.options.learning_rate = 1e-5;
            Ok(())
        },
    },
    Control {
        name: "bias-correction",
        summary: "Adam with bias correction",
        needs: &[],
        set: |setup| {
            setup.options.bias_correction = true;
            Ok(())
        },
    },
    Control {
        name: "warm-up",
        summary: "a learning rate that rises over four steps",
        needs: &[],
        set: |setup| {
            setup.options.warmup_steps = 4;
            Ok(())
        },
    },
    Control {
        name: "clipping",
        summary: "gradients clipped at every step",
        needs: &[],
        set: |setup| {
            setup.options.clip_norm = Some(0.1);
            Ok(())
        },
    },
    Control {
        name: "dropout",
        summary: "dropout on the adapters' input",
        needs: &[],
        set: |setup| {
            setup.options.lora.dropout = 0.1;
            Ok(())
        },
    },
    Control {
        name: "last-block",
        summary: "adapters on the last block only",
        needs: &[],
        set: |setup| {
            setup.options.lora.layers = Some(1);
            Ok(())
        },
    },
    Control {
        name: "queries-and-values",
        summary: "adapters on queries and values only",
        needs: &[],
        set: |setup| {
            setup.options.lora.keys = ["self_attn.q_proj", "self_attn.v_proj"].map(str::to_owned).to_vec();
            Ok(())
        },
    },
    Control {
        name: "one-step",
        summary: "a single step",
        needs: &[],
        set: |setup| {
            setup.options.steps = 1;
            Ok(())
        },
    },
    Control {
        name: "three-steps",
        summary: "three steps",
        needs: &[],
        set: |setup| {
            setup.options.steps = 3;
            Ok(())
        },
    },
    Control {
        name: "one-row",
        summary: "a single row of data",
        needs: &[],
        set: |setup| setup.keep_rows(1),
    },
    Control {
        name: "two-rows",
        summary: "two rows of data, fewer than a batch",
        needs: &[],
        set: |setup| setup.keep_rows(2),
    },
    Control {
        name: "prompts-trained-too",
        summary: "prompts carry loss, as asked for",
        needs: &[],
        set: |setup| {
            setup.options.mask_prompt = false;
            Ok(())
        },
    },
    Control {
        name: "full-fine-tuning",
        summary: "all weights are trained",
        needs: &[Need::FullFineTuning],
        set: |_| Ok(()),
    },
    Control {
        name: "bfloat16",
        summary: "computed in bfloat16",
        needs: &[],
        set: |setup| {
            setup.options.precision.dtype = Some(Dtype::Bfloat16);
            Ok(())
        },
    },
    Control {
        name: "kept-packed",
        summary: "computed on packed weights",
        needs: &[Need::PackedFiles],
        set: |setup| {
            setup.options.precision.keep_packed = true;
            Ok(())
        },
    },
    Control {
        name: "completions",
        summary: "rows of prompt and completion",
        needs: &[],
        set: |setup| setup.write_rows(&setup.rows, RowFormat::Completions),
    },
    Control {
        name: "text-without-ends",
        summary: "rows of plain text without end tokens",
        needs: &[],
        set: |setup| setup.write_rows(&setup.rows, RowFormat::Text),
    },
    Control {
        name: "system-messages",
        summary: "rows that begin with a system message",
        needs: &[],
        set: |setup| setup.write_rows(&setup.rows, RowFormat::System),
    },
    Control {
        name: "multi-turn",
        summary: "rows with two questions and two answers, of which the last is trained",
        needs: &[],
        set: |setup| setup.write_rows(&setup.rows, RowFormat::Conversation),
    },
    Control {
        name: "already-fitted",
        summary: "rows that the base knows by heart",
        needs: &[],
        set: |setup| {
            let known = Rows::known(setup.options.seed, setup.rows.train.len(), setup.rows.valid.len());
            setup.options.prompts = known.questions();
            setup.write_rows(&known, RowFormat::Chat)
        },
    },
    Control {
        name: "no-validation-rows",
        summary: "no valid.jsonl",
        needs: &[],
        set: |setup| {
            let path = setup.files.data.join("valid.jsonl");
            fs::remove_file(&path).map_err(|source| ControlError::File { path, source })
        },
    },
    Control {
        name: "pad-is-end",
        summary: "the padding token is the end token, and masked by length",
        needs: &[],
        set: |setup| {
            edit_json(&setup.files.model.join("tokenizer_config.json"), |fields| {
                fields["pad_token"] = json!("<|im_end|>");
            })
        },
    },
    Control {
        name: "end-of-turn-is-not-end-of-text",
        summary: "the tokenizer's end token is that of texts, the template writes that of turns, both are declared",
        needs: &[],
        set: |setup| {
            edit_json(&setup.files.model.join("tokenizer_config.json"), |fields| {
                fields["eos_token"] = json!("<|endoftext|>");
            })
        },
    },
    Control {
        name: "looping-base",
        summary: "a base that repeats itself before any training, since two of its feed-forward layers give zero",
        needs: &[Need::DenseFiles],
        set: |setup| {
            const SILENCED: [&str; 2] = ["layers.1.mlp.down_proj.weight", "layers.3.mlp.down_proj.weight"];
            let path = setup.files.model.join("model.safetensors");
            let mut tensors = load_safetensors(&path)?;
            for (name, tensor) in &mut tensors {
                if SILENCED.iter().any(|silenced| name.ends_with(silenced)) {
                    *tensor = mlx_rs::ops::zeros_like(&*tensor)?;
                }
            }
            // The tensors are read from the old file while the new one is written.
            Ok(replace_file(&path, |new| save_safetensors(&tensors, None, new))?)
        },
    },
    Control {
        name: "short-answers",
        summary: "answers cut after four tokens",
        needs: &[],
        set: |setup| {
            setup.options.max_tokens = 4;
            Ok(())
        },
    },
    Control {
        name: "prompts-of-the-user",
        summary: "questions that the data does not hold",
        needs: &[],
        set: |setup| {
            setup.options.prompts = ["Hello!", "Who are you?", "What is the capital of France?"]
                .map(str::to_owned)
                .to_vec();
            Ok(())
        },
    },
    Control {
        name: "two-processes",
        summary: "two processes train together",
        needs: &[Need::Processes],
        set: |setup| {
            setup.processes = 2;
            Ok(())
        },
    },
    Control {
        name: "four-processes",
        summary: "four processes train together",
        needs: &[Need::Processes],
        set: |setup| {
            setup.processes = 4;
            Ok(())
        },
    },
];

fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) -> Result<(), ControlError> {
    let file_error = |source| ControlError::File {
        path: path.to_owned(),
        source,
    };
    let json_error = |source| ControlError::Json {
        path: path.to_owned(),
        source,
    };
    let text = fs::read_to_string(path).map_err(file_error)?;
    let mut fields: Value = serde_json::from_str(&text).map_err(json_error)?;
    edit(&mut fields);
    fs::write(path, fields.to_string()).map_err(file_error)
}
