//! What saving left behind, against the adapters that are live.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mlx_rs::Array;
use mlx_rs::error::Result;
use serde_json::Value;

use super::state::{largest_difference, same_values};
use crate::adapter::{
    AdapterFileError, LoraSettings, attached_modules, stored_configuration, stored_tensors, target_modules,
};
use crate::evidence::{Listing, ReloadEvidence};
use crate::model::{CausalModel, LowRankSettings};
use crate::param_snapshot::ParameterSnapshot;

/// PEFT's name for the adapter's tensors.
const PEFT_WEIGHTS: &str = "adapter_model.safetensors";
/// What the names of PEFT's tensors begin with.
const PEFT_PREFIX: &str = "base_model.model.";

/// The model whose adapter was saved, and what it is compared on.
#[derive(Debug)]
pub struct ReloadProbe<'run> {
    /// As training left it.
    pub live: &'run CausalModel,
    /// As loaded, before anything was changed.
    pub base: &'run ParameterSnapshot,
    /// The base's logits of the compared row.
    pub base_logits: &'run Array,
    /// The live model's logits of the compared row.
    pub live_logits: &'run Array,
}

/// What came of saving and loading.
#[derive(Debug)]
pub struct Reloaded<'run> {
    /// Tensors that saving says it wrote; `None` when there was nothing to save.
    pub saved: Option<usize>,
    /// Where they were written.
    pub folder: &'run Path,
    /// The model onto which they were loaded.
    pub model: &'run CausalModel,
    /// The settings they were loaded with, or why they were not.
    pub loading: std::result::Result<Option<LoraSettings>, AdapterFileError>,
    /// The logits of `model` on the compared row; `None` when loading was refused.
    pub logits: Option<&'run Array>,
}

impl ReloadProbe<'_> {
    /// Compares what came back with what is live.
    pub fn measure(&self, reloaded: &Reloaded<'_>) -> Result<ReloadEvidence> {
        let stored = match reloaded.saved {
            Some(_) => stored_tensors(reloaded.folder).ok(),
            None => None,
        };
        let (loaded, lost) = if reloaded.loading.is_ok() {
            self.came_back(ParameterSnapshot::capture(reloaded.model).parameters())?
        } else {
            let (loaded, lost) = self.came_back(stored.as_ref().unwrap_or(&BTreeMap::new()))?;
            // A file of adapters has nothing of the base.
            let is_base = |name: &String| self.base.parameters().contains_key(name);
            (loaded, lost.into_iter().filter(|name| !is_base(name)).collect())
        };
        let other_format = reloaded
            .saved
            .and_then(|_| other_format(reloaded.folder, stored.as_ref()))
            .map(str::to_owned);
        Ok(ReloadEvidence {
            saved: reloaded.saved.unwrap_or(0),
            stored: stored.map(|tensors| tensors.len()),
            refused: reloaded
                .loading
                .as_ref()
                .err()
                .map(|error| on_one_line(error, reloaded.folder)),
            loaded,
            lost: lost.into_iter().collect(),
            configuration_problems: if reloaded.saved.is_some() && other_format.is_none() {
                self.configuration_problems(reloaded).into_iter().collect()
            } else {
                Vec::new()
            },
            other_format,
            other_base: self.other_base(reloaded.model)?,
            difference_from_live: match reloaded.logits {
                Some(logits) => largest_difference(logits, self.live_logits)?,
                None => None,
            },
            live_from_base: largest_difference(self.live_logits, self.base_logits)?,
        })
    }

    /// How many adapter tensors of the live model are in `parameters`, and which of all its parameters are not.
    fn came_back(&self, parameters: &BTreeMap<String, Array>) -> Result<(usize, Vec<String>)> {
        let live = ParameterSnapshot::capture(self.live).into_parameters();
        let lost = absent_or_different(&live, parameters)?;
        let is_adapter = |name: &&String| name.ends_with(".lora_a") || name.ends_with(".lora_b");
        let adapters = live.keys().filter(is_adapter).count();
        Ok((adapters - lost.iter().filter(is_adapter).count(), lost))
    }

    fn other_base(&self, model: &CausalModel) -> Result<Listing> {
        let held = ParameterSnapshot::capture(model);
        let other = absent_or_different(self.base.parameters(), held.parameters())?;
        Ok(other.into_iter().collect())
    }

    fn configuration_problems(&self, reloaded: &Reloaded<'_>) -> BTreeSet<String> {
        let live = Figures::of(self.live);
        let mut problems = BTreeSet::new();
        match stored_configuration(reloaded.folder) {
            Ok(written) => {
                written_figures(&written, &live, &mut problems);
                self.written_modules(&written, &mut problems);
            }
            Err(AdapterFileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                problems.insert("there is no `adapter_config.json`".to_owned());
            }
            Err(error) => {
                problems.insert(on_one_line(&error, reloaded.folder));
            }
        }
        // What the file says wrongly is loaded wrongly; once is enough.
        if let (true, Ok(Some(settings))) = (problems.is_empty(), &reloaded.loading) {
            let returned = Figures {
                rank: BTreeSet::from([settings.rank.to_string()]),
                scale: BTreeSet::from([settings.scale.to_string()]),
                dropout: BTreeSet::from([settings.dropout.to_string()]),
            };
            for loaded in [returned, Figures::of(reloaded.model)] {
                for ((name, loaded), (_, live)) in loaded.named().into_iter().zip(live.named()) {
                    if loaded != live {
                        problems.insert(format!(
                            "loading gave {name} {}, the live adapters have {}",
                            in_words(loaded),
                            in_words(live)
                        ));
                    }
                }
            }
        }
        problems
    }

    /// Whether the layers that the file names are those that carry adapters.
    fn written_modules(&self, written: &Value, problems: &mut BTreeSet<String>) {
        let keys = match written.pointer("/lora_parameters/keys") {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(keys) => serde_json::from_value(keys.clone()),
        };
        let Ok(keys) = keys else {
            problems.insert("`keys` is no list of names".to_owned());
            return;
        };
        let layers = match written.get("num_layers") {
            None => {
                problems.insert("`num_layers` is absent".to_owned());
                return;
            }
            Some(layers) => {
                let Some(number) = layers.as_i64() else {
                    problems.insert(format!("`num_layers` is {layers}, not a whole number"));
                    return;
                };
                // Zero and less stand for all blocks in mlx-lm.
                usize::try_from(number).ok().filter(|&layers| layers > 0)
            }
        };
        let settings = LoraSettings {
            layers,
            keys,
            ..LoraSettings::default()
        };
        let live: BTreeSet<String> = attached_modules(self.live).into_iter().collect();
        match target_modules(self.live, &settings) {
            Ok(named) => {
                let named: BTreeSet<String> = named.into_iter().collect();
                if named != live {
                    problems.insert(format!(
                        "`keys` and `num_layers` name {} layers, {} of them among the {} that carry adapters",
                        named.len(),
                        named.intersection(&live).count(),
                        live.len()
                    ));
                }
            }
            Err(error) => {
                let text = error.to_string();
                problems.insert(text.lines().next().unwrap_or_default().to_owned());
            }
        }
    }
}

/// Rank, scale and dropout of all adapters of a model, each value once, as f32 shows it.
#[derive(Debug, PartialEq)]
struct Figures {
    rank: BTreeSet<String>,
    scale: BTreeSet<String>,
    dropout: BTreeSet<String>,
}

impl Figures {
    fn of(model: &CausalModel) -> Self {
        let layers = model.adaptable();
        let settings = |field: fn(LowRankSettings) -> f32| {
            let adapted = layers.iter().filter_map(|(_, layer)| layer.low_rank());
            adapted.map(|settings| field(settings).to_string()).collect()
        };
        Self {
            rank: layers
                .iter()
                .filter_map(|(_, layer)| layer.rank().map(|rank| rank.to_string()))
                .collect(),
            scale: settings(|settings| settings.scale),
            dropout: settings(|settings| settings.dropout),
        }
    }

    /// Each figure by its name in the file.
    fn named(&self) -> [(&'static str, &BTreeSet<String>); 3] {
        [("rank", &self.rank), ("scale", &self.scale), ("dropout", &self.dropout)]
    }
}

/// Names of `expected` that `held` lacks or holds with other bits.
fn absent_or_different(expected: &BTreeMap<String, Array>, held: &BTreeMap<String, Array>) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (name, array) in expected {
        let same = match held.get(name) {
            Some(counterpart) => same_values(counterpart, array)?,
            None => false,
        };
        if !same {
            names.push(name.clone());
        }
    }
    Ok(names)
}

/// Compares rank, scale and dropout in the file with those of the live adapters.
fn written_figures(written: &Value, live: &Figures, problems: &mut BTreeSet<String>) {
    if let Some(kind) = written
        .get("fine_tune_type")
        .filter(|kind| kind.as_str() != Some("lora"))
    {
        problems.insert(format!("`fine_tune_type` is {kind}, the live adapters are `lora`"));
    }
    let Some(parameters) = written.get("lora_parameters") else {
        problems.insert("`lora_parameters` is absent".to_owned());
        return;
    };
    for (name, values) in live.named() {
        match parameters.get(name) {
            None => {
                problems.insert(format!("`{name}` is absent"));
            }
            Some(value) => match value.as_f64() {
                None => {
                    problems.insert(format!("`{name}` is {value}, not a number"));
                }
                Some(number) if *values != BTreeSet::from([(number as f32).to_string()]) => {
                    problems.insert(format!(
                        "`{name}` is {value}, the live adapters have {}",
                        in_words(values)
                    ));
                }
                Some(_) => {}
            },
        }
    }
}

/// The other program in whose format the folder is, if any.
fn other_format(folder: &Path, stored: Option<&BTreeMap<String, Array>>) -> Option<&'static str> {
    let configured = stored_configuration(folder).is_ok_and(|written| written.get("peft_type").is_some());
    let named = stored.is_some_and(|tensors| tensors.keys().any(|name| name.starts_with(PEFT_PREFIX)));
    (configured || named || folder.join(PEFT_WEIGHTS).exists()).then_some("PEFT")
}

fn in_words(values: &BTreeSet<String>) -> String {
    match values.len() {
        0 => "none".to_owned(),
        _ => values.iter().cloned().collect::<Vec<_>>().join(" and "),
    }
}

/// The error without its hints and without the folder, which may be another one in each run.
fn on_one_line(error: &AdapterFileError, folder: &Path) -> String {
    let text = error.to_string().replace(&format!("{}/", folder.display()), "");
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with("hint:"));
    lines.collect::<Vec<_>>().join("; ")
}
