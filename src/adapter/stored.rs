use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;

use mlx_rs::error::Exception;
use mlx_rs::module::{ModuleParameters, Param, update_parameters};
use mlx_rs::ops::divide;
use mlx_rs::{Array, Dtype};

use super::{AdapterFileError, LoraSettings, Places, file, mlx_lm, peft, target_places};
use crate::model::{Adaptable, CausalModel, Linear, LowRankSettings, row_norms};

/// Ending of the narrow matrix's name, `[inputs, rank]`.
pub(super) const LORA_A: &str = "lora_a";
/// Ending of the wide matrix's name, `[rank, outputs]`.
pub(super) const LORA_B: &str = "lora_b";
/// Ending of DoRA's magnitudes, `[outputs]`.
pub(super) const MAGNITUDE: &str = "m";
/// Where mlx-lm keeps the layer that an adapter stands on.
const BENEATH_ADAPTER: &str = ".linear.";

/// The program in whose format an adapter was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdapterFormat {
    /// mlx-lm: `adapters.safetensors` beside `adapter_config.json`.
    MlxLm,
    /// What mlx-examples wrote before mlx-lm: `adapters.npz` without any settings.
    MlxNpz,
    /// PEFT: `adapter_model.safetensors` beside `adapter_config.json`.
    Peft,
    /// No adapter: a model folder of whole weights.
    WholeModel,
}

/// What an adapter folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdapterKind {
    /// Low-rank matrices.
    Lora,
    /// Low-rank matrices and magnitudes.
    Dora,
    /// Whole weights of the last blocks.
    Full,
}

impl AdapterKind {
    /// The name as mlx-lm writes it: `lora`, `dora` or `full`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lora => "lora",
            Self::Dora => "dora",
            Self::Full => "full",
        }
    }
}

/// How the training that left an adapter was set up, as far as its files say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StatedTraining {
    /// The base model.
    pub base: Option<String>,
    /// Peak learning rate.
    pub learning_rate: Option<f64>,
    /// Steps.
    pub steps: Option<usize>,
    /// Rows per step.
    pub batch_size: Option<usize>,
    /// Whether prompts carried no loss.
    pub mask_prompt: Option<bool>,
    /// Longest row in tokens.
    pub max_sequence_length: Option<usize>,
    /// Seed of everything random.
    pub seed: Option<u64>,
}

/// An adapter as its files hold it, in mlx-lm's names and shapes whatever its format.
#[derive(Debug, Clone)]
pub struct StoredAdapter {
    /// The program that wrote it.
    pub format: AdapterFormat,
    /// What it holds.
    pub kind: AdapterKind,
    /// `<module>.lora_a`, `.lora_b`, `.m`, or whole weights.
    pub tensors: BTreeMap<String, Array>,
    /// Rank, scale, dropout and place as configured; the scale is mlx-lm's, which multiplies directly.
    pub settings: LoraSettings,
    /// Scales of modules that have one of their own.
    pub scales: BTreeMap<String, f32>,
    /// The training.
    pub training: StatedTraining,
    /// What its configuration says wrongly or not at all, one clause each.
    pub problems: Vec<String>,
    /// What it holds and cannot be applied here, with the reason, one clause each.
    pub set_aside: Vec<String>,
}

/// What became of a stored adapter's tensors on a model; every listing is sorted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Application {
    /// Modules that should carry an adapter, or weights that should be replaced.
    pub expected: Vec<String>,
    /// Tensors that were applied.
    pub applied: Vec<String>,
    /// Tensors that its configuration calls for and the files lack.
    pub missing: Vec<String>,
    /// Tensors that the model has no place for.
    pub unused: Vec<String>,
    /// Tensors of another shape than the model's, with both shapes.
    pub other_shape: Vec<String>,
    /// What the configuration asks of this model and cannot be, one clause each.
    pub problems: Vec<String>,
    /// Blocks at the model's end that are complete in the files, where the configuration calls for more; `None` when it
    /// does not.
    pub only_last_blocks: Option<usize>,
}

impl Application {
    /// Everything that did not find its place, one clause each; empty for an adapter that fits whole.
    pub fn faults(&self) -> Vec<String> {
        let kinds = [
            ("in its settings", &self.problems),
            ("not in the model", &self.unused),
            ("another shape", &self.other_shape),
            ("missing", &self.missing),
        ];
        let clauses = kinds.into_iter().flat_map(|(what, names)| {
            let named = names.iter();
            named.map(move |name| format!("{what}: {name}"))
        });
        clauses.collect()
    }
}

impl StoredAdapter {
    /// Low-rank matrices of which nothing else is known yet.
    pub(super) fn new(format: AdapterFormat, tensors: BTreeMap<String, Array>) -> Self {
        Self {
            format,
            kind: AdapterKind::Lora,
            tensors,
            settings: LoraSettings::default(),
            scales: BTreeMap::new(),
            training: StatedTraining::default(),
            problems: Vec::new(),
            set_aside: Vec::new(),
        }
    }

    /// Reads the adapter in `folder`, in whichever format it is.
    ///
    /// # Errors
    /// There is none, or its files cannot be read; what they merely say wrongly is in [`Self::problems`].
    pub fn read(folder: &Path) -> Result<Self, AdapterFileError> {
        let has = |name: &str| folder.join(name).exists();
        if has(file::WEIGHTS) {
            mlx_lm::read(folder)
        } else if has(peft::WEIGHTS) {
            peft::read(folder)
        } else if has(mlx_lm::NPZ) {
            mlx_lm::read_npz(folder)
        } else if has(peft::PICKLED_WEIGHTS) {
            Err(AdapterFileError::Pickled {
                path: folder.join(peft::PICKLED_WEIGHTS),
            })
        } else {
            Err(AdapterFileError::NoAdapter {
                folder: folder.to_owned(),
                found: entries(folder),
            })
        }
    }

    /// Reads one file of tensors in mlx-lm's names, for their places only: their settings are not known.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn of_tensors(path: &Path) -> Result<Self, AdapterFileError> {
        mlx_lm::read_tensors(path)
    }

    /// The scale of one module.
    pub fn scale(&self, module: &str) -> f32 {
        self.scales.get(module).copied().unwrap_or(self.settings.scale)
    }

    /// The modules that have a low-rank tensor in the files, sorted.
    pub fn modules(&self) -> BTreeSet<&str> {
        self.tensors
            .keys()
            .filter_map(|name| split(name))
            .map(|(module, _)| module)
            .collect()
    }

    /// Whether any of DoRA's magnitudes is in the files.
    pub fn has_magnitudes(&self) -> bool {
        self.tensors
            .keys()
            .any(|name| matches!(split(name), Some((_, MAGNITUDE))))
    }

    /// Ranks of the stored matrices, sorted, each once.
    pub fn ranks(&self) -> BTreeSet<i32> {
        self.tensors
            .iter()
            .filter(|(name, tensor)| matches!(split(name), Some((_, LORA_A))) && tensor.ndim() == 2)
            .map(|(_, tensor)| tensor.dim(1))
            .collect()
    }

    /// Everything of it that is wrong, unclear or found no place where it was applied, one clause each; empty for an adapter
    /// that did what it was trained to do.
    pub fn faults(&self, application: &Application) -> Vec<String> {
        let clauses = |what: &str, names: &[String]| -> Vec<String> {
            names.iter().map(|name| format!("{what}: {name}")).collect()
        };
        let mut faults = [
            clauses("in its settings", &self.problems),
            clauses("not applied", &self.set_aside),
            application.faults(),
        ]
        .concat();
        if self.kind == AdapterKind::Dora && !self.has_magnitudes() {
            faults.push("missing: the magnitudes (`<layer>.m`) that `dora` calls for".to_owned());
        }
        if application.applied.is_empty() {
            faults.push("no tensor of it could be applied".to_owned());
        }
        faults
    }

    /// Puts everything that fits onto `model`, whose own adapters it replaces and whose base it freezes.
    ///
    /// Lenient, as loaders that people use are: what does not fit is left out, and told.
    ///
    /// # Errors
    /// MLX failed.
    pub fn apply(&self, model: &mut CausalModel) -> Result<Application, Exception> {
        let mut application = self.application_to(&Places::of(model));
        if self.kind == AdapterKind::Dora {
            leave_out_other_layers(model, &mut application);
        }
        match self.kind {
            AdapterKind::Lora | AdapterKind::Dora => {
                self.replace_base_weights(model, &mut application)?;
                self.attach_to(model, &application)?;
            }
            AdapterKind::Full => self.replace_weights(model, &application)?,
        }
        Ok(application)
    }

    /// What becomes of its tensors on a base with these places.
    pub fn application_to(&self, places: &Places) -> Application {
        let mut application = match self.kind {
            AdapterKind::Lora | AdapterKind::Dora => self.low_rank_application(places),
            AdapterKind::Full => self.weight_application(places),
        };
        for listing in [
            &mut application.expected,
            &mut application.applied,
            &mut application.missing,
            &mut application.unused,
            &mut application.other_shape,
        ] {
            listing.sort_unstable();
        }
        application
    }

    fn low_rank_application(&self, places: &Places) -> Application {
        let mut application = Application::default();
        application.expected = self.called_for(places).unwrap_or_else(|problem| {
            application.problems.push(problem);
            self.modules().into_iter().map(str::to_owned).collect()
        });
        let called_for: BTreeSet<&str> = application.expected.iter().map(String::as_str).collect();
        let linears: BTreeSet<&str> = places.linears.iter().map(|(path, _)| path.as_str()).collect();
        let more = self
            .modules()
            .into_iter()
            .filter(|module| linears.contains(*module) && !called_for.contains(module));
        match more.count() {
            0 => {}
            more => application.problems.push(format!(
                "`num_layers` and `keys` do not call for {more} of {} modules that have tensors, and mlx-lm refuses to load them",
                self.modules().len()
            )),
        }
        application.only_last_blocks = self.complete_last_blocks(&application.expected, places);
        if application.only_last_blocks.is_some() {
            let stored = self.modules();
            application.expected.retain(|module| stored.contains(module.as_str()));
        }
        let mut left: BTreeSet<&String> = self.tensors.keys().collect();
        for (module, shape) in &places.linears {
            let names = [LORA_A, LORA_B, MAGNITUDE].map(|ending| format!("{module}.{ending}"));
            for name in &names {
                left.remove(name);
            }
            if self.fits(module, shape, &mut application) {
                application
                    .applied
                    .extend(names.into_iter().filter(|name| self.tensors.contains_key(name)));
            }
        }
        let left = left.into_iter().cloned().collect();
        application.unused = self.place_base_weights(left, places, &mut application);
        let endings: &[&str] = match self.kind {
            AdapterKind::Dora if self.has_magnitudes() => &[LORA_A, LORA_B, MAGNITUDE],
            AdapterKind::Dora | AdapterKind::Lora | AdapterKind::Full => &[LORA_A, LORA_B],
        };
        application.missing = application
            .expected
            .iter()
            .flat_map(|module| endings.iter().map(move |ending| format!("{module}.{ending}")))
            .filter(|name| !self.tensors.contains_key(name))
            .collect();
        application
    }

    /// Finds places for weights of the base that the files hold beside the adapter's; returns the names without one.
    ///
    /// mlx-lm saves whatever was trainable: where nobody froze the base, that is the base too, of which the adapted layers
    /// are called `<module>.linear` then.
    fn place_base_weights(&self, names: Vec<String>, places: &Places, application: &mut Application) -> Vec<String> {
        let mut unused = Vec::new();
        for name in names {
            let place = base_place(&name, |place| places.weights.contains_key(place))
                .and_then(|place| places.weights.get(&place));
            let tensor = &self.tensors[&name];
            match place {
                None => unused.push(name),
                Some(own) if own.as_slice() != tensor.shape() => {
                    application
                        .other_shape
                        .push(format!("{name}: {:?} for {own:?}", tensor.shape()));
                }
                Some(_) => application.applied.push(name),
            }
        }
        unused
    }

    /// Puts the placed weights of the base in their places; says so when they are the base's own.
    fn replace_base_weights(&self, model: &mut CausalModel, application: &mut Application) -> Result<(), Exception> {
        let own = model.parameters().flatten();
        let mut replaced = Vec::new();
        let mut changed = 0;
        for name in &application.applied {
            let place = base_place(name, |place| own.contains_key(place));
            let Some((own, place)) = place.and_then(|place| Some((own.get(place.as_str())?, place))) else {
                continue;
            };
            let tensor = self.tensors[name].as_dtype(own.dtype())?;
            changed += usize::from(!tensor.eq_values(own)?);
            replaced.push((Rc::from(place), tensor));
        }
        // Weights that were trained speak for themselves: the comparison of parameters shows them.
        if changed == 0 && !replaced.is_empty() {
            application.problems.push(format!(
                "its files hold {} weights of the base, unchanged, and mlx-lm refuses to load them",
                replaced.len()
            ));
        }
        update_parameters(model, replaced);
        Ok(())
    }

    /// Whether the files hold both matrices of a module in fitting shapes; notes shapes that do not fit.
    fn fits(&self, module: &str, weight: &[i32], application: &mut Application) -> bool {
        let stored = |ending: &str| self.tensors.get(&format!("{module}.{ending}"));
        let (lora_a, lora_b, magnitude) = (stored(LORA_A), stored(LORA_B), stored(MAGNITUDE));
        let side = |matrix: Option<&Array>, axis| {
            matrix
                .filter(|matrix| matrix.ndim() == weight.len())
                .map(|matrix| matrix.dim(axis))
        };
        // mlx-lm keeps the matrices of experts the other way round.
        let rank = match weight.len() {
            3 => side(lora_a, 1).or_else(|| side(lora_b, 2)),
            _ => side(lora_a, 1).or_else(|| side(lora_b, 0)),
        };
        // A rank of zero would be no matrix.
        let rank = rank.filter(|&rank| rank > 0);
        let (a, b) = match (weight, rank) {
            (&[outputs, inputs], Some(rank)) => (Some(vec![inputs, rank]), Some(vec![rank, outputs])),
            (&[experts, outputs, inputs], Some(rank)) => {
                (Some(vec![experts, rank, inputs]), Some(vec![experts, outputs, rank]))
            }
            _ => (None, None),
        };
        let expected = [
            (LORA_A, lora_a, a),
            (LORA_B, lora_b, b),
            (MAGNITUDE, magnitude, Some(weight[..weight.len().min(1)].to_vec())),
        ];
        let before = application.other_shape.len();
        for (ending, tensor, shape) in expected {
            let Some(tensor) = tensor else {
                continue;
            };
            if shape.as_deref() != Some(tensor.shape()) {
                let expected = shape.map_or_else(|| "two dimensions above 0".to_owned(), |shape| format!("{shape:?}"));
                application
                    .other_shape
                    .push(format!("{module}.{ending}: {:?} for {expected}", tensor.shape()));
            }
        }
        before == application.other_shape.len() && lora_a.is_some() && lora_b.is_some()
    }

    fn attach_to(&self, model: &mut CausalModel, application: &Application) -> Result<(), Exception> {
        let applied: BTreeSet<&str> = application.applied.iter().map(String::as_str).collect();
        model.freeze_parameters(true);
        for (module, layer) in model.adaptable_mut() {
            layer.remove_adapter();
            if !applied.contains(format!("{module}.{LORA_B}").as_str()) {
                continue;
            }
            match layer.as_linear_mut() {
                Some(linear) => self.attach(&module, linear)?,
                None => self.attach_matrices(&module, layer),
            }
        }
        Ok(())
    }

    fn attach_matrices(&self, module: &str, layer: &mut dyn Adaptable) {
        let [lora_a, lora_b] = layer.matrices_mut();
        for (ending, matrix) in [(LORA_A, lora_a), (LORA_B, lora_b)] {
            *matrix = Param::new(self.tensors.get(&format!("{module}.{ending}")).cloned());
        }
        *layer.low_rank_mut() = Some(LowRankSettings {
            scale: self.scale(module),
            dropout: self.settings.dropout,
            training: false,
        });
    }

    /// Puts the tensors of `module` onto its layer, which they must fit.
    pub fn attach(&self, module: &str, linear: &mut Linear) -> Result<(), Exception> {
        let stored = |ending: &str| self.tensors.get(&format!("{module}.{ending}")).cloned();
        self.attach_matrices(module, linear);
        if self.kind == AdapterKind::Dora {
            let magnitude = match stored(MAGNITUDE) {
                Some(magnitude) => magnitude.as_dtype(Dtype::Float32)?,
                // mlx-lm leaves a fresh layer's magnitudes where the file has none: those of the base.
                None => row_norms(&linear.plain_weight()?.as_dtype(Dtype::Float32)?)?,
            };
            linear.output_factors = Some(divide(magnitude, row_norms(&linear.adapted_weight()?)?)?);
        }
        Ok(())
    }

    /// The modules that the configuration calls for, or why it cannot be followed.
    ///
    /// mlx-lm does not store keys that were left out, and its default grew from two layers of a block to all: without keys,
    /// the same layers in every adapted block are complete.
    fn called_for(&self, places: &Places) -> Result<Vec<String>, String> {
        if self.format != AdapterFormat::MlxLm {
            return Ok(self.modules().into_iter().map(str::to_owned).collect());
        }
        let mut settings = self.settings.clone();
        // mlx-lm takes a number beyond the model's depth for all blocks.
        settings.layers = settings.layers.filter(|&layers| layers <= places.blocks);
        let called_for = target_places(places, &settings)
            .map_err(|error| error.to_string().lines().next().unwrap_or_default().to_owned())?;
        if !settings.keys.is_empty() {
            return Ok(called_for);
        }
        let stored: BTreeSet<&str> = self
            .modules()
            .into_iter()
            .filter_map(|module| places.within_block(module).map(|(_, relative)| relative))
            .collect();
        let is_stored = |module: &&String| {
            places
                .within_block(module)
                .is_some_and(|(_, path)| stored.contains(path))
        };
        let as_stored: Vec<String> = called_for.iter().filter(is_stored).cloned().collect();
        Ok(if as_stored.is_empty() { called_for } else { as_stored })
    }

    /// How many blocks at the end of `called_for` are complete in the files when none before them has a tensor there.
    ///
    /// mlx-lm adapts blocks from the end, so such files are whole and only their configuration calls for more blocks.
    fn complete_last_blocks(&self, called_for: &[String], places: &Places) -> Option<usize> {
        let block = |module: &str| places.within_block(module).map(|(block, _)| block);
        let modules = self.modules();
        let first = modules.iter().filter_map(|module| block(module)).min()?;
        let blocks: BTreeSet<usize> = called_for.iter().filter_map(|module| block(module)).collect();
        let is_complete = |module: &String| {
            [LORA_A, LORA_B]
                .iter()
                .all(|ending| self.tensors.contains_key(&format!("{module}.{ending}")))
        };
        let complete = called_for
            .iter()
            .filter(|module| block(module).is_none_or(|block| block >= first))
            .all(is_complete);
        let stored = blocks.range(first..).count();
        (complete && stored > 0 && stored < blocks.len()).then_some(stored)
    }

    fn weight_application(&self, places: &Places) -> Application {
        let mut application = Application::default();
        for (name, tensor) in &self.tensors {
            match places.weights.get(name) {
                None => application.unused.push(name.clone()),
                Some(own) if own.as_slice() != tensor.shape() => {
                    application
                        .other_shape
                        .push(format!("{name}: {:?} for {own:?}", tensor.shape()));
                }
                Some(_) => application.applied.push(name.clone()),
            }
        }
        let blocks = places.blocks;
        let first = blocks - self.settings.layers.unwrap_or(blocks).min(blocks);
        application.expected = places
            .weights
            .keys()
            .filter(|name| places.within_block(name).is_some_and(|(block, _)| block >= first))
            .cloned()
            .collect();
        application.missing = application
            .expected
            .iter()
            .filter(|name| !self.tensors.contains_key(*name))
            .cloned()
            .collect();
        application
    }

    fn replace_weights(&self, model: &mut CausalModel, application: &Application) -> Result<(), Exception> {
        let mut replaced = Vec::new();
        let own = model.parameters().flatten();
        for name in &application.applied {
            if let (Some(tensor), Some(own)) = (self.tensors.get(name), own.get(name.as_str())) {
                replaced.push((Rc::from(name.as_str()), tensor.as_dtype(own.dtype())?));
            }
        }
        update_parameters(model, replaced);
        Ok(())
    }
}

/// The first names in a folder, or why there are none.
fn entries(folder: &Path) -> String {
    const NAMED: usize = 6;
    let mut names: Vec<String> = match folder.read_dir() {
        Ok(entries) => entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect(),
        Err(error) => return error.to_string(),
    };
    names.sort_unstable();
    match names.len() {
        0 => "an empty folder".to_owned(),
        total if total > NAMED => format!("{} and {} more", names[..NAMED].join(", "), total - NAMED),
        _ => names.join(", "),
    }
}

/// Magnitudes are known of linear layers only; mlx-lm refuses those of experts too.
fn leave_out_other_layers(model: &mut CausalModel, application: &mut Application) {
    for (module, layer) in model.adaptable_mut() {
        if layer.as_linear_mut().is_some() {
            continue;
        }
        let of_module = |name: &String| split(name).is_some_and(|(own, _)| own == module);
        let left: Vec<String> = application.applied.extract_if(.., |name| of_module(name)).collect();
        if !left.is_empty() {
            application.problems.push(format!(
                "`{module}` is no linear layer, and DoRA is not applied to others"
            ));
            application.unused.extend(left);
        }
    }
    application.unused.sort_unstable();
}

/// The name under which the base has a weight that is no adapter's.
fn base_place(name: &str, has: impl Fn(&str) -> bool) -> Option<String> {
    let names = [name.to_owned(), name.replace(BENEATH_ADAPTER, ".")];
    names.into_iter().find(|place| split(name).is_none() && has(place))
}

/// A low-rank tensor's module and ending.
fn split(name: &str) -> Option<(&str, &str)> {
    let (module, ending) = name.rsplit_once('.')?;
    [LORA_A, LORA_B, MAGNITUDE]
        .into_iter()
        .find(|known| *known == ending)
        .map(|ending| (module, ending))
}
