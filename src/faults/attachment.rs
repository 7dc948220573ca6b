//! Faults in attaching adapters and freezing the base.

use mlx_rs::module::{ModuleParameters, Parameter};
use mlx_rs::ops::{multiply, zeros_like};
use mlx_rs::{Array, random};

use super::{Family, Fault, Needs, Operator};
use crate::adapter::{AttachError, LoraSettings, attach};
use crate::model::CausalModel;
use crate::workflow::Workflow;

/// Adapters that something attaches in another way.
struct Attached<F>(F);

impl<F: Fn(&mut CausalModel, &LoraSettings, u64) -> Result<(), AttachError>> Workflow for Attached<F> {
    fn attach_adapters(&self, model: &mut CausalModel, settings: &LoraSettings, seed: u64) -> Result<(), AttachError> {
        (self.0)(model, settings, seed)
    }
}

impl<F: Fn(&mut CausalModel, &LoraSettings, u64) -> Result<(), AttachError>> Fault for Attached<F> {}

/// Attaches as it should be and then changes the model.
fn attached_then(change: impl Fn(&mut CausalModel, u64) -> Result<(), AttachError> + 'static) -> Box<dyn Fault> {
    Box::new(Attached(
        move |model: &mut CausalModel, settings: &LoraSettings, seed: u64| {
            attach(model, settings, seed)?;
            change(model, seed)
        },
    ))
}

/// Attaches with other settings than were asked for.
fn attached_with(change: impl Fn(&mut LoraSettings) + 'static) -> Box<dyn Fault> {
    Box::new(Attached(
        move |model: &mut CausalModel, settings: &LoraSettings, seed: u64| {
            let mut settings = settings.clone();
            change(&mut settings);
            attach(model, &settings, seed).map(drop)
        },
    ))
}

pub static STUB_ADAPTER: Operator = Operator {
    name: "stub-adapter",
    family: Family::Attachment,
    summary: "adding adapters only sets a flag, so that all weights are trained",
    citation: "https://github.com/ml-explore/mlx-lm/issues/90",
    severities: &[1.0],
    make: |_| {
        Box::new(Attached(|model: &mut CausalModel, _: &LoraSettings, _| {
            model.unfreeze_parameters(true);
            Ok(())
        }))
    },
    // Packed words cannot be trained at all.
    needs: Needs::DenseFiles,
};

pub static NOTHING_ATTACHED: Operator = Operator {
    name: "nothing-attached",
    family: Family::Attachment,
    summary: "the base is frozen and no layer gets an adapter",
    citation: "https://github.com/ml-explore/mlx-examples/issues/940",
    severities: &[1.0],
    make: |_| {
        Box::new(Attached(|model: &mut CausalModel, _: &LoraSettings, _| {
            model.freeze_parameters(true);
            Ok(())
        }))
    },
    needs: Needs::Adapters,
};

pub static LAYERS_MISSED: Operator = Operator {
    name: "layers-missed",
    family: Family::Attachment,
    summary: "this share of the layers that should carry an adapter does not",
    citation: "https://github.com/ml-explore/mlx-examples/issues/1294",
    severities: &[0.1, 0.5],
    make: |share| {
        attached_then(move |model, _| {
            let reached = |count: usize| (count as f64 * share).floor();
            for (index, (_, linear)) in model.linears_mut().into_iter().enumerate() {
                if reached(index + 1) > reached(index) {
                    linear.remove_adapter();
                }
            }
            Ok(())
        })
    },
    needs: Needs::Adapters,
};

pub static ONLY_A_TRAINED: Operator = Operator {
    name: "only-a-trained",
    family: Family::Attachment,
    summary: "`lora_b` is frozen at zero",
    citation: "https://github.com/huggingface/peft/issues/137",
    severities: &[1.0],
    make: |_| {
        attached_then(|model, _| {
            for (_, linear) in model.linears_mut() {
                linear.lora_b.freeze(true);
            }
            Ok(())
        })
    },
    needs: Needs::Adapters,
};

pub static BOTH_ZERO: Operator = Operator {
    name: "both-zero",
    family: Family::Attachment,
    summary: "`lora_a` starts at zero like `lora_b`, so that no gradient ever comes",
    citation: "https://github.com/unslothai/unsloth/issues/5230",
    severities: &[1.0],
    make: |_| {
        attached_then(|model, _| {
            for (_, linear) in model.linears_mut() {
                if let Some(lora_a) = &mut linear.lora_a.value {
                    *lora_a = zeros_like(&*lora_a)?;
                }
            }
            Ok(())
        })
    },
    needs: Needs::Adapters,
};

pub static START_NOT_IDENTITY: Operator = Operator {
    name: "start-not-identity",
    family: Family::Attachment,
    summary: "`lora_b` starts at random numbers with this standard deviation",
    citation: "https://arxiv.org/abs/2106.09685",
    severities: &[0.001, 0.01, 0.05],
    make: |deviation| {
        attached_then(move |model, seed| {
            let mut key = random::key(seed)?;
            for (_, linear) in model.linears_mut() {
                if let Some(lora_b) = &mut linear.lora_b.value {
                    let (next, this) = random::split(&key, 2)?;
                    key = next;
                    let noise = random::normal::<f32>(lora_b.shape(), None, None, &this)?;
                    *lora_b = multiply(noise, Array::from_f32(deviation as f32))?;
                }
            }
            Ok(())
        })
    },
    needs: Needs::Adapters,
};

pub static BASE_NOT_FROZEN: Operator = Operator {
    name: "base-not-frozen",
    family: Family::Attachment,
    summary: "adapters are attached and the base is trained with them",
    citation: "https://github.com/MakazhanAlpamys/Soup/issues/362",
    severities: &[1.0],
    make: |_| {
        attached_then(|model, _| {
            model.unfreeze_parameters(true);
            Ok(())
        })
    },
    needs: Needs::DenseFiles,
};

pub static NORMS_NOT_FROZEN: Operator = Operator {
    name: "norms-not-frozen",
    family: Family::Attachment,
    summary: "adapters are attached and the norms of all blocks are trained with them",
    citation: "https://github.com/unslothai/unsloth-zoo/pull/939",
    severities: &[1.0],
    make: |_| {
        attached_then(|model, _| {
            for block in &mut model.model.layers {
                for norm in block.norms_mut() {
                    norm.unfreeze_parameters(true);
                }
            }
            Ok(())
        })
    },
    needs: Needs::Adapters,
};

pub static RANK_IGNORED: Operator = Operator {
    name: "rank-ignored",
    family: Family::Attachment,
    summary: "adapters get this rank whatever is asked for",
    citation: "https://github.com/ml-explore/mlx-examples/issues/1196",
    severities: &[3.0],
    make: |rank| attached_with(move |settings| settings.rank = rank as usize),
    needs: Needs::Adapters,
};

pub static SCALE_IGNORED: Operator = Operator {
    name: "scale-ignored",
    family: Family::Scale,
    summary: "adapters act with this many times the scale that is asked for",
    citation: "https://github.com/MakazhanAlpamys/Soup/issues/686",
    severities: &[0.5, 0.1],
    make: |factor| attached_with(move |settings| settings.scale *= factor as f32),
    needs: Needs::Adapters,
};
