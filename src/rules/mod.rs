//! One fault per file: how to recognise it, why it matters, how to remove it.
//!
//! A rule is a pure function from [`Evidence`](crate::evidence::Evidence) to an [`Outcome`]. Its doc comment is also
//! what `diagnose explain` prints.

mod diagnosis;
mod family;
mod outcome;
mod pages;
mod pairing;
mod registry;
mod rerun;
mod rounding;
mod rule;
mod unusable;
pub(crate) mod wording;

mod adapter_lost_on_reload;
mod adapter_never_moved;
mod adapter_not_attached;
mod adapter_targets_unknown;
mod base_not_frozen;
mod chat_template_fails;
mod chat_template_missing;
mod configuration_unusable;
mod data_unusable;
mod end_of_text_spam;
mod gradients_not_flowing;
mod labels_only_end_of_text;
mod loss_not_decreasing;
mod loss_not_finite;
mod never_stops;
mod nothing_supervised;
mod optimizer_not_stepping;
mod packing_mismatch;
mod parameter_tree_incomplete;
mod parameters_unchanged;
mod repetition_loop;
mod shards_missing;
mod tensors_mismatch;
mod tied_output_mismatch;
mod tokenizer_unusable;
mod trained_state_not_used_in_generation;
mod training_diverged;
mod weight_file_broken;
mod weights_not_finite;

pub use diagnosis::{Cause, Check, Diagnosis, diagnose};
pub use family::{FAMILIES, Family};
pub use outcome::{Applicability, Finding, Fix, Outcome};
pub use pages::{Page, pages};
use registry::page_of;
pub use registry::{UnknownRule, catalogue_json, explain, find, table};
pub use rerun::Rerun;
pub use rule::{Phase, Rule, RuleStatus, Severity};

/// Every rule in causal order: a rule explains only rules that come after it.
pub static RULES: &[&Rule] = &[
    &shards_missing::SHARDS_MISSING,
    &weight_file_broken::WEIGHT_FILE_BROKEN,
    &configuration_unusable::CONFIGURATION_UNUSABLE,
    &tied_output_mismatch::TIED_OUTPUT_MISMATCH,
    &packing_mismatch::PACKING_MISMATCH,
    &tensors_mismatch::TENSORS_MISMATCH,
    &weights_not_finite::WEIGHTS_NOT_FINITE,
    &tokenizer_unusable::TOKENIZER_UNUSABLE,
    &chat_template_missing::CHAT_TEMPLATE_MISSING,
    &chat_template_fails::CHAT_TEMPLATE_FAILS,
    &data_unusable::DATA_UNUSABLE,
    &parameter_tree_incomplete::PARAMETER_TREE_INCOMPLETE,
    &nothing_supervised::NOTHING_SUPERVISED,
    &labels_only_end_of_text::LABELS_ONLY_END_OF_TEXT,
    &adapter_targets_unknown::ADAPTER_TARGETS_UNKNOWN,
    &adapter_not_attached::ADAPTER_NOT_ATTACHED,
    &base_not_frozen::BASE_NOT_FROZEN,
    &gradients_not_flowing::GRADIENTS_NOT_FLOWING,
    &optimizer_not_stepping::OPTIMIZER_NOT_STEPPING,
    &training_diverged::TRAINING_DIVERGED,
    &loss_not_finite::LOSS_NOT_FINITE,
    &parameters_unchanged::PARAMETERS_UNCHANGED,
    &adapter_never_moved::ADAPTER_NEVER_MOVED,
    &loss_not_decreasing::LOSS_NOT_DECREASING,
    &trained_state_not_used_in_generation::TRAINED_STATE_NOT_USED_IN_GENERATION,
    &adapter_lost_on_reload::ADAPTER_LOST_ON_RELOAD,
    &end_of_text_spam::END_OF_TEXT_SPAM,
    &repetition_loop::REPETITION_LOOP,
    &never_stops::NEVER_STOPS,
];
