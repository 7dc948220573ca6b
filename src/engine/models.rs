//! A base with its adapters, and which of them a pass can serve together.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use mlx_rs::error::{Exception, Result};
use mlx_rs::module::ModuleParameters;

use crate::model::{CausalModel, Linear, Tenant};

/// Tokens of a pass that belong together: whose they are, and where they stand in its row.
pub(super) type Tenancy = (Option<Rc<str>>, Range<i32>);

/// The base, and what each adapter makes of it.
#[derive(Debug)]
pub(super) struct Models {
    base: CausalModel,
    adapted: BTreeMap<Rc<str>, Adapted>,
    /// The model of the last pass that several adapters shared: while the same sequences decode, it stays the same.
    shared: Option<(Vec<Tenancy>, CausalModel)>,
}

#[derive(Debug)]
struct Adapted {
    model: CausalModel,
    shares: bool,
}

impl Models {
    pub(super) fn new(base: CausalModel, adapters: BTreeMap<String, CausalModel>) -> Result<Self> {
        let mut adapted = BTreeMap::new();
        for (name, model) in adapters {
            let shares = can_share(&base, &model)?;
            adapted.insert(Rc::from(name), Adapted { model, shares });
        }
        Ok(Self {
            base,
            adapted,
            shared: None,
        })
    }

    pub(super) fn base(&self) -> &CausalModel {
        &self.base
    }

    /// Whether sequences of this adapter can share a pass with those of others and of the base.
    pub(super) fn shares(&self, adapter: Option<&str>) -> bool {
        adapter.is_none_or(|name| self.adapted.get(name).is_some_and(|adapted| adapted.shares))
    }

    /// The model for a pass of these tenants, whose ranges follow each other.
    pub(super) fn for_pass(&mut self, tenants: Vec<Tenancy>) -> Result<&CausalModel> {
        if let [(only, _)] = tenants.as_slice() {
            return self.one(only.as_deref());
        }
        if self.shared.as_ref().is_none_or(|(last, _)| *last != tenants) {
            let mut members = Vec::with_capacity(tenants.len());
            for (adapter, tokens) in &tenants {
                let model = adapter.as_deref().map(|name| self.one(Some(name))).transpose()?;
                members.push((tokens.clone(), model));
            }
            let model = shared_model(&self.base, &members);
            self.shared = Some((tenants, model));
        }
        self.shared
            .as_ref()
            .map(|(_, model)| model)
            .ok_or_else(|| Exception::custom("a pass without sequences"))
    }

    fn one(&self, adapter: Option<&str>) -> Result<&CausalModel> {
        match adapter {
            None => Ok(&self.base),
            Some(name) => self
                .adapted
                .get(name)
                .map(|adapted| &adapted.model)
                .ok_or_else(|| Exception::custom(format!("there is no adapter `{name}`"))),
        }
    }
}

/// Whether `adapted` differs from `base` by low-rank adapters on linear layers of the blocks alone. Those see the tokens in
/// the order of the pass; experts, the embedding and the output layer see them in another.
fn can_share(base: &CausalModel, adapted: &CausalModel) -> Result<bool> {
    let prefix = adapted.block_prefix();
    let linears = adapted.linears();
    let is_of_blocks = |path: &str| path.starts_with(&prefix) && linears.iter().any(|(linear, _)| linear == path);
    let layers = adapted.adaptable();
    if layers
        .iter()
        .any(|(path, layer)| layer.low_rank().is_some() && !is_of_blocks(path))
    {
        return Ok(false);
    }
    let theirs = adapted.parameters().flatten();
    // What decides does not depend on the order, and what fails does.
    let own: BTreeMap<_, _> = base.parameters().flatten().into_iter().collect();
    for (name, own) in own {
        let Some(other) = theirs.get(&name) else {
            return Ok(false);
        };
        if own.shape() != other.shape() || own.dtype() != other.dtype() {
            return Ok(false);
        }
        if !own.eq_values(other)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// `base` for one pass in which each of `tenants` has the tokens of its range, with its adapter or none.
fn shared_model(base: &CausalModel, tenants: &[(Range<i32>, Option<&CausalModel>)]) -> CausalModel {
    let layers: Vec<(Range<i32>, Option<Vec<&Linear>>)> = tenants
        .iter()
        .map(|(tokens, adapted)| {
            let linears = adapted.map(|model| model.linears().into_iter().map(|(_, linear)| linear).collect());
            (tokens.clone(), linears)
        })
        .collect();
    let mut shared = base.clone();
    for (index, (_, linear)) in shared.linears_mut().into_iter().enumerate() {
        let of_layer = layers.iter().map(|(tokens, linears)| {
            let layer = linears.as_ref().and_then(|linears| linears.get(index).copied());
            Tenant {
                tokens: tokens.clone(),
                layer: layer.filter(|layer| layer.low_rank.is_some()).cloned(),
            }
        });
        let of_layer: Vec<Tenant> = of_layer.collect();
        if of_layer.iter().any(|tenant| tenant.layer.is_some()) {
            linear.tenants = of_layer;
        }
    }
    shared
}
