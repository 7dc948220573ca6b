use std::collections::BTreeMap;

use mlx_rs::error::Exception;
use thiserror::Error;

use super::StoredAdapter;
use crate::model::CausalModel;
use crate::suggestion::closest;

/// Why an adapter is not in a set, or cannot be.
#[derive(Debug, Error)]
pub enum AdapterSetError {
    /// The name is taken.
    #[error("there is an adapter `{name}` already\n  hint: remove it first, or choose another name")]
    Taken {
        /// The name.
        name: String,
    },
    /// There is no adapter of this name.
    #[error("there is no adapter `{name}`\n  found: {found}{}", suggestion.as_ref().map_or_else(String::new, |name| format!("\n  hint: did you mean `{name}`?")))]
    Unknown {
        /// The name.
        name: String,
        /// The names there are.
        found: String,
        /// The nearest of them.
        suggestion: Option<String>,
    },
    /// The adapter does not fit the base; see what was applied and what was not.
    #[error("the adapter `{name}` does not fit the base\n  found: {found}\n  expected: an adapter of this model")]
    Unfit {
        /// The name.
        name: String,
        /// The first thing that is wrong.
        found: String,
    },
    /// MLX failed.
    #[error("the adapter could not be applied: {}", .0.what())]
    Mlx(#[from] Exception),
}

/// Several adapters on one base, of which each gives a model of its own.
///
/// The base is in memory once: models that share it hold handles of the same arrays.
#[derive(Debug)]
pub struct AdapterSet {
    base: CausalModel,
    models: BTreeMap<String, CausalModel>,
}

impl AdapterSet {
    /// A set of none.
    pub fn new(base: CausalModel) -> Self {
        Self {
            base,
            models: BTreeMap::new(),
        }
    }

    /// Adds an adapter, which has to fit the base whole.
    ///
    /// # Errors
    /// The name is taken, or a tensor is missing, unused or of another shape; the set is as before then.
    pub fn add(&mut self, name: &str, adapter: &StoredAdapter) -> Result<(), AdapterSetError> {
        if self.models.contains_key(name) {
            return Err(AdapterSetError::Taken { name: name.to_owned() });
        }
        let mut model = self.base.clone();
        let applied = adapter.apply(&mut model)?;
        if let Some(found) = adapter.faults(&applied).into_iter().next() {
            return Err(AdapterSetError::Unfit {
                name: name.to_owned(),
                found,
            });
        }
        self.models.insert(name.to_owned(), model);
        Ok(())
    }

    /// The model without an adapter.
    pub fn base(&self) -> &CausalModel {
        &self.base
    }

    /// The model with the adapter `name`.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn model(&self, name: &str) -> Result<&CausalModel, AdapterSetError> {
        self.models.get(name).ok_or_else(|| self.unknown(name))
    }

    /// Takes an adapter out; the others stay as they are.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn remove(&mut self, name: &str) -> Result<(), AdapterSetError> {
        match self.models.remove(name) {
            Some(_) => Ok(()),
            None => Err(self.unknown(name)),
        }
    }

    /// The names of all adapters, sorted.
    pub fn names(&self) -> Vec<&str> {
        self.models.keys().map(String::as_str).collect()
    }

    /// The model without an adapter, and those with each, by name.
    pub fn into_models(self) -> (CausalModel, BTreeMap<String, CausalModel>) {
        (self.base, self.models)
    }

    fn unknown(&self, name: &str) -> AdapterSetError {
        let names = self.names();
        AdapterSetError::Unknown {
            name: name.to_owned(),
            found: if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            },
            suggestion: closest(name, names).map(str::to_owned),
        }
    }
}
