use std::collections::BTreeMap;

use mlx_rs::error::Result;
use mlx_rs::{Array, Dtype};

/// Turns gradients into new parameters.
pub trait Optimizer {
    /// Name for the report, for example `adamw`.
    fn name(&self) -> &'static str;

    /// Replaces each of `parameters` by its next value; `gradients` has the same keys.
    fn update(
        &mut self,
        parameters: &mut BTreeMap<String, Array>,
        gradients: &BTreeMap<String, Array>,
        learning_rate: f64,
    ) -> Result<()>;

    /// Updates made so far.
    fn step_count(&self) -> u64;

    /// The arrays that carry over from step to step.
    fn state(&self) -> Vec<&Array>;
}

/// Which parameters weight decay draws towards zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DecayScope {
    /// All, as MLX does.
    #[default]
    Everything,
    /// Matrices only: decay of a norm's or a bias's few values shrinks what they scale or shift, and regularises nothing
    /// (as in GPT-2's and nanoGPT's training).
    Matrices,
}

impl DecayScope {
    fn covers(self, parameter: &Array) -> bool {
        self == Self::Everything || parameter.ndim() >= 2
    }
}

/// What an update rule is told beside parameter and gradient.
#[derive(Debug, Clone, Copy)]
pub struct Update {
    /// This update, counted from 1.
    pub step: u64,
    /// Learning rate of this update.
    pub learning_rate: f64,
    /// Whether weight decay applies to this parameter.
    pub decays: bool,
    /// Element type of the parameter.
    dtype: Dtype,
}

impl Update {
    /// `value` as a scalar of the parameter's type: one of f32 would promote 16-bit parameters.
    pub fn scalar(&self, value: f64) -> Result<Array> {
        Array::from_f32(value as f32).as_dtype(self.dtype)
    }
}

/// How one parameter follows from its gradient and the arrays that are kept for it.
pub trait UpdateRule {
    /// Name for the report.
    const NAME: &'static str;

    /// Names of the arrays that are kept for `parameter`.
    fn slots(&self, parameter: &Array) -> &'static [&'static str];

    /// The first value of a slot; `gradient` is the first one.
    fn first(&self, slot: &str, gradient: &Array) -> Result<Array>;

    /// The next value of `parameter`; `kept` are its slots in the order of [`Self::slots`] and are replaced.
    fn next(&self, parameter: &Array, gradient: &Array, kept: &mut [Array], update: Update) -> Result<Array>;
}

/// What is kept for one parameter, by slot.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) slots: &'static [&'static str],
    pub(super) arrays: Vec<Array>,
}

/// An optimizer that treats every parameter by itself.
#[derive(Debug)]
pub struct PerParameter<Rule> {
    pub(super) rule: Rule,
    pub(super) kept: BTreeMap<String, Kept>,
    pub(super) step_count: u64,
    decay_scope: DecayScope,
}

impl<Rule: UpdateRule> PerParameter<Rule> {
    /// A fresh optimizer of this rule.
    pub fn of(rule: Rule) -> Self {
        Self {
            rule,
            kept: BTreeMap::new(),
            step_count: 0,
            decay_scope: DecayScope::default(),
        }
    }

    /// The same with weight decay on `scope` only.
    #[must_use]
    pub fn with_decay_scope(self, scope: DecayScope) -> Self {
        Self {
            decay_scope: scope,
            ..self
        }
    }
}

impl<Rule: UpdateRule> Optimizer for PerParameter<Rule> {
    fn name(&self) -> &'static str {
        Rule::NAME
    }

    fn update(
        &mut self,
        parameters: &mut BTreeMap<String, Array>,
        gradients: &BTreeMap<String, Array>,
        learning_rate: f64,
    ) -> Result<()> {
        self.step_count += 1;
        for (name, parameter) in parameters {
            let Some(gradient) = gradients.get(name) else {
                continue;
            };
            if !self.kept.contains_key(name) {
                let slots = self.rule.slots(parameter);
                let first = slots.iter().map(|slot| self.rule.first(slot, gradient));
                let arrays = first.collect::<Result<_>>()?;
                self.kept.insert(name.clone(), Kept { slots, arrays });
            }
            let Some(kept) = self.kept.get_mut(name) else {
                continue;
            };
            let update = Update {
                step: self.step_count,
                learning_rate,
                decays: self.decay_scope.covers(parameter),
                dtype: parameter.dtype(),
            };
            *parameter = self.rule.next(parameter, gradient, &mut kept.arrays, update)?;
        }
        Ok(())
    }

    fn step_count(&self) -> u64 {
        self.step_count
    }

    fn state(&self) -> Vec<&Array> {
        self.kept.values().flat_map(|kept| &kept.arrays).collect()
    }
}
