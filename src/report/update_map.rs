use std::collections::{BTreeMap, BTreeSet};

use crate::evidence::{Evidence, ModuleUpdate, ParameterEvidence, TensorChange};

/// Layers beyond this number get no row: no model has as many, and a file may say anything.
const MOST_LAYERS: usize = 1000;

/// The projections of a block in the order in which data meets them; others follow by name.
const ORDER: &[&str] = &[
    "input_layernorm",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.q_norm",
    "self_attn.k_norm",
    "self_attn.o_proj",
    "post_attention_layernorm",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// Whose changes a map shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateKind {
    /// What the adapters add to the weights.
    Adapters,
    /// The difference of the weights themselves.
    Weights,
}

/// How much one weight changed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum UpdateSize {
    /// Norm of the change over the norm of the weight before; exactly 0 when nothing changed.
    Relative(f64),
    /// The change is not finite, or the weight was zero before.
    NoRatio,
}

/// The size of every update, by layer and by projection.
#[derive(Debug, Clone, PartialEq)]
pub struct UpdateMap {
    /// Whose changes these are.
    pub kind: UpdateKind,
    /// Paths within a block, for example `self_attn.q_proj`.
    pub columns: Vec<String>,
    /// One row for each layer from the first, one cell for each column; `None` where nothing was trained.
    pub rows: Vec<Vec<Option<UpdateSize>>>,
    /// Weights outside of the blocks, by path.
    pub elsewhere: Vec<(String, UpdateSize)>,
}

impl UpdateMap {
    /// The map of the run; `None` when parameters were not compared or nothing was there to change.
    pub(super) fn of(evidence: &Evidence) -> Option<Self> {
        let parameters = evidence.parameters.ran()?;
        let (kind, sizes) = sizes(parameters);
        let layers = evidence.model.ran().map_or(0, |model| model.layers);
        (!sizes.is_empty()).then(|| Self::arranged(kind, sizes, layers))
    }

    fn arranged(kind: UpdateKind, sizes: Vec<(String, UpdateSize)>, layers: usize) -> Self {
        let mut elsewhere = Vec::new();
        let mut by_place: BTreeMap<(usize, String), UpdateSize> = BTreeMap::new();
        for (path, size) in sizes {
            match in_block(&path) {
                Some((layer, column)) if layer < MOST_LAYERS => {
                    by_place.insert((layer, column.to_owned()), size);
                }
                _ => elsewhere.push((path, size)),
            }
        }
        let named: BTreeSet<&String> = by_place.keys().map(|(_, column)| column).collect();
        let mut columns: Vec<String> = named.into_iter().cloned().collect();
        columns.sort_by_key(|column| ORDER.iter().position(|known| known == column).unwrap_or(ORDER.len()));
        let deepest = by_place.keys().map(|(layer, _)| layer + 1).max().unwrap_or(0);
        // A map of no cell needs no row.
        let height = if deepest == 0 {
            0
        } else {
            deepest.max(layers.min(MOST_LAYERS))
        };
        let rows = (0..height)
            .map(|layer| {
                let cell = |column: &String| by_place.get(&(layer, column.clone())).copied();
                columns.iter().map(cell).collect()
            })
            .collect();
        Self {
            kind,
            columns,
            rows,
            elsewhere,
        }
    }

    /// The sizes that are numbers, of all cells and of what is outside of the blocks.
    pub fn ratios(&self) -> impl Iterator<Item = f64> {
        let cells = self.rows.iter().flatten().flatten();
        let elsewhere = self.elsewhere.iter().map(|(_, size)| size);
        cells.chain(elsewhere).filter_map(|size| match size {
            UpdateSize::Relative(ratio) => Some(*ratio),
            UpdateSize::NoRatio => None,
        })
    }
}

/// The adapters' updates; where there is none, the changes of the weights themselves, be they asked for or not.
fn sizes(parameters: &ParameterEvidence) -> (UpdateKind, Vec<(String, UpdateSize)>) {
    let updates = parameters.adapter.as_ref().map_or(&[][..], |adapter| &adapter.updates);
    if updates.is_empty() {
        let sizes = parameters.changes.iter().map(of_weight).collect();
        return (UpdateKind::Weights, sizes);
    }
    (UpdateKind::Adapters, updates.iter().map(of_adapter).collect())
}

fn of_adapter(update: &ModuleUpdate) -> (String, UpdateSize) {
    (update.module.clone(), ratio(update.relative))
}

fn of_weight(change: &TensorChange) -> (String, UpdateSize) {
    let path = change.name.strip_suffix(".weight").unwrap_or(&change.name);
    let size = match change.norm_difference {
        // A tensor of zeros that did not change has no ratio either, but nothing happened to it.
        Some(0.0) => Some(0.0),
        difference => difference.map(|difference| difference / change.norm_before),
    };
    (path.to_owned(), ratio(size))
}

fn ratio(value: Option<f64>) -> UpdateSize {
    match value {
        Some(ratio) if ratio.is_finite() && ratio >= 0.0 => UpdateSize::Relative(ratio),
        _ => UpdateSize::NoRatio,
    }
}

/// The layer and the path within it, for example 3 and `self_attn.q_proj` of `model.layers.3.self_attn.q_proj`.
fn in_block(path: &str) -> Option<(usize, &str)> {
    // GPT-2 calls its list of blocks `h`.
    let (before, rest) = path.split_once(".layers.").or_else(|| path.split_once(".h."))?;
    let (number, column) = rest.split_once('.')?;
    let layer = number.parse().ok()?;
    (!before.is_empty() && !column.is_empty()).then_some((layer, column))
}
