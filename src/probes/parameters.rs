//! Parameters before against after.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use mlx_rs::Array;
use mlx_rs::error::Result;

use crate::adapter::attached_modules;
use crate::evidence::{AdapterEvidence, GroupChange, Listing, ModuleUpdate, ParameterEvidence, TensorChange};
use crate::model::CausalModel;
use crate::param_diff::{ParameterDifference, compare};
use crate::param_snapshot::ParameterSnapshot;
use crate::readback::{is_finite, largest_magnitude};

/// The states that are compared.
#[derive(Debug)]
pub struct ParameterProbe<'run> {
    /// As loaded.
    pub base: &'run ParameterSnapshot,
    /// With adapters attached, before the first step.
    pub before: &'run ParameterSnapshot,
    /// Modules that should carry adapters; `None` when all weights were to be trained.
    pub expected_adapters: Option<&'run [String]>,
    /// Largest difference of logits between base and fresh adapters.
    pub identity_difference: Option<f64>,
    /// How much each adapter changes its layer, sorted by path.
    pub updates: &'run [ModuleUpdate],
}

impl ParameterProbe<'_> {
    /// Compares with `trained`.
    pub fn measure(&self, trained: &CausalModel) -> Result<ParameterEvidence> {
        let started = Instant::now();
        let after = ParameterSnapshot::capture(trained);
        let difference = compare(self.before, &after)?;
        let trainable: BTreeSet<String> = ParameterSnapshot::capture_trainable(trained)
            .into_parameters()
            .into_keys()
            .collect();
        let changed = |difference: &&ParameterDifference| difference.changed_values > 0;
        let is_trainable = |difference: &&ParameterDifference| trainable.contains(&difference.name);
        let compared = &difference.compared;
        let values = |name: &String| after.parameters().get(name).map_or(0, Array::size) as u64;
        let is_base = |difference: &&ParameterDifference| self.base.parameters().contains_key(&difference.name);
        Ok(ParameterEvidence {
            tensors: after.parameters().len(),
            values: after.parameters().values().map(|array| array.size() as u64).sum(),
            trainable_tensors: trainable.len(),
            trainable_values: trainable.iter().map(values).sum(),
            changed: compared.iter().filter(changed).count(),
            unchanged: compared.iter().filter(|difference| !changed(difference)).count(),
            changed_trainable: compared.iter().filter(changed).filter(is_trainable).count(),
            unchanged_trainable: names(compared.iter().filter(is_trainable).filter(|one| !changed(one))),
            changed_base: match self.expected_adapters {
                Some(_) => names(compared.iter().filter(changed).filter(is_base)),
                None => names([].iter()),
            },
            appeared_or_vanished: difference
                .appeared
                .iter()
                .chain(&difference.vanished)
                .cloned()
                .collect(),
            non_finite: non_finite(&after)?,
            groups: groups(compared),
            changes: compared
                .iter()
                .filter(|one| is_trainable(one) || changed(one))
                .map(tensor_change)
                .collect(),
            adapter: match self.expected_adapters {
                Some(expected) => Some(self.adapter(expected, trained, &after)?),
                None => None,
            },
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    fn adapter(
        &self,
        expected: &[String],
        trained: &CausalModel,
        after: &ParameterSnapshot,
    ) -> Result<AdapterEvidence> {
        let attached = attached_modules(trained);
        let layers = trained.adaptable();
        let prefix = trained.block_prefix();
        let adapted = layers.iter().filter(|(_, layer)| layer.low_rank().is_some());
        let settings = adapted.clone().filter_map(|(_, layer)| layer.low_rank());
        let tensors: BTreeMap<&String, &Array> = after
            .parameters()
            .iter()
            .filter(|(name, _)| name.ends_with(".lora_a") || name.ends_with(".lora_b"))
            .collect();
        let nonzero = |suffix: &str| -> Result<usize> {
            let mut count = 0;
            for (name, array) in &tensors {
                count += usize::from(name.ends_with(suffix) && largest_magnitude(array)? != 0.0);
            }
            Ok(count)
        };
        Ok(AdapterEvidence {
            expected: expected.iter().cloned().collect(),
            nonzero_a: nonzero(".lora_a")?,
            nonzero_b: nonzero(".lora_b")?,
            tensors: tensors.into_keys().cloned().collect(),
            ranks: sorted(adapted.filter_map(|(_, layer)| layer.rank()).map(|rank| rank as usize)),
            scales: sorted_floats(settings.clone().map(|settings| f64::from(settings.scale))),
            dropouts: sorted_floats(settings.map(|settings| f64::from(settings.dropout))),
            blocks: trained.model.layers.len(),
            linear_layers: layers.iter().filter(|(path, _)| path.starts_with(&prefix)).count(),
            adapted_blocks: attached
                .iter()
                .filter_map(|path| path.strip_prefix(prefix.as_str())?.split('.').next())
                .collect::<BTreeSet<_>>()
                .len(),
            updates: self.updates.to_vec(),
            attached: attached.into_iter().collect(),
            identity_difference: self.identity_difference,
        })
    }
}

/// Each value once, in order.
fn sorted(values: impl Iterator<Item = usize>) -> Vec<usize> {
    values.collect::<BTreeSet<_>>().into_iter().collect()
}

/// Each value once, in order.
fn sorted_floats(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    values
}

fn names<'all>(differences: impl Iterator<Item = &'all ParameterDifference>) -> Listing {
    differences.map(|difference| difference.name.clone()).collect()
}

fn tensor_change(difference: &ParameterDifference) -> TensorChange {
    TensorChange {
        name: difference.name.clone(),
        values: difference.values,
        changed_values: difference.changed_values,
        norm_before: difference.norm_before,
        norm_after: finite(difference.norm_after),
        norm_difference: finite(difference.norm_difference),
    }
}

/// By path without block numbers.
fn groups(differences: &[ParameterDifference]) -> Vec<GroupChange> {
    let mut groups: BTreeMap<String, Vec<&ParameterDifference>> = BTreeMap::new();
    for difference in differences {
        let parts = difference.name.split('.').filter(|part| part.parse::<usize>().is_err());
        groups
            .entry(parts.collect::<Vec<_>>().join("."))
            .or_default()
            .push(difference);
    }
    let root_of_squares = |members: &[&ParameterDifference], norm: fn(&ParameterDifference) -> f64| {
        members.iter().map(|member| norm(member).powi(2)).sum::<f64>().sqrt()
    };
    groups
        .into_iter()
        .map(|(name, members)| GroupChange {
            name,
            tensors: members.len(),
            changed: members.iter().filter(|member| member.changed_values > 0).count(),
            norm_before: root_of_squares(&members, |member| member.norm_before),
            norm_difference: finite(root_of_squares(&members, |member| member.norm_difference)),
        })
        .collect()
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

/// The tensors of `snapshot` that hold a NaN or an infinity.
pub fn non_finite(snapshot: &ParameterSnapshot) -> Result<Listing> {
    let mut found = Vec::new();
    for (name, array) in snapshot.parameters() {
        if !is_finite(array)? {
            found.push(name.clone());
        }
    }
    Ok(found.into_iter().collect())
}
