//! Faults in the user's model folder.

use std::collections::BTreeMap;
use std::path::Path;

use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::ops::{concatenate, multiply};
use mlx_rs::{Array, Dtype, random};
use serde_json::{Map, Value, json};

use super::{Family, Fault, FaultError, Needs, Operator, RunFiles};
use crate::atomic_write::{replace_file, write_file};
use crate::diagnosis::DiagnosisOptions;
use crate::model::{WeightFileError, load_safetensors, save_safetensors};
use crate::workflow::Workflow;

const WEIGHTS: &str = "model.safetensors";
const CONFIGURATION: &str = "config.json";
const TOKENIZER_CONFIGURATION: &str = "tokenizer_config.json";

/// A model folder that something changes.
struct Rewritten<F>(F);

impl<F> Workflow for Rewritten<F> {}

impl<F: Fn(&Path) -> Result<(), FaultError>> Fault for Rewritten<F> {
    fn alter(&self, _options: &mut DiagnosisOptions, files: &RunFiles) -> Result<(), FaultError> {
        (self.0)(&files.model)
    }
}

fn in_folder(change: impl Fn(&Path) -> Result<(), FaultError> + 'static) -> Box<dyn Fault> {
    Box::new(Rewritten(change))
}

/// Changes one JSON object.
fn in_json(name: &'static str, change: impl Fn(&mut Map<String, Value>) + 'static) -> Box<dyn Fault> {
    in_folder(move |folder| change_json(&folder.join(name), &change))
}

fn change_json(path: &Path, change: &dyn Fn(&mut Map<String, Value>)) -> Result<(), FaultError> {
    let text = std::fs::read_to_string(path).map_err(|source| io(path, source))?;
    let mut object: Map<String, Value> = serde_json::from_str(&text).map_err(|source| FaultError::Json {
        path: path.to_owned(),
        source,
    })?;
    change(&mut object);
    write_file(path, format!("{:#}\n", Value::Object(object)).as_bytes()).map_err(|source| io(path, source))
}

fn io(path: &Path, source: std::io::Error) -> FaultError {
    FaultError::Io {
        path: path.to_owned(),
        source,
    }
}

/// Changes the tensors of the model.
fn in_weights(change: impl Fn(&mut BTreeMap<String, Array>) -> Result<(), FaultError> + 'static) -> Box<dyn Fault> {
    in_folder(move |folder| {
        let path = folder.join(WEIGHTS);
        let mut tensors = load_safetensors(&path)?;
        change(&mut tensors)?;
        save(&tensors, &path)
    })
}

fn save(tensors: &BTreeMap<String, Array>, path: &Path) -> Result<(), FaultError> {
    let metadata = BTreeMap::from([("format".to_owned(), "mlx".to_owned())]);
    Ok(replace_file(path, |temporary| -> Result<(), WeightFileError> {
        save_safetensors(tensors, Some(&metadata), temporary)
    })?)
}

fn cut(path: &Path, share: f64) -> Result<(), FaultError> {
    let contents = std::fs::read(path).map_err(|source| io(path, source))?;
    let kept = (contents.len() as f64 * share) as usize;
    write_file(path, &contents[..kept]).map_err(|source| io(path, source))
}

pub static SHARD_MISSING: Operator = Operator {
    name: "shard-missing",
    family: Family::Files,
    summary: "the second of two shards was not downloaded",
    citation: "https://github.com/Blaizzy/mlx-vlm/issues/1827",
    severities: &[1.0],
    make: |_| {
        in_folder(|folder| {
            let whole = folder.join(WEIGHTS);
            let tensors = load_safetensors(&whole)?;
            let half = tensors.len() / 2;
            let shard = |index: usize| format!("model-0000{}-of-00002.safetensors", 1 + usize::from(index >= half));
            let weight_map: Map<String, Value> = tensors
                .keys()
                .enumerate()
                .map(|(index, name)| (name.clone(), Value::String(shard(index))))
                .collect();
            let bytes: usize = tensors.values().map(Array::nbytes).sum();
            let index = json!({ "metadata": { "total_size": bytes }, "weight_map": weight_map });
            let path = folder.join("model.safetensors.index.json");
            write_file(&path, format!("{index:#}\n").as_bytes()).map_err(|source| io(&path, source))?;
            let first: BTreeMap<String, Array> = tensors.into_iter().take(half).collect();
            save(&first, &folder.join(shard(0)))?;
            std::fs::remove_file(&whole).map_err(|source| io(&whole, source))
        })
    },
    needs: Needs::Adapters,
};

pub static WEIGHT_FILE_CUT: Operator = Operator {
    name: "weight-file-cut",
    family: Family::Files,
    summary: "only this share of the weight file is there",
    citation: "https://github.com/unslothai/unsloth-zoo/pull/1078",
    severities: &[0.9],
    make: |share| in_folder(move |folder| cut(&folder.join(WEIGHTS), share)),
    needs: Needs::Adapters,
};

pub static TIED_OUTPUT_MISMATCH: Operator = Operator {
    name: "tied-output-mismatch",
    family: Family::Files,
    summary: "the configuration says the opposite about a tied output layer",
    citation: "https://github.com/ml-explore/mlx-examples/issues/564",
    severities: &[1.0],
    make: |_| {
        in_json(CONFIGURATION, |configuration| {
            let tied = configuration.get("tie_word_embeddings") == Some(&Value::Bool(true));
            configuration.insert("tie_word_embeddings".to_owned(), Value::Bool(!tied));
        })
    },
    needs: Needs::DenseFiles,
};

pub static PACKING_BITS_WRONG: Operator = Operator {
    name: "packing-bits-wrong",
    family: Family::Files,
    summary: "the configuration names this many bits for weights that are packed to 4",
    citation: "https://github.com/ml-explore/mlx-lm/issues/1451",
    severities: &[8.0],
    make: |bits| {
        in_json(CONFIGURATION, move |configuration| {
            if let Some(quantization) = configuration.get_mut("quantization") {
                quantization["bits"] = json!(bits as u32);
            }
        })
    },
    needs: Needs::PackedFiles,
};

pub static PACKING_NOT_DECLARED: Operator = Operator {
    name: "packing-not-declared",
    family: Family::Files,
    summary: "weights are packed and the configuration does not say so",
    citation: "https://github.com/ml-explore/mlx-lm/issues/646",
    severities: &[1.0],
    make: |_| {
        in_json(CONFIGURATION, |configuration| {
            configuration.remove("quantization");
            configuration.remove("quantization_config");
        })
    },
    needs: Needs::PackedFiles,
};

pub static WEIGHTS_NOT_FINITE: Operator = Operator {
    name: "weights-not-finite",
    family: Family::Numeric,
    summary: "one tensor of the files holds a NaN",
    citation: "https://github.com/ml-explore/mlx-lm/issues/49",
    severities: &[1.0],
    make: |_| {
        in_weights(|tensors| {
            if let Some(weight) = tensors.get_mut("model.norm.weight") {
                let poison = Array::from_f32(f32::NAN).as_dtype(weight.dtype())?;
                *weight = multiply(&*weight, poison)?;
            }
            Ok(())
        })
    },
    needs: Needs::Adapters,
};

pub static END_ROW_UNTRAINED: Operator = Operator {
    name: "end-row-untrained",
    family: Family::Files,
    summary: "the output row of the token that ends a turn is that of another special token",
    citation: "https://github.com/QwenLM/Qwen3/issues/1064",
    severities: &[1.0],
    make: |_| {
        in_weights(|tensors| {
            let output = if tensors.contains_key("lm_head.weight") {
                "lm_head.weight"
            } else {
                "model.embed_tokens.weight"
            };
            if let Some(weight) = tensors.get_mut(output) {
                // ChatML's `<|im_start|>` and `<|im_end|>` in the tiny vocabularies.
                let (start, end) = (1, 2);
                let before = weight.try_index(0..end)?;
                let other = weight.try_index(start..start + 1)?;
                let behind = weight.try_index(end + 1..)?;
                *weight = concatenate(&[before, other, behind], 0)?;
            }
            Ok(())
        })
    },
    needs: Needs::DenseFiles,
};

pub static BASE_SCRAMBLED: Operator = Operator {
    name: "base-scrambled",
    family: Family::Files,
    summary: "noise of this many times the weights' own spread lies on every matrix",
    citation: "https://github.com/ml-explore/mlx-examples/issues/323",
    severities: &[1.0, 3.0],
    make: |strength| {
        in_weights(move |tensors| {
            let mut key = random::key(0)?;
            for (name, weight) in tensors.iter_mut() {
                if weight.ndim() != 2 || name.contains("embed_tokens") {
                    continue;
                }
                let (next, this) = random::split(&key, 2)?;
                key = next;
                let spread = multiply(
                    mlx_rs::ops::std(&weight.as_dtype(Dtype::Float32)?, None, None)?,
                    Array::from_f32(strength as f32),
                )?;
                let noise = random::normal::<f32>(weight.shape(), None, None, &this)?;
                *weight = weight
                    .as_dtype(Dtype::Float32)?
                    .add(multiply(noise, spread)?)?
                    .as_dtype(weight.dtype())?;
            }
            Ok(())
        })
    },
    needs: Needs::DenseFiles,
};

pub static TEMPLATE_LOST: Operator = Operator {
    name: "template-lost",
    family: Family::Files,
    summary: "the chat template did not survive an export",
    citation: "https://github.com/ml-explore/mlx-lm/issues/340",
    severities: &[1.0],
    make: |_| {
        in_json(TOKENIZER_CONFIGURATION, |configuration| {
            configuration.remove("chat_template");
        })
    },
    needs: Needs::Adapters,
};

pub static TEMPLATE_FAILS: Operator = Operator {
    name: "template-fails",
    family: Family::Files,
    summary: "the chat template refuses the conversations of the data",
    citation: "https://github.com/ml-explore/mlx-lm/issues/57",
    severities: &[1.0],
    make: |_| {
        in_json(TOKENIZER_CONFIGURATION, |configuration| {
            let template = "{{ raise_exception('Conversation roles must alternate') }}";
            configuration.insert("chat_template".to_owned(), Value::String(template.to_owned()));
        })
    },
    needs: Needs::Adapters,
};

pub static THINKING_TEMPLATE: Operator = Operator {
    name: "thinking-template",
    family: Family::Data,
    summary: "inference opens the answer with an empty think block that the rows do not have",
    citation: "https://github.com/hiyouga/LlamaFactory/issues/7978",
    severities: &[1.0],
    make: |_| {
        in_json(TOKENIZER_CONFIGURATION, |configuration| {
            let Some(Value::String(template)) = configuration.get_mut("chat_template") else {
                return;
            };
            *template = template.replace(
                "assistant\n' }}{% endif %}",
                "assistant\n<think>\n\n</think>\n\n' }}{% endif %}",
            );
        })
    },
    needs: Needs::Adapters,
};

pub static DOUBLE_BEGINNING: Operator = Operator {
    name: "double-beginning",
    family: Family::Data,
    summary: "rows begin with the beginning-of-text token twice",
    citation: "https://github.com/ml-explore/mlx-examples/issues/1095",
    severities: &[1.0],
    make: |_| {
        in_json(TOKENIZER_CONFIGURATION, |configuration| {
            configuration.insert("bos_token".to_owned(), Value::String("<|endoftext|>".to_owned()));
            if let Some(Value::String(template)) = configuration.get_mut("chat_template") {
                template.insert_str(0, "<|endoftext|><|endoftext|>");
            }
        })
    },
    needs: Needs::Adapters,
};

pub static TURN_END_UNDECLARED: Operator = Operator {
    name: "turn-end-undeclared",
    family: Family::EndOfText,
    summary: "no file declares the token that the template puts after an answer",
    citation: "https://github.com/ml-explore/mlx-examples/issues/737",
    severities: &[1.0],
    make: |_| {
        in_folder(|folder| {
            let end_of_text = |object: &mut Map<String, Value>, key: &str| object.insert(key.to_owned(), json!(0));
            change_json(&folder.join(CONFIGURATION), &|object| {
                end_of_text(object, "eos_token_id");
            })?;
            change_json(&folder.join("generation_config.json"), &|object| {
                end_of_text(object, "eos_token_id");
            })?;
            change_json(&folder.join(TOKENIZER_CONFIGURATION), &|object| {
                object.insert("eos_token".to_owned(), Value::String("<|endoftext|>".to_owned()));
            })
        })
    },
    needs: Needs::Adapters,
};

pub static ROPE_TYPE_UNKNOWN: Operator = Operator {
    name: "rope-type-unknown",
    family: Family::Files,
    summary: "the configuration asks for a kind of rotary scaling that is not supported",
    citation: "https://github.com/ml-explore/mlx-examples/issues/799",
    severities: &[1.0],
    make: |_| {
        in_json(CONFIGURATION, |configuration| {
            let scaling = json!({ "rope_type": "longrope", "factor": 4.0 });
            configuration.insert("rope_scaling".to_owned(), scaling);
        })
    },
    needs: Needs::Adapters,
};

pub static TOKENIZER_CUT: Operator = Operator {
    name: "tokenizer-cut",
    family: Family::Files,
    summary: "only this share of tokenizer.json is there",
    citation: "https://github.com/hiyouga/LlamaFactory/issues/8399",
    severities: &[0.5],
    make: |share| in_folder(move |folder| cut(&folder.join("tokenizer.json"), share)),
    needs: Needs::Adapters,
};

pub static FLOAT16_OVERFLOW: Operator = Operator {
    name: "float16-overflow",
    family: Family::Numeric,
    summary: "computed in float16, with products inside the feed-forward layers this many times larger than usual",
    citation: "https://github.com/unslothai/unsloth-zoo/pull/670",
    severities: &[1e6],
    make: |factor| {
        Box::new(Float16 {
            weights: in_weights(move |tensors| {
                // The function stays the same where the number range suffices: what `up` gains, `down` loses.
                for (suffix, factor) in [("mlp.up_proj.weight", factor), ("mlp.down_proj.weight", 1.0 / factor)] {
                    for (_, weight) in tensors.iter_mut().filter(|(name, _)| name.ends_with(suffix)) {
                        *weight = multiply(&*weight, Array::from_f32(factor as f32).as_dtype(weight.dtype())?)?;
                    }
                }
                Ok(())
            }),
        })
    },
    needs: Needs::DenseFiles,
};

/// Changed weights, and float16 asked for.
struct Float16 {
    weights: Box<dyn Fault>,
}

impl Workflow for Float16 {}

impl Fault for Float16 {
    fn alter(&self, options: &mut DiagnosisOptions, files: &RunFiles) -> Result<(), FaultError> {
        options.precision.dtype = Some(Dtype::Float16);
        self.weights.alter(options, files)
    }
}
