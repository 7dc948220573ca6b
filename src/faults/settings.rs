//! Faults in what the user sets.

use mlx_rs::Dtype;

use super::rows::keep_first_rows;
use super::{Family, Fault, FaultError, Needs, Operator, RunFiles};
use crate::diagnosis::DiagnosisOptions;
use crate::evidence::FineTuneKind;
use crate::workflow::Workflow;

/// Options that something changes.
struct Set<F>(F);

impl<F> Workflow for Set<F> {}

impl<F: Fn(&mut DiagnosisOptions)> Fault for Set<F> {
    fn alter(&self, options: &mut DiagnosisOptions, _files: &RunFiles) -> Result<(), FaultError> {
        (self.0)(options);
        Ok(())
    }
}

fn set(change: impl Fn(&mut DiagnosisOptions) + 'static) -> Box<dyn Fault> {
    Box::new(Set(change))
}

pub static LEARNING_RATE_HIGH: Operator = Operator {
    name: "learning-rate-high",
    family: Family::Scale,
    summary: "the learning rate is this number",
    citation: "https://github.com/ml-explore/mlx-examples/issues/620",
    severities: &[0.01, 0.1, 1.0],
    make: |rate| set(move |options| options.learning_rate = rate),
    needs: Needs::Adapters,
};

pub static LEARNING_RATE_LOW: Operator = Operator {
    name: "learning-rate-low",
    family: Family::Scale,
    summary: "the learning rate is this number",
    citation: "https://github.com/hiyouga/LlamaFactory/issues/1540",
    severities: &[1e-7, 1e-9],
    make: |rate| set(move |options| options.learning_rate = rate),
    needs: Needs::Adapters,
};

pub static LEARNING_RATE_ZERO: Operator = Operator {
    name: "learning-rate-zero",
    family: Family::Scale,
    summary: "the learning rate is zero",
    citation: "https://github.com/ml-explore/mlx-examples/issues/985",
    severities: &[0.0],
    make: |rate| set(move |options| options.learning_rate = rate),
    needs: Needs::Adapters,
};

pub static SCALE_HIGH: Operator = Operator {
    name: "scale-high",
    family: Family::Scale,
    summary: "the adapters' scale is this number, as when alpha is written into it",
    citation: "https://github.com/Blaizzy/mlx-vlm/issues/841",
    severities: &[160.0, 2000.0],
    make: |scale| set(move |options| options.lora.scale = scale as f32),
    needs: Needs::Adapters,
};

pub static ROWS_CUT: Operator = Operator {
    name: "rows-cut",
    family: Family::Data,
    summary: "rows are cut at this many tokens",
    citation: "https://github.com/tloen/alpaca-lora/issues/439",
    severities: &[40.0, 30.0],
    make: |tokens| set(move |options| options.max_sequence_length = tokens as usize),
    needs: Needs::Adapters,
};

pub static TARGETS_UNKNOWN: Operator = Operator {
    name: "targets-unknown",
    family: Family::Attachment,
    summary: "the keys name modules of another architecture",
    citation: "https://github.com/ml-explore/mlx-lm/issues/90",
    severities: &[1.0],
    make: |_| set(|options| options.lora.keys = vec!["self_attn.qkv_proj".to_owned()]),
    needs: Needs::Adapters,
};

pub static UPDATES_ROUNDED_AWAY: Operator = Operator {
    name: "updates-rounded-away",
    family: Family::Numeric,
    summary: "all weights are trained in bfloat16 with this learning rate",
    citation: "https://github.com/keras-team/keras-hub/issues/2629",
    severities: &[1e-5, 1e-6],
    make: |rate| {
        set(move |options| {
            options.fine_tune = FineTuneKind::Full;
            options.precision.dtype = Some(Dtype::Bfloat16);
            options.learning_rate = rate;
        })
    },
    needs: Needs::DenseFiles,
};

pub static OVERFITTING: Operator = Operator {
    name: "overfitting",
    family: Family::Scale,
    summary: "this many steps at three times the usual learning rate, on four rows",
    citation: "https://github.com/ml-explore/mlx-examples/issues/236",
    severities: &[30.0, 60.0],
    make: |steps| Box::new(Overfitting { steps: steps as usize }),
    needs: Needs::Adapters,
};

/// More passes over fewer rows than anything can be learnt from.
struct Overfitting {
    steps: usize,
}

impl Workflow for Overfitting {}

impl Fault for Overfitting {
    fn alter(&self, options: &mut DiagnosisOptions, files: &RunFiles) -> Result<(), FaultError> {
        options.steps = self.steps;
        options.learning_rate = 3e-4;
        options.lora.scale = 20.0;
        keep_first_rows(files, 4)
    }
}

/// Memory that the machine does not have.
struct Short(u64);

impl Workflow for Short {
    fn available_memory(&self) -> Option<u64> {
        Some(self.0)
    }
}

impl Fault for Short {}

pub static MEMORY_SHORT: Operator = Operator {
    name: "memory-short",
    family: Family::Memory,
    summary: "this many bytes of memory are available",
    citation: "https://github.com/ml-explore/mlx-lm/issues/236",
    severities: &[1e6],
    make: |bytes| Box::new(Short(bytes as u64)),
    needs: Needs::Adapters,
};
