//! Reads adapter folders of PEFT.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mlx_rs::Array;
use onig::{MatchParam, Regex, SearchOptions};
use serde_json::{Map, Value};

use super::file::stored_configuration;
use super::stored::{LORA_A, LORA_B, MAGNITUDE};
use super::{AdapterFileError, AdapterFormat, AdapterKind, LoraSettings, StatedTraining, StoredAdapter};
use crate::model::load_safetensors;

/// PEFT's name for the adapter's tensors.
pub(super) const WEIGHTS: &str = "adapter_model.safetensors";
/// The same as a pickle, which can run code while it is read.
pub(super) const PICKLED_WEIGHTS: &str = "adapter_model.bin";
/// What PEFT puts before every name.
pub(super) const PREFIX: &str = "base_model.model.";

/// Ways of starting that also change the base: the files alone do not hold what was trained.
const CHANGING_STARTS: [&str; 6] = ["pissa", "olora", "loftq", "corda", "eva", "lora_ga"];

/// Reads a PEFT folder.
pub(super) fn read(folder: &Path) -> Result<StoredAdapter, AdapterFileError> {
    let configuration = stored_configuration(folder)?;
    // Of another kind neither the tensors nor the settings mean what they do here.
    if let Some(kind) = configuration.get("peft_type").filter(|kind| *kind != "LORA") {
        return Err(AdapterFileError::OtherKind {
            folder: folder.to_owned(),
            found: kind.clone(),
        });
    }
    let tensors = load_safetensors(&folder.join(WEIGHTS))?;
    let mut reader = Reader {
        configuration: configuration.as_object().cloned().unwrap_or_default(),
        problems: Vec::new(),
        set_aside: Vec::new(),
    };
    let tensors = reader.renamed(tensors)?;
    let kind = if reader.flag("use_dora") {
        AdapterKind::Dora
    } else {
        AdapterKind::Lora
    };
    reader.note_what_is_not_read();
    let rank = reader.rank();
    let alpha = reader.number("lora_alpha").unwrap_or_else(|| {
        reader.problems.push("`lora_alpha` is absent or no number".to_owned());
        f64::from(rank)
    });
    let mut adapter = StoredAdapter {
        kind,
        settings: LoraSettings {
            rank: rank as usize,
            scale: reader.scale(alpha, rank),
            dropout: reader.number("lora_dropout").unwrap_or(0.0) as f32,
            layers: None,
            keys: Vec::new(),
        },
        training: StatedTraining {
            base: reader.text("base_model_name_or_path"),
            ..StatedTraining::default()
        },
        ..StoredAdapter::new(AdapterFormat::Peft, tensors)
    };
    let modules: BTreeSet<String> = adapter.modules().into_iter().map(str::to_owned).collect();
    for module in modules {
        let rank = match reader.pattern("rank_pattern", &module) {
            None => rank,
            Some(other) => other.as_u64().and_then(usable_rank).unwrap_or_else(|| {
                reader.problems.push(format!(
                    "the rank of `{module}` is {other}, no whole number from 1 to {}",
                    u32::MAX
                ));
                rank
            }),
        };
        let alpha = match reader.pattern("alpha_pattern", &module) {
            None => alpha,
            Some(other) => other.as_f64().unwrap_or_else(|| {
                reader
                    .problems
                    .push(format!("the alpha of `{module}` is {other}, no number"));
                alpha
            }),
        };
        let stored = adapter
            .tensors
            .get(&format!("{module}.{LORA_A}"))
            .and_then(|tensor| tensor.shape().last().copied());
        if stored.is_some_and(|stored| stored != rank as i32) {
            let stored = stored.unwrap_or_default();
            reader.problems.push(format!(
                "the rank of `{module}` is {rank} and its tensors have {stored}"
            ));
        }
        let scale = reader.scale(alpha, rank);
        if scale.to_bits() != adapter.settings.scale.to_bits() {
            adapter.scales.insert(module, scale);
        }
    }
    adapter.problems = reader.problems;
    adapter.set_aside = reader.set_aside;
    Ok(adapter)
}

struct Reader {
    configuration: Map<String, Value>,
    problems: Vec<String>,
    set_aside: Vec<String>,
}

impl Reader {
    fn flag(&self, key: &str) -> bool {
        self.configuration.get(key).and_then(Value::as_bool) == Some(true)
    }

    fn number(&self, key: &str) -> Option<f64> {
        self.configuration.get(key).and_then(Value::as_f64)
    }

    fn text(&self, key: &str) -> Option<String> {
        self.configuration.get(key).and_then(Value::as_str).map(str::to_owned)
    }

    fn rank(&mut self) -> u32 {
        let Some(stated) = self.configuration.get("r") else {
            self.problems.push("`r` is absent".to_owned());
            return 1;
        };
        stated.as_u64().and_then(usable_rank).unwrap_or_else(|| {
            self.problems
                .push(format!("`r` is {stated}, no whole number from 1 to {}", u32::MAX));
            1
        })
    }

    /// `alpha / r`, or `alpha / sqrt(r)` with rank-stabilised scaling (Kalajdzievski 2023, arXiv 2312.03732).
    fn scale(&self, alpha: f64, rank: u32) -> f32 {
        let rank = f64::from(rank);
        let divisor = if self.flag("use_rslora") { rank.sqrt() } else { rank };
        (alpha / divisor) as f32
    }

    /// The value of the first pattern that matches a module, as PEFT matches it: at the end of the path.
    fn pattern(&mut self, key: &str, module: &str) -> Option<Value> {
        let patterns = self.configuration.get_mut(key)?.as_object_mut()?;
        let mut found = None;
        let mut endless = Vec::new();
        for (pattern, value) in &*patterns {
            // One that is no pattern was told before.
            let Ok(at_end) = at_end_of_path(pattern) else {
                continue;
            };
            match at_end.match_with_param(
                module,
                0,
                SearchOptions::SEARCH_OPTION_NONE,
                None,
                MatchParam::default(),
            ) {
                Ok(None) => {}
                Ok(Some(_)) => {
                    found = Some(value.clone());
                    break;
                }
                Err(error) => endless.push((pattern.clone(), error)),
            }
        }
        // A pattern can take longer than anybody waits; with one module that is enough.
        for (pattern, error) in endless {
            patterns.remove(&pattern);
            self.problems.push(format!(
                "`{key}` has `{pattern}`, which cannot be matched with `{module}`: {}",
                error.description()
            ));
        }
        found
    }

    /// PEFT's tensors under mlx-lm's names and in its shapes; those that no adapter of mlx-lm has are set aside.
    fn renamed(&mut self, tensors: BTreeMap<String, Array>) -> Result<BTreeMap<String, Array>, AdapterFileError> {
        let mut renamed = BTreeMap::new();
        for (name, tensor) in tensors {
            let path = name.strip_prefix(PREFIX).unwrap_or(&name);
            if path.rsplit('.').next() == Some("bias") {
                self.set_aside
                    .push(format!("`{name}` is a trained bias, which no adapter of mlx-lm holds"));
                continue;
            }
            // Some versions keep the adapter's own name, `default`, in front of the ending.
            let path = path.strip_suffix(".weight").unwrap_or(path);
            let path = path.strip_suffix(".default").unwrap_or(path);
            let (module, ending) = path.rsplit_once('.').unwrap_or(("", path));
            let (ending, tensor) = match ending {
                "lora_A" => (LORA_A, tensor.t()),
                "lora_B" => (LORA_B, tensor.t()),
                "lora_magnitude_vector" => (MAGNITUDE, tensor),
                "lora_embedding_A" | "lora_embedding_B" => {
                    self.set_aside
                        .push(format!("`{name}`: adapters of embeddings are not applied here"));
                    continue;
                }
                _ => {
                    self.set_aside.push(format!(
                        "`{name}` is a whole weight (`modules_to_save`), which no adapter of mlx-lm holds"
                    ));
                    continue;
                }
            };
            let place = format!("{module}.{ending}");
            if renamed.contains_key(&place) {
                self.set_aside.push(format!(
                    "`{name}` stands for the same tensor as another name, which is applied"
                ));
                continue;
            }
            renamed.insert(place, tensor.contiguous()?);
        }
        Ok(renamed)
    }

    /// Settings that change what the tensors mean.
    fn note_what_is_not_read(&mut self) {
        if !self.configuration.contains_key("peft_type") {
            self.problems.push("`peft_type` is absent".to_owned());
        }
        if self.flag("fan_in_fan_out") {
            self.problems
                .push("`fan_in_fan_out` is set, for layers that hold their weight transposed".to_owned());
        }
        let start = self.text("init_lora_weights").unwrap_or_default().to_lowercase();
        if CHANGING_STARTS.iter().any(|changing| start.starts_with(changing)) {
            self.problems.push(format!(
                "`init_lora_weights` is `{start}`, which also changed the base: the adapter alone is not the whole model"
            ));
        }
        for key in ["alpha_pattern", "rank_pattern"] {
            let patterns = self.configuration.get(key).and_then(Value::as_object);
            for pattern in patterns.into_iter().flat_map(Map::keys) {
                if at_end_of_path(pattern).is_err() {
                    self.problems
                        .push(format!("`{key}` has `{pattern}`, which is no pattern"));
                }
            }
        }
        for key in [
            "layer_replication",
            "alora_invocation_tokens",
            "use_qalora",
            "trainable_token_indices",
        ] {
            let is_set = self
                .configuration
                .get(key)
                .is_some_and(|value| !value.is_null() && *value != Value::Bool(false));
            if is_set {
                self.problems.push(format!(
                    "`{key}` is set, which changes what the tensors mean and is not applied"
                ));
            }
        }
        if self.flag("lora_bias") {
            self.problems
                .push("`lora_bias` is set, and the biases are not read".to_owned());
        }
        if matches!(self.text("bias").as_deref(), Some("all" | "lora_only")) {
            self.problems
                .push("`bias` asks for trained biases, and they are not read".to_owned());
        }
    }
}

fn usable_rank(rank: u64) -> Option<u32> {
    u32::try_from(rank).ok().filter(|&rank| rank > 0)
}

/// PEFT's patterns are Python's, with look-around; it must match a whole path.
fn at_end_of_path(pattern: &str) -> Result<Regex, onig::Error> {
    Regex::new(&format!(r"^(.*\.)?({pattern})$"))
}
