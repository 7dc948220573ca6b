//! Reads values out of a configuration and collects everything that is wrong.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;

use serde_json::Value;

use super::configuration::{Configuration, Entry, Origin};
use super::settings::{
    EarlyStopping, GIGABYTE, Method, RunLength, SUPERVISIONS, ScheduleSettings, ScheduleShape, Validation,
};
use crate::adapter::LoraSettings;
use crate::data::{RecordKeys, Supervision};
use crate::device::{BackendKind, MemoryBudget, dtype_named};
use crate::model::{BUNDLED_TEMPLATES, Problem, Problems, TemplateChoice};
use crate::suggestion::closest;
use crate::train::{Decay, OptimizerSettings, SettingError};

/// Keys of mlx-lm that ask for what this program does otherwise or not at all, and what is said about them.
const WITHOUT_EFFECT: [(&str, &str); 9] = [
    ("train", "a run always trains"),
    ("test", "no test set is measured; give the rows for validation instead"),
    ("test_batches", "no test set is measured"),
    ("report_to", "figures go to metrics.jsonl only"),
    ("project_name", "figures go to metrics.jsonl only"),
    ("wandb", "figures go to metrics.jsonl only"),
    ("clear_cache_threshold", "MLX frees its cache by itself"),
    ("trust_remote_code", "no code of a model is ever run"),
    ("config", "a configuration names no other one"),
];

/// Names that other programs, earlier versions of mlx-lm or the command line have for a key.
const OTHER_NAMES: [(&str, &str); 13] = [
    ("alpha", "lora_parameters.alpha"),
    ("dropout", "lora_parameters.dropout"),
    ("lora_alpha", "lora_parameters.alpha"),
    ("lora_dropout", "lora_parameters.dropout"),
    ("lora_keys", "lora_parameters.keys"),
    ("lora_layers", "num_layers"),
    ("lora_rank", "lora_parameters.rank"),
    ("lora_scale", "lora_parameters.scale"),
    ("out", "adapter_path"),
    ("patience", "early_stopping.patience"),
    ("rank", "lora_parameters.rank"),
    ("resume_adapter", "resume_adapter_file"),
    ("scale", "lora_parameters.scale"),
];

/// Largest counts that are believed: far above any real one, so that a slip is noticed.
const LARGEST_COUNT: u64 = 1_000_000_000;
/// Most passes over the data that are believed.
const MOST_EPOCHS: f64 = 1e6;

pub(super) struct SettingsReader<'a> {
    configuration: &'a Configuration,
    /// Keys that something asked for, whether they were given or not.
    known: BTreeSet<String>,
    /// What is wrong, each with where it stands: the layer, and the line of a file.
    problems: Vec<((u8, u64), Problem)>,
    notes: Vec<String>,
}

/// Where a problem is listed: by layer, in a file by line; what nobody gave comes last.
fn place(origin: Option<&Origin>) -> (u8, u64) {
    match origin {
        Some(Origin::Profile(_)) => (0, 0),
        Some(Origin::File { line, .. }) => (1, *line),
        Some(Origin::Option(_)) => (2, 0),
        None => (3, 0),
    }
}

impl<'a> SettingsReader<'a> {
    pub(super) fn new(configuration: &'a Configuration) -> Self {
        Self {
            configuration,
            known: BTreeSet::new(),
            problems: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Everything that is wrong, and what was said beside it.
    pub(super) fn finish(mut self) -> (Problems, Vec<String>) {
        self.problems.sort_by_key(|(place, _)| *place);
        let mut problems = Problems::default();
        for (_, problem) in self.problems {
            problems.push(problem);
        }
        (problems, self.notes)
    }

    fn entry(&mut self, key: &str) -> Option<&'a Entry> {
        self.known.insert(key.to_owned());
        self.configuration.get(key)
    }

    fn problem(&mut self, key: &str, entry: &Entry, expected: impl Into<String>) {
        let found = match &entry.value {
            Value::String(text) => format!("`{text}`"),
            other => other.to_string(),
        };
        self.problem_saying(key, entry, found, expected);
    }

    fn problem_saying(&mut self, key: &str, entry: &Entry, found: impl Into<String>, expected: impl Into<String>) {
        let location = format!("{}: {key}", entry.origin);
        let problem = Problem::new(location, found, expected);
        self.problems.push((place(Some(&entry.origin)), problem));
    }

    fn read<T>(&mut self, key: &str, expected: &str, convert: impl FnOnce(&'a Value) -> Option<T>) -> Option<T> {
        let entry = self.entry(key)?;
        let converted = convert(&entry.value);
        if converted.is_none() {
            self.problem(key, entry, expected);
        }
        converted
    }

    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        self.read(key, "a text", |value| {
            let text = value.as_str().filter(|text| !text.trim().is_empty())?;
            Some(text.to_owned())
        })
    }

    pub(super) fn required(&mut self, key: &str) {
        if self.entry(key).is_none() {
            self.problems
                .push((place(None), Problem::new(key, "nothing", "a value")));
        }
    }

    /// A whole number of at least 1.
    pub(super) fn size(&mut self, key: &str) -> Option<usize> {
        self.read(key, &format!("a whole number from 1 to {LARGEST_COUNT}"), |value| {
            let number = value.as_u64().filter(|number| (1..=LARGEST_COUNT).contains(number))?;
            usize::try_from(number).ok()
        })
    }

    /// A whole number of at least 0.
    fn count(&mut self, key: &str) -> Option<usize> {
        self.read(key, &format!("a whole number from 0 to {LARGEST_COUNT}"), |value| {
            let number = value.as_u64().filter(|number| *number <= LARGEST_COUNT)?;
            usize::try_from(number).ok()
        })
    }

    /// A number of batches or layers, where -1 and 0 stand for all; `default` where nothing is said.
    fn count_or_all(&mut self, key: &str, default: Option<usize>) -> Option<usize> {
        let expected = format!("a whole number from 1 to {LARGEST_COUNT}, or -1 or 0 for all");
        let given = self.read(key, &expected, |value| {
            value
                .as_i64()
                .filter(|number| (-1..=LARGEST_COUNT as i64).contains(number))
        });
        match given {
            None => default,
            Some(number) => usize::try_from(number).ok().filter(|number| *number > 0),
        }
    }

    pub(super) fn positive(&mut self, key: &str) -> Option<f64> {
        // What single precision takes for zero is none above it.
        let expected = format!("a number above 0, at most {:.1e}", f32::MAX);
        self.read(key, &expected, |value| {
            number(value).filter(|number| *number as f32 > 0.0)
        })
    }

    fn at_least_zero(&mut self, key: &str) -> Option<f64> {
        let expected = format!("a number from 0 to {:.1e}", f32::MAX);
        self.read(key, &expected, |value| number(value).filter(|number| *number >= 0.0))
    }

    /// A part of a whole.
    fn part(&mut self, key: &str) -> Option<f64> {
        self.read(key, "a number of at least 0 and below 1", |value| {
            number(value).filter(|part| (0.0..1.0).contains(part))
        })
    }

    pub(super) fn switch(&mut self, key: &str) -> Option<bool> {
        self.read(key, "true or false", Value::as_bool)
    }

    pub(super) fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        self.read(key, &format!("one of {}", names.join(", ")), |value| {
            let given = value.as_str()?;
            choices
                .iter()
                .find(|(name, _)| *name == given)
                .map(|(_, choice)| *choice)
        })
    }

    pub(super) fn seed(&mut self) -> u64 {
        self.read("seed", "a whole number of at least 0", Value::as_u64)
            .unwrap_or(0)
    }

    pub(super) fn learning_rate(&mut self) -> f64 {
        let given = self.positive("learning_rate");
        if let Some(entry) = self
            .configuration
            .get("learning_rate")
            .filter(|_| given.is_some_and(|rate| rate >= 1.0))
        {
            self.problem("learning_rate", entry, "a number below 1; 1e-5 to 1e-3 are usual");
        }
        given.unwrap_or(1e-4)
    }

    pub(super) fn length(&mut self) -> RunLength {
        let expected = format!("a number above 0, at most {MOST_EPOCHS}");
        let epochs = self.read("epochs", &expected, |value| {
            number(value).filter(|epochs| *epochs > 0.0 && *epochs <= MOST_EPOCHS)
        });
        let batches = self.size("iters");
        match (epochs, batches) {
            (Some(_), Some(_)) => {
                if let Some(entry) = self.configuration.get("iters") {
                    self.problem_saying("iters", entry, "both `iters` and `epochs`", "one of the two");
                }
                RunLength::Epochs(1.0)
            }
            (None, Some(batches)) => RunLength::Batches(batches),
            (epochs, None) => RunLength::Epochs(epochs.unwrap_or(3.0)),
        }
    }

    /// What of a row is trained on, by its name or as mlx-lm says it.
    pub(super) fn supervision(&mut self) -> Supervision {
        let named = self.choice("supervision", &SUPERVISIONS);
        let mask_prompt = self.switch("mask_prompt");
        match (named, mask_prompt) {
            (Some(named), None) => named,
            (None, Some(mask_prompt)) => Supervision::of_mask_prompt(mask_prompt),
            (None, None) => Supervision::LastAnswer,
            (Some(named), Some(_)) => {
                if let Some(entry) = self.configuration.get("mask_prompt") {
                    let found = "both `mask_prompt` and `supervision`";
                    self.problem_saying("mask_prompt", entry, found, "one of the two");
                }
                named
            }
        }
    }

    pub(super) fn template(&mut self) -> TemplateChoice {
        let Some(entry) = self.entry("template") else {
            return TemplateChoice::Own;
        };
        let named = entry.value.as_str().map(TemplateChoice::from_str);
        if let Some(Ok(template)) = named {
            return template;
        }
        let known: Vec<&str> = BUNDLED_TEMPLATES.iter().map(|bundled| bundled.name).collect();
        self.problem("template", entry, format!("own, {}", known.join(", ")));
        TemplateChoice::Own
    }

    pub(super) fn record_keys(&mut self) -> RecordKeys {
        let mut keys = RecordKeys::default();
        for (key, name) in [
            ("prompt_feature", &mut keys.prompt_feature),
            ("completion_feature", &mut keys.completion_feature),
            ("chat_feature", &mut keys.chat_feature),
            ("text_feature", &mut keys.text_feature),
        ] {
            if let Some(given) = self.text(key) {
                *name = given;
            }
        }
        keys
    }

    pub(super) fn memory_reserve(&mut self) -> u64 {
        let gigabytes = self.at_least_zero("memory_reserve_gb");
        gigabytes.map_or(MemoryBudget::DEFAULT_RESERVE, |gigabytes| (gigabytes * GIGABYTE) as u64)
    }

    pub(super) fn dtype(&mut self) -> Option<String> {
        self.read("dtype", "float32, bfloat16 or float16", |value| {
            let name = value.as_str()?;
            dtype_named(name).map(|_| name.to_owned())
        })
    }

    pub(super) fn backend(&mut self) -> Option<BackendKind> {
        const OURS: [BackendKind; 3] = [BackendKind::Cpu, BackendKind::Metal, BackendKind::Cuda];
        self.choice("backend", &OURS.map(|kind| (kind.name(), kind)))
    }

    pub(super) fn lora(&mut self) -> LoraSettings {
        let default = LoraSettings::default();
        let rank = self.size("lora_parameters.rank").unwrap_or(default.rank);
        let dropout = self.read(
            "lora_parameters.dropout",
            "a number of at least 0 and below 1",
            |value| number(value).filter(|part| (0.0..1.0).contains(part)),
        );
        let keys = self.read(
            "lora_parameters.keys",
            "a list of paths such as `self_attn.q_proj`",
            |value| {
                let names = value.as_array().filter(|names| !names.is_empty())?;
                names.iter().map(|name| name.as_str().map(str::to_owned)).collect()
            },
        );
        LoraSettings {
            rank,
            scale: self.scale(rank).unwrap_or(default.scale),
            dropout: dropout.map_or(default.dropout, |dropout| dropout as f32),
            layers: self.count_or_all("num_layers", None),
            keys: keys.unwrap_or_default(),
        }
    }

    /// The factor on the adapters' output; `alpha` is PEFT's, divided by the rank, or with rsLoRA by its root (Kalajdzievski
    /// 2023, arXiv 2312.03732).
    fn scale(&mut self, rank: usize) -> Option<f32> {
        let scale = self.at_least_zero("lora_parameters.scale");
        let alpha = self.at_least_zero("lora_parameters.alpha");
        let rank_stabilised = self.switch("lora_parameters.rank_stabilised") == Some(true);
        let rank = rank as f64;
        match (scale, alpha) {
            (Some(_), Some(_)) => {
                if let Some(entry) = self.configuration.get("lora_parameters.alpha") {
                    let found = "both `scale` and `alpha`";
                    self.problem_saying("lora_parameters.alpha", entry, found, "one of the two");
                }
                None
            }
            (None, Some(alpha)) if rank_stabilised => Some((alpha / rank.sqrt()) as f32),
            (None, Some(alpha)) => Some((alpha / rank) as f32),
            (scale, None) => {
                let entry = self.configuration.get("lora_parameters.rank_stabilised");
                if let Some(entry) = entry.filter(|_| rank_stabilised) {
                    let expected = "`alpha` beside it, of which the scale is made";
                    self.problem("lora_parameters.rank_stabilised", entry, expected);
                }
                scale.map(|scale| scale as f32)
            }
        }
    }

    pub(super) fn validation(&mut self) -> Validation {
        Validation {
            split: self.part("validation_split").unwrap_or(0.1),
            every: self.size("steps_per_eval").unwrap_or(50),
            batches: self.count_or_all("val_batches", Some(25)),
        }
    }

    pub(super) fn early_stopping(&mut self) -> Option<EarlyStopping> {
        let patience = self.size("early_stopping.patience");
        let least_improvement = self.at_least_zero("early_stopping.least_improvement");
        if patience.is_none()
            && let Some(entry) = self.configuration.get("early_stopping.least_improvement")
        {
            let expected = "`early_stopping.patience` beside it";
            self.problem("early_stopping.least_improvement", entry, expected);
        }
        Some(EarlyStopping {
            patience: patience?,
            least_improvement: least_improvement.unwrap_or(0.0),
        })
    }

    pub(super) fn optimizer(&mut self) -> OptimizerSettings {
        let names = OptimizerSettings::NAMES.join(", ");
        let chosen = self.read("optimizer", &format!("one of {names}"), |value| {
            OptimizerSettings::named(value.as_str()?)
        });
        let mut optimizer = chosen.unwrap_or(OptimizerSettings::ADAMW);
        optimizer.correct_bias();
        if let Some(decay) = self.at_least_zero("weight_decay") {
            optimizer.set_weight_decay(decay as f32);
        }
        let prefix = format!("optimizer_config.{}.", optimizer.name());
        for (key, entry) in self.configuration.entries() {
            let Some(setting) = key.strip_prefix(&prefix) else {
                // Settings of other optimizers are allowed, as in mlx-lm's example.
                let of_another = OptimizerSettings::NAMES
                    .iter()
                    .any(|name| key.starts_with(&format!("optimizer_config.{name}.")));
                if of_another {
                    self.known.insert(key.clone());
                }
                continue;
            };
            self.known.insert(key.clone());
            match optimizer.set(setting, &entry.value) {
                Ok(()) => {}
                Err(SettingError::Value(expected)) => self.problem(key, entry, expected),
                Err(SettingError::Key(keys)) => {
                    let expected = format!("one of {}", keys.join(", "));
                    self.problem_saying(key, entry, format!("`{setting}`"), expected);
                }
            }
        }
        if let Some(contradiction) = optimizer.contradiction() {
            let found = format!("the settings of {}", optimizer.name());
            let mut entries = self.configuration.entries().iter();
            if let Some((key, entry)) = entries.find(|(key, _)| key.starts_with(&prefix)) {
                self.problem_saying(key, entry, found, contradiction);
            }
        }
        // `optimizer_config: {adamw: }` is an empty table.
        self.known.insert("optimizer_config".to_owned());
        optimizer
    }

    pub(super) fn schedule(&mut self, peak: f64) -> ScheduleSettings {
        const NAMED: [&str; 7] = [
            "constant",
            "linear",
            "cosine",
            "cosine_decay",
            "linear_schedule",
            "exponential_decay",
            "step_decay",
        ];
        let expected = format!("one of {}", NAMED.join(", "));
        // `lr_schedule: cosine` is short for a table with this name.
        let key = if self.configuration.get("lr_schedule").is_some() {
            "lr_schedule"
        } else {
            "lr_schedule.name"
        };
        let name = self.read(key, &expected, |value| {
            value.as_str().filter(|name| NAMED.contains(name))
        });
        let arguments = self.read("lr_schedule.arguments", "a list of numbers", |value| {
            value.as_array()?.iter().map(number).collect::<Option<Vec<f64>>>()
        });
        let of_table = self.count("lr_schedule.warmup");
        let warmup_steps = self.count("warmup_steps").or(of_table).unwrap_or(0);
        let warmup_init = self.at_least_zero("lr_schedule.warmup_init");
        let warmup_ratio = self.part("lr_schedule.warmup_ratio");
        if let Some(entry) = self
            .configuration
            .get("lr_schedule.warmup_ratio")
            .filter(|_| of_table.is_some())
        {
            let found = "both `warmup` and `warmup_ratio`";
            self.problem_saying("lr_schedule.warmup_ratio", entry, found, "one of the two");
        }
        let end_ratio = self.part("lr_schedule.end_ratio");
        let name = name.unwrap_or("constant");
        let shape = match name {
            "constant" => ScheduleShape::Constant,
            "linear" => ScheduleShape::Linear,
            "cosine" => ScheduleShape::Cosine,
            decaying => self.given_decay(decaying, arguments.as_deref(), peak),
        };
        let is_mlx_lm_s = matches!(shape, ScheduleShape::Given(_));
        ScheduleSettings {
            shape,
            warmup_steps,
            // A number that was typed goes before the part of a profile.
            warmup_ratio: warmup_ratio.filter(|_| warmup_steps == 0),
            end_ratio: end_ratio.unwrap_or(0.0),
            // mlx-lm's warm-up begins at zero where nothing is said.
            warmup_init: warmup_init.or((is_mlx_lm_s && warmup_steps > 0).then_some(0.0)),
        }
    }

    /// A decay of mlx-lm's, by the arguments of MLX's function.
    fn given_decay(&mut self, name: &str, arguments: Option<&[f64]>, peak: f64) -> ScheduleShape {
        let whole = |steps: f64| (steps >= 1.0 && steps.fract() == 0.0).then_some(steps as usize);
        let decay = match (name, arguments.unwrap_or_default()) {
            ("cosine_decay", &[_, steps]) => whole(steps).map(|steps| Decay::Cosine { steps, end: 0.0 }),
            ("cosine_decay", &[_, steps, end]) => whole(steps).map(|steps| Decay::Cosine { steps, end }),
            ("linear_schedule", &[_, end, steps]) => whole(steps).map(|steps| Decay::Linear { steps, end }),
            ("exponential_decay", &[_, factor]) => Some(Decay::Exponential { factor }),
            ("step_decay", &[_, factor, every]) => whole(every).map(|every| Decay::Steps { factor, every }),
            _ => None,
        };
        let key = "lr_schedule.arguments";
        let origin = self
            .configuration
            .get(key)
            .or_else(|| self.configuration.get("lr_schedule.name"));
        if let Some(entry) = origin {
            if decay.is_none() {
                let expected = match name {
                    "cosine_decay" => "[initial rate, steps] or [initial rate, steps, end]",
                    "linear_schedule" => "[initial rate, end, steps]",
                    "exponential_decay" => "[initial rate, factor]",
                    _ => "[initial rate, factor, steps]",
                };
                self.problem(key, entry, format!("{expected} for {name}"));
            } else if let Some(&[initial, ..]) = arguments
                && self.configuration.get("learning_rate").is_some()
                && (initial - peak).abs() > f64::EPSILON * peak
            {
                self.problem_saying(
                    key,
                    entry,
                    format!("an initial rate of {initial:e} beside a learning_rate of {peak:e}"),
                    "one learning rate",
                );
            }
        }
        ScheduleShape::Given(decay.unwrap_or(Decay::Constant))
    }

    /// The adapter that is gone on from.
    pub(super) fn resume_adapter(&mut self, method: Method) -> Option<PathBuf> {
        let key = "resume_adapter_file";
        let adapter = self.text(key)?;
        if method == Method::Full
            && let Some(entry) = self.configuration.get(key)
        {
            let expected = "`fine_tune_type: lora` or `dora`, which train adapters";
            self.problem_saying(key, entry, "an adapter where all weights are trained", expected);
        }
        Some(adapter.into())
    }

    /// Says which settings of adapters were given where there are none. A profile is for every kind of training.
    pub(super) fn without_adapters(&mut self) {
        for (key, entry) in self.configuration.entries() {
            let is_of_adapters = key.starts_with("lora_parameters.")
                || key == "num_layers" && entry.value.as_i64().is_some_and(|layers| layers > 0);
            if is_of_adapters && !matches!(entry.origin, Origin::Profile(_)) {
                let reason = "all weights of all blocks are trained";
                self.notes
                    .push(format!("{}: `{key}` has no effect: {reason}", entry.origin));
            }
        }
    }

    /// Says what does not apply.
    pub(super) fn without_effect(&mut self) {
        for (key, reason) in WITHOUT_EFFECT {
            if let Some(entry) = self.entry(key) {
                // `train: true` and `test: false` ask for what is done anyway.
                let is_as_asked = entry.value == Value::Bool(key == "train");
                if !is_as_asked {
                    let note = format!("{}: `{key}` has no effect: {reason}", entry.origin);
                    self.notes.push(note);
                }
            }
        }
        let hub = self
            .configuration
            .entries()
            .iter()
            .find(|(key, _)| key.starts_with("hf_dataset"));
        if let Some((key, entry)) = hub {
            let expected = "`data` with a folder or file; datasets of the hub are not downloaded";
            self.problem_saying(key, entry, "a dataset of the hub", expected);
            let keys = self.configuration.entries().keys();
            self.known
                .extend(keys.filter(|key| key.starts_with("hf_dataset")).cloned());
        }
    }

    /// Every key that nothing asked for is a problem, with the nearest one that exists.
    pub(super) fn unknown_keys(&mut self) {
        self.known.insert("profile".to_owned());
        for (key, entry) in self.configuration.entries() {
            if self.known.contains(key) {
                continue;
            }
            let prefix = format!("{key}.");
            let below: Vec<&str> = self
                .known
                .iter()
                .filter_map(|known| known.strip_prefix(&prefix))
                .collect();
            if !below.is_empty() {
                let expected = format!("a table with {}", below.join(", "));
                self.problem(key, entry, expected);
                continue;
            }
            let expected = self.meant_by(key).map_or_else(
                || "a setting of a run; `diagnose train start --help` lists them".to_owned(),
                |meant| format!("a setting of a run; did you mean `{meant}`?"),
            );
            self.problem_saying(key, entry, "an unknown key", expected);
        }
    }

    /// The key that somebody may have meant by one that there is not.
    fn meant_by(&self, key: &str) -> Option<&str> {
        // On the command line, words are joined by dashes.
        let key = key.replace('-', "_");
        let other = OTHER_NAMES.iter().find(|(other, _)| *other == key);
        other
            .map(|(_, known)| *known)
            .or_else(|| closest(&key, self.known.iter().map(String::as_str)))
    }
}

/// A number that is finite in single precision too, in which everything is computed; YAML of other programs gives `1e-5`
/// as a text.
fn number(value: &Value) -> Option<f64> {
    let number: f64 = match value {
        Value::String(text) => text.trim().parse().ok()?,
        other => other.as_f64()?,
    };
    (number as f32).is_finite().then_some(number)
}
