//! Faults in the model that answers and in what ends an answer.

use std::collections::BTreeSet;

use super::{Family, Fault, FaultError, Needs, Operator, RunFiles};
use crate::diagnosis::DiagnosisOptions;
use crate::model::{CausalModel, StopSet};
use crate::workflow::Workflow;

/// Generation with a model that something makes from the trained one and the one before training.
struct Answered<F>(F);

impl<F: Fn(&CausalModel, &CausalModel) -> CausalModel> Workflow for Answered<F> {
    fn model_for_generation(&self, trained: &CausalModel, before: &CausalModel) -> CausalModel {
        (self.0)(trained, before)
    }
}

impl<F: Fn(&CausalModel, &CausalModel) -> CausalModel> Fault for Answered<F> {}

pub static STALE_GENERATION: Operator = Operator {
    name: "stale-generation",
    family: Family::Generation,
    summary: "answers come from a copy of the model from before training",
    citation: "https://github.com/ml-explore/mlx-lm/issues/1248",
    severities: &[1.0],
    make: |_| Box::new(Answered(|_: &CausalModel, before: &CausalModel| before.clone())),
    needs: Needs::Adapters,
};

pub static ADAPTER_NOT_LOADED: Operator = Operator {
    name: "adapter-not-loaded",
    family: Family::Generation,
    summary: "answers come from the base without adapters",
    citation: "https://github.com/ml-explore/mlx-examples/issues/425",
    severities: &[1.0],
    make: |_| {
        Box::new(Answered(|trained: &CausalModel, _: &CausalModel| {
            let mut bare = trained.clone();
            for (_, linear) in bare.linears_mut() {
                linear.remove_adapter();
            }
            bare
        }))
    },
    needs: Needs::Adapters,
};

/// Dropout stays on while answering.
struct DropoutOn {
    probability: f32,
}

impl Workflow for DropoutOn {
    fn model_for_generation(&self, trained: &CausalModel, _before: &CausalModel) -> CausalModel {
        let mut model = trained.clone();
        model.set_training(true);
        model
    }
}

impl Fault for DropoutOn {
    fn alter(&self, options: &mut DiagnosisOptions, _files: &RunFiles) -> Result<(), FaultError> {
        options.lora.dropout = self.probability;
        Ok(())
    }
}

pub static DROPOUT_ON: Operator = Operator {
    name: "dropout-on",
    family: Family::Generation,
    summary: "dropout of this probability stays on while answering",
    citation: "https://github.com/huggingface/peft/issues/2438",
    severities: &[0.05, 0.3],
    make: |probability| {
        Box::new(DropoutOn {
            probability: probability as f32,
        })
    },
    needs: Needs::Adapters,
};

/// Some stop token is not known to the generator.
struct StopForgotten;

impl Workflow for StopForgotten {
    fn stop_ids(&self, stop_set: &StopSet) -> BTreeSet<u32> {
        // The last one ends a turn in the tiny models' vocabularies.
        let mut ids: BTreeSet<u32> = stop_set.ids().into_iter().collect();
        ids.pop_last();
        ids
    }
}

impl Fault for StopForgotten {}

pub static STOP_FORGOTTEN: Operator = Operator {
    name: "stop-forgotten",
    family: Family::EndOfText,
    summary: "the generator does not know the token that ends a turn",
    citation: "https://github.com/Blaizzy/mlx-vlm/issues/309",
    severities: &[1.0],
    make: |_| Box::new(StopForgotten),
    needs: Needs::Adapters,
};
