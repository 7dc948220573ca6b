//! Faults that real runs have had, planted on purpose in what a user has, sets or does.
//!
//! Nothing that measures or judges knows of this module: a fault has to show in what it does.

mod attachment;
mod files;
mod generation;
mod labels;
mod loss;
mod operator;
mod optimizer;
mod planted;
mod ranks;
mod rows;
mod saving;
mod settings;

pub use operator::{Family, Fault, FaultError, Needs, Operator, RunFiles};
pub use planted::Planted;

use std::str::FromStr;

use crate::suggestion::closest;

/// Every fault that can be planted, by family.
pub static OPERATORS: &[&Operator] = &[
    &files::SHARD_MISSING,
    &files::WEIGHT_FILE_CUT,
    &files::TIED_OUTPUT_MISMATCH,
    &files::PACKING_BITS_WRONG,
    &files::PACKING_NOT_DECLARED,
    &files::ROPE_TYPE_UNKNOWN,
    &files::TOKENIZER_CUT,
    &files::TEMPLATE_LOST,
    &files::TEMPLATE_FAILS,
    &files::END_ROW_UNTRAINED,
    &files::BASE_SCRAMBLED,
    &rows::DATA_MALFORMED,
    &rows::PAIRS_PERMUTED,
    &rows::TARGETS_SHUFFLED,
    &rows::ROWS_DUPLICATED,
    &rows::FOREIGN_TEMPLATE,
    &rows::ANSWERS_MISSING,
    &rows::VALIDATION_ROWS_TRAINED,
    &files::THINKING_TEMPLATE,
    &files::DOUBLE_BEGINNING,
    &labels::ASSISTANT_HEADER_MISSING,
    &labels::IDS_OUT_OF_RANGE,
    &settings::ROWS_CUT,
    &labels::PROMPT_NOT_MASKED,
    &labels::ALL_MASKED,
    &labels::MASK_ENDS_LATE,
    &labels::MASK_ENDS_EARLY,
    &labels::MASK_OFFSET_CONSTANT,
    &labels::PADDING_SUPERVISED,
    &labels::EOS_ONLY_LABELS,
    &labels::END_MASKED,
    &labels::END_MISSING,
    &labels::END_REPEATED,
    &files::TURN_END_UNDECLARED,
    &generation::STOP_FORGOTTEN,
    &attachment::STUB_ADAPTER,
    &attachment::NOTHING_ATTACHED,
    &attachment::LAYERS_MISSED,
    &attachment::ONLY_A_TRAINED,
    &attachment::BOTH_ZERO,
    &attachment::START_NOT_IDENTITY,
    &attachment::BASE_NOT_FROZEN,
    &attachment::NORMS_NOT_FROZEN,
    &attachment::RANK_IGNORED,
    &settings::TARGETS_UNKNOWN,
    &loss::CAPTURED_CONSTANTS,
    &loss::GRADIENTS_MISSING,
    &loss::GRADIENTS_NOISY,
    &loss::GRADIENTS_NOT_CLEARED,
    &loss::LOSS_NEGATED,
    &loss::LABELS_NOT_SHIFTED,
    &loss::LABELS_SHIFTED_TWICE,
    &loss::LOSS_COUNTS_PROMPTS,
    &loss::LOSS_DIVIDED_BY_POSITIONS,
    &loss::LOSS_AVERAGED_BY_ROW,
    &loss::GRADIENTS_SHRINKING,
    &optimizer::FROZEN_OPTIMIZER,
    &optimizer::HIDDEN_FACTOR,
    &optimizer::UPHILL,
    &optimizer::EXTRA_DECAY,
    &optimizer::MOMENTS_FORGOTTEN,
    &optimizer::STALE_GRADIENTS,
    &optimizer::SUMS_KEPT,
    &optimizer::PLAIN_DESCENT,
    &optimizer::STEPS_MISCOUNTED,
    &optimizer::LEARNING_RATE_IGNORED,
    &settings::LEARNING_RATE_HIGH,
    &settings::LEARNING_RATE_LOW,
    &settings::LEARNING_RATE_ZERO,
    &settings::SCALE_HIGH,
    &settings::OVERFITTING,
    &attachment::SCALE_IGNORED,
    &files::WEIGHTS_NOT_FINITE,
    &files::FLOAT16_OVERFLOW,
    &loss::GRADIENT_NOT_A_NUMBER,
    &loss::GRADIENT_SPIKE,
    &optimizer::LARGE_EPSILON,
    &settings::UPDATES_ROUNDED_AWAY,
    &settings::MEMORY_SHORT,
    &optimizer::MEMORY_LEAK,
    &ranks::START_NOT_SHARED,
    &ranks::REDUCTION_NOISY,
    &ranks::GRADIENTS_KEPT,
    &ranks::GRADIENTS_PARTLY_KEPT,
    &ranks::GRADIENTS_SUMMED,
    &ranks::MEANS_AVERAGED,
    &ranks::SAME_ROWS,
    &ranks::SLOW_PROCESS,
    &ranks::PROCESS_KILLED,
    &generation::STALE_GENERATION,
    &generation::ADAPTER_NOT_LOADED,
    &generation::DROPOUT_ON,
    &saving::TENSORS_DROPPED,
    &saving::TENSORS_RENAMED,
    &saving::TENSORS_ZEROED,
    &saving::ADAPTER_FILE_CUT,
    &saving::CONFIGURATION_MISSING,
    &saving::SCALE_LOST,
    &saving::KEYS_UNRESOLVED,
    &saving::RELOAD_WITHOUT_TENSORS,
    &saving::OTHER_BASE,
    &saving::FUSE_DROPS_ADAPTER,
    &saving::FUSE_PACKS,
];

/// Odd things that do no harm, or that stock mlx-lm does: accusing them is an error.
pub static BENIGN: &[&Operator] = &[&loss::ONE_PAD_TARGET];

/// A kind of fault that cannot be planted yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotBuilt {
    /// The fault.
    pub name: &'static str,
    /// The part of a run that does not exist yet.
    pub missing: &'static str,
}

/// Known kinds of faults without a place to plant them.
pub static NOT_BUILT: &[NotBuilt] = &[
    NotBuilt {
        name: "accumulation-weighting",
        missing: "gradient accumulation",
    },
    NotBuilt {
        name: "schedule-units",
        missing: "schedules that decay",
    },
    NotBuilt {
        name: "resume-silent",
        missing: "resuming a run",
    },
    NotBuilt {
        name: "compiled-state-not-captured",
        missing: "compiled training steps",
    },
    NotBuilt {
        name: "not-evaluated",
        missing: "a trainer that leaves evaluation to its caller",
    },
    NotBuilt {
        name: "kernel-without-gradient",
        missing: "models with custom kernels",
    },
    NotBuilt {
        name: "experts-not-adapted",
        missing: "mixture models",
    },
    NotBuilt {
        name: "packing-leak",
        missing: "packed rows",
    },
    NotBuilt {
        name: "activations-promoted",
        missing: "adapters that do not cast back",
    },
    NotBuilt {
        name: "sampling-settings",
        missing: "sampling",
    },
    NotBuilt {
        name: "prompt-cache-contamination",
        missing: "prompt caches",
    },
    NotBuilt {
        name: "rotating-cache",
        missing: "rotating caches",
    },
    NotBuilt {
        name: "sliding-window",
        missing: "architectures with sliding windows",
    },
    NotBuilt {
        name: "rope-scaling-dropped",
        missing: "a tiny model that needs rotary scaling",
    },
    NotBuilt {
        name: "batch-padding",
        missing: "batched generation",
    },
    NotBuilt {
        name: "export-broken",
        missing: "export to other formats",
    },
];

/// A fault and how severe it is.
#[derive(Debug, Clone, Copy)]
pub struct Injection {
    /// The fault.
    pub operator: &'static Operator,
    /// How severe it is, in the operator's own terms.
    pub severity: f64,
}

/// A fault was asked for that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnknownFault {
    /// There is no such name.
    #[error("there is no fault `{given}`; {}", similar.map_or_else(|| "`diagnose selftest --list` names all".to_owned(), |name| format!("did you mean `{name}`?")))]
    Name {
        /// What was asked for.
        given: String,
        /// The name that is most like it.
        similar: Option<&'static str>,
    },
    /// The severity is no number.
    #[error("`{given}` is no severity; write NAME or NAME=NUMBER")]
    Severity {
        /// What was given.
        given: String,
    },
}

impl FromStr for Injection {
    type Err = UnknownFault;

    /// Reads `NAME`, which means the reference severity, or `NAME=SEVERITY`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, severity) = match text.split_once('=') {
            Some((name, severity)) => (name, Some(severity)),
            None => (text, None),
        };
        let all = || OPERATORS.iter().chain(BENIGN).copied();
        let operator = all()
            .find(|operator| operator.name == name)
            .ok_or_else(|| UnknownFault::Name {
                given: name.to_owned(),
                similar: closest(name, all().map(|operator| operator.name)),
            })?;
        let severity = match severity {
            None => operator.reference(),
            Some(severity) => severity
                .parse()
                .ok()
                .filter(|severity: &f64| severity.is_finite())
                .ok_or_else(|| UnknownFault::Severity {
                    given: severity.to_owned(),
                })?,
        };
        Ok(Self { operator, severity })
    }
}
