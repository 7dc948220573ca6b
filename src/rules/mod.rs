//! One fault per file: how to recognise it, why it matters, how to remove it.
//!
//! A rule is a pure function from [`Evidence`](crate::evidence::Evidence) to an [`Outcome`]. Its doc comment is also
//! what `diagnose explain` prints.

mod diagnosis;
mod live_adapters;
mod live_state;
mod outcome;
mod pairing;
mod registry;
mod rerun;
mod rounding;
mod rule;
mod update_strength;
pub(crate) mod wording;

mod adapter_configuration_wrong;
mod adapter_file_unusable;
mod adapter_lost_on_reload;
mod adapter_never_moved;
mod adapter_not_attached;
mod adapter_on_another_base;
mod adapter_partly_frozen;
mod adapter_settings_not_applied;
mod adapter_starts_at_zero;
mod base_not_frozen;
mod default_scale;
mod end_of_text_spam;
mod few_layers_adapted;
mod forgetting;
mod fresh_adapter_changes_answers;
mod fuse_loses_adapter;
mod fuse_rounds_adapter_away;
mod gradients_not_flowing;
mod labels_only_end_of_text;
mod loss_not_decreasing;
mod loss_not_finite;
mod never_stops;
mod nothing_supervised;
mod optimizer_not_stepping;
mod parameter_tree_incomplete;
mod parameters_unchanged;
mod passes_differ;
mod repetition_loop;
mod scale_too_high;
mod stop_token_ignored;
mod trained_state_not_used_in_generation;
mod training_diverged;
mod update_too_large;

pub use diagnosis::{Cause, Check, Diagnosis, diagnose};
pub use outcome::{Applicability, Finding, Fix, Outcome};
pub use registry::{UnknownRule, catalogue_json, explain, find, table};
pub use rerun::Rerun;
pub use rule::{Phase, Rule, RuleStatus, Severity};

/// Every rule in causal order: a rule explains only rules that come after it.
pub static RULES: &[&Rule] = &[
    &parameter_tree_incomplete::PARAMETER_TREE_INCOMPLETE,
    &nothing_supervised::NOTHING_SUPERVISED,
    &labels_only_end_of_text::LABELS_ONLY_END_OF_TEXT,
    &adapter_not_attached::ADAPTER_NOT_ATTACHED,
    &adapter_settings_not_applied::ADAPTER_SETTINGS_NOT_APPLIED,
    &few_layers_adapted::FEW_LAYERS_ADAPTED,
    &fresh_adapter_changes_answers::FRESH_ADAPTER_CHANGES_ANSWERS,
    &adapter_starts_at_zero::ADAPTER_STARTS_AT_ZERO,
    &adapter_partly_frozen::ADAPTER_PARTLY_FROZEN,
    &default_scale::DEFAULT_SCALE_USED,
    &scale_too_high::SCALE_TOO_HIGH,
    &base_not_frozen::BASE_NOT_FROZEN,
    &gradients_not_flowing::GRADIENTS_NOT_FLOWING,
    &optimizer_not_stepping::OPTIMIZER_NOT_STEPPING,
    &training_diverged::TRAINING_DIVERGED,
    &loss_not_finite::LOSS_NOT_FINITE,
    &parameters_unchanged::PARAMETERS_UNCHANGED,
    &adapter_never_moved::ADAPTER_NEVER_MOVED,
    &loss_not_decreasing::LOSS_NOT_DECREASING,
    &update_too_large::UPDATE_TOO_LARGE,
    &stop_token_ignored::STOP_TOKEN_IGNORED,
    &passes_differ::PASSES_DIFFER,
    &trained_state_not_used_in_generation::TRAINED_STATE_NOT_USED_IN_GENERATION,
    &adapter_on_another_base::ADAPTER_ON_ANOTHER_BASE,
    &adapter_configuration_wrong::ADAPTER_CONFIGURATION_WRONG,
    &adapter_file_unusable::ADAPTER_FILE_UNUSABLE,
    &adapter_lost_on_reload::ADAPTER_LOST_ON_RELOAD,
    &fuse_rounds_adapter_away::FUSE_ROUNDS_ADAPTER_AWAY,
    &fuse_loses_adapter::FUSE_LOSES_ADAPTER,
    &end_of_text_spam::END_OF_TEXT_SPAM,
    &repetition_loop::REPETITION_LOOP,
    &never_stops::NEVER_STOPS,
    &forgetting::FORGETTING,
];
