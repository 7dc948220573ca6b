//! Faults in saving, loading and fusing adapters.

use std::collections::BTreeMap;
use std::path::Path;

use mlx_rs::error::Exception;
use mlx_rs::ops::multiply;
use mlx_rs::{Array, Dtype};
use serde_json::{Value, json};

use super::{Family, Fault, Needs, Operator};
use crate::adapter::{AdapterFileError, LoraSettings, attach, fuse, load_adapter, save_adapter};
use crate::atomic_write::{replace_file, write_file};
use crate::model::{Adaptable, CausalModel, Packing, WeightFileError, load_safetensors, save_safetensors};
use crate::workflow::Workflow;

const WEIGHTS: &str = "adapters.safetensors";
const CONFIGURATION: &str = "adapter_config.json";

/// An adapter folder that something changes after it was written.
struct Spoiled<F>(F);

impl<F: Fn(&Path) -> Result<(), AdapterFileError>> Workflow for Spoiled<F> {
    fn save_adapter(
        &self,
        model: &CausalModel,
        settings: &LoraSettings,
        model_name: &str,
        folder: &Path,
    ) -> Result<usize, AdapterFileError> {
        let saved = save_adapter(model, settings, model_name, folder)?;
        (self.0)(folder)?;
        Ok(saved)
    }
}

impl<F: Fn(&Path) -> Result<(), AdapterFileError>> Fault for Spoiled<F> {}

fn with_tensors(change: impl Fn(&mut BTreeMap<String, Array>) + 'static) -> Box<dyn Fault> {
    Box::new(Spoiled(move |folder: &Path| {
        let path = folder.join(WEIGHTS);
        let mut tensors = load_safetensors(&path)?;
        change(&mut tensors);
        Ok(replace_file(&path, |temporary| -> Result<(), WeightFileError> {
            save_safetensors(&tensors, None, temporary)
        })?)
    }))
}

fn with_configuration(change: impl Fn(&mut Value) + 'static) -> Box<dyn Fault> {
    Box::new(Spoiled(move |folder: &Path| {
        let path = folder.join(CONFIGURATION);
        let io = |source| AdapterFileError::Io {
            path: path.clone(),
            source,
        };
        let text = std::fs::read_to_string(&path).map_err(io)?;
        let mut value: Value = serde_json::from_str(&text).map_err(|error| io(error.into()))?;
        change(&mut value);
        write_file(&path, format!("{value:#}\n").as_bytes()).map_err(io)
    }))
}

pub static TENSORS_DROPPED: Operator = Operator {
    name: "tensors-dropped",
    family: Family::Saving,
    summary: "this share of the tensors is not in the file",
    citation: "https://github.com/ml-explore/mlx-lm/issues/1725",
    severities: &[0.1, 0.5],
    make: |share| {
        with_tensors(move |tensors| {
            let reached = |count: usize| (count as f64 * share).floor();
            let mut index = 0;
            tensors.retain(|_, _| {
                index += 1;
                reached(index) <= reached(index - 1)
            });
        })
    },
    needs: Needs::Adapters,
};

pub static TENSORS_RENAMED: Operator = Operator {
    name: "tensors-renamed",
    family: Family::Saving,
    summary: "tensors carry PEFT's names",
    citation: "https://github.com/ml-explore/mlx-lm/issues/1119",
    severities: &[1.0],
    make: |_| {
        with_tensors(|tensors| {
            *tensors = std::mem::take(tensors)
                .into_iter()
                .map(|(name, tensor)| (format!("base_model.model.{name}.weight"), tensor))
                .collect();
        })
    },
    needs: Needs::Adapters,
};

pub static TENSORS_ZEROED: Operator = Operator {
    name: "tensors-zeroed",
    family: Family::Saving,
    summary: "every tensor is saved with the right name and shape, and holds zeros",
    citation: "https://github.com/huggingface/peft/issues/1443",
    severities: &[1.0],
    make: |_| {
        with_tensors(|tensors| {
            for tensor in tensors.values_mut() {
                if let Ok(zeros) = mlx_rs::ops::zeros_like(&*tensor) {
                    *tensor = zeros;
                }
            }
        })
    },
    needs: Needs::Adapters,
};

pub static ADAPTER_FILE_CUT: Operator = Operator {
    name: "adapter-file-cut",
    family: Family::Saving,
    summary: "only this share of the adapter's file was written",
    citation: "https://github.com/unslothai/unsloth-zoo/pull/1078",
    severities: &[0.9],
    make: |share| {
        Box::new(Spoiled(move |folder: &Path| {
            let path = folder.join(WEIGHTS);
            let io = |source| AdapterFileError::Io {
                path: path.clone(),
                source,
            };
            let contents = std::fs::read(&path).map_err(io)?;
            write_file(&path, &contents[..(contents.len() as f64 * share) as usize]).map_err(io)
        }))
    },
    needs: Needs::Adapters,
};

pub static CONFIGURATION_MISSING: Operator = Operator {
    name: "configuration-missing",
    family: Family::Saving,
    summary: "adapter_config.json was not written",
    citation: "https://github.com/ml-explore/mlx-examples/issues/1317",
    severities: &[1.0],
    make: |_| {
        Box::new(Spoiled(|folder: &Path| {
            let path = folder.join(CONFIGURATION);
            std::fs::remove_file(&path).map_err(|source| AdapterFileError::Io { path, source })
        }))
    },
    needs: Needs::Adapters,
};

pub static SCALE_LOST: Operator = Operator {
    name: "scale-lost",
    family: Family::Saving,
    summary: "adapter_config.json holds this many times the scale of the run",
    citation: "https://github.com/ml-explore/mlx-examples/issues/1186",
    severities: &[0.5, 0.05],
    make: |factor| {
        with_configuration(move |configuration| {
            let scale = configuration["lora_parameters"]["scale"].as_f64();
            configuration["lora_parameters"]["scale"] = json!(scale.map(|scale| scale * factor));
        })
    },
    needs: Needs::Adapters,
};

pub static KEYS_UNRESOLVED: Operator = Operator {
    name: "keys-unresolved",
    family: Family::Saving,
    summary: "adapter_config.json says `auto` where the keys should be",
    citation: "https://github.com/MakazhanAlpamys/Soup/issues/392",
    severities: &[1.0],
    make: |_| {
        with_configuration(|configuration| {
            configuration["lora_parameters"]["keys"] = json!(["auto"]);
        })
    },
    needs: Needs::Adapters,
};

/// Something that loads an adapter in another way.
struct Loaded<F>(F);

impl<F: Fn(&mut CausalModel, &Path) -> Result<LoraSettings, AdapterFileError>> Workflow for Loaded<F> {
    fn load_adapter(&self, base: &mut CausalModel, folder: &Path) -> Result<LoraSettings, AdapterFileError> {
        (self.0)(base, folder)
    }
}

impl<F: Fn(&mut CausalModel, &Path) -> Result<LoraSettings, AdapterFileError>> Fault for Loaded<F> {}

pub static RELOAD_WITHOUT_TENSORS: Operator = Operator {
    name: "reload-without-tensors",
    family: Family::Saving,
    summary: "loading attaches fresh adapters and never fills them",
    citation: "https://github.com/unslothai/unsloth/issues/7196",
    severities: &[1.0],
    make: |_| {
        Box::new(Loaded(|base: &mut CausalModel, folder: &Path| {
            let settings = load_adapter(base, folder)?;
            attach(base, &settings, 0).map_err(|error| AdapterFileError::Mismatch {
                path: folder.to_owned(),
                problems: vec![error.to_string()],
            })?;
            Ok(settings)
        }))
    },
    needs: Needs::Adapters,
};

pub static OTHER_BASE: Operator = Operator {
    name: "other-base",
    family: Family::Saving,
    summary: "the adapter is loaded onto a base whose weights are this many times as large",
    citation: "https://github.com/huggingface/peft/issues/276",
    severities: &[1.01, 1.5],
    make: |factor| {
        Box::new(Loaded(move |base: &mut CausalModel, folder: &Path| {
            let settings = load_adapter(base, folder)?;
            let norm = &mut base.model.norm.weight.value;
            let factor = Array::from_f32(factor as f32).as_dtype(norm.dtype());
            if let Ok(changed) = factor.and_then(|factor| multiply(&*norm, factor)) {
                *norm = changed;
            }
            Ok(settings)
        }))
    },
    needs: Needs::Adapters,
};

/// Something that fuses in another way.
struct Fused<F>(F);

impl<F: Fn(&mut CausalModel) -> Result<usize, Exception>> Workflow for Fused<F> {
    fn fuse(&self, model: &mut CausalModel) -> Result<usize, Exception> {
        (self.0)(model)
    }
}

impl<F: Fn(&mut CausalModel) -> Result<usize, Exception>> Fault for Fused<F> {}

pub static FUSE_DROPS_ADAPTER: Operator = Operator {
    name: "fuse-drops-adapter",
    family: Family::Saving,
    summary: "fusing removes the adapters without adding them, in this share of the layers",
    citation: "https://github.com/ml-explore/mlx-examples/issues/757",
    severities: &[0.5, 1.0],
    make: |share| {
        Box::new(Fused(move |model: &mut CausalModel| {
            let reached = |count: usize| (count as f64 * share).floor();
            let mut dropped = 0;
            for (index, (_, linear)) in model.linears_mut().into_iter().enumerate() {
                if linear.low_rank.is_some() && reached(index + 1) > reached(index) {
                    linear.remove_adapter();
                    dropped += 1;
                }
            }
            Ok(dropped + fuse(model)?)
        }))
    },
    needs: Needs::DenseFiles,
};

pub static FUSE_PACKS: Operator = Operator {
    name: "fuse-packs",
    family: Family::Saving,
    summary: "fusing packs a plain model to this many bits, which rounds the adapters away",
    citation: "https://github.com/ml-explore/mlx-lm/issues/1564",
    severities: &[8.0, 4.0],
    make: |bits| {
        Box::new(Fused(move |model: &mut CausalModel| {
            let fused = fuse(model)?;
            for (_, linear) in model.linears_mut() {
                let weight = linear.weight.value.as_dtype(Dtype::Float32)?;
                let packed = Packing::affine(64, bits as i32).pack(&weight)?;
                linear.stored_weight_mut().hold(packed);
            }
            Ok(fused)
        }))
    },
    needs: Needs::DenseFiles,
};
