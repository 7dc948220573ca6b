//! One fault per file: how to recognise it, why it matters, how to remove it.
//!
//! A rule is a pure function from [`Evidence`](crate::evidence::Evidence) to an [`Outcome`]. Its doc comment is also
//! what `diagnose explain` prints.

mod diagnosis;
mod family;
mod live_adapters;
mod live_state;
mod outcome;
mod pages;
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
mod asked_differently;
mod base_not_frozen;
mod default_scale;
mod double_beginning;
mod duplicate_rows;
mod earlier_turns_not_supervised;
mod end_masked;
mod end_of_text_spam;
mod end_repeated;
mod few_layers_adapted;
mod fewer_rows_than_a_batch;
mod foreign_turn_markers;
mod forgetting;
mod fresh_adapter_changes_answers;
mod fuse_loses_adapter;
mod fuse_rounds_adapter_away;
mod gradients_not_flowing;
mod labels_only_end_of_text;
mod loss_not_decreasing;
mod loss_not_finite;
mod mask_boundary_wrong;
mod mask_offset_constant;
mod never_stops;
mod nothing_supervised;
mod optimizer_not_stepping;
mod padding_heavy;
mod padding_supervised;
mod parameter_tree_incomplete;
mod parameters_unchanged;
mod passes_differ;
mod prompt_not_masked;
mod repetition_loop;
mod rows_cut;
mod rows_without_answer;
mod rows_without_end;
mod scale_too_high;
mod stop_token_ignored;
mod thinking_asked_differently;
mod token_ids_out_of_range;
mod trained_state_not_used_in_generation;
mod training_diverged;
mod update_too_large;
mod validation_rows_trained;

pub use diagnosis::{Cause, Check, Diagnosis, diagnose};
pub use family::{FAMILIES, Family};
pub use outcome::{Applicability, Finding, Fix, FixCommand, Outcome};
pub use pages::{Page, pages};
use registry::page_of;
pub use registry::{UnknownRule, catalogue_json, explain, find, table};
pub use rerun::Rerun;
pub use rule::{Phase, Rule, RuleStatus, Severity};

/// Every rule in causal order: a rule explains only rules that come after it.
pub static RULES: &[&Rule] = &[
    &parameter_tree_incomplete::PARAMETER_TREE_INCOMPLETE,
    &token_ids_out_of_range::TOKEN_IDS_OUT_OF_RANGE,
    &double_beginning::DOUBLE_BEGINNING,
    &asked_differently::ASKED_DIFFERENTLY,
    &thinking_asked_differently::THINKING_ASKED_DIFFERENTLY,
    &foreign_turn_markers::FOREIGN_TURN_MARKERS,
    &rows_without_answer::ROWS_WITHOUT_ANSWER,
    &duplicate_rows::DUPLICATE_ROWS,
    &validation_rows_trained::VALIDATION_ROWS_TRAINED,
    &fewer_rows_than_a_batch::FEWER_ROWS_THAN_A_BATCH,
    &padding_heavy::PADDING_HEAVY,
    &rows_cut::ROWS_CUT,
    &nothing_supervised::NOTHING_SUPERVISED,
    &labels_only_end_of_text::LABELS_ONLY_END_OF_TEXT,
    &prompt_not_masked::PROMPT_NOT_MASKED,
    &mask_offset_constant::MASK_OFFSET_CONSTANT,
    &mask_boundary_wrong::MASK_BOUNDARY_WRONG,
    &padding_supervised::PADDING_SUPERVISED,
    &earlier_turns_not_supervised::EARLIER_TURNS_NOT_SUPERVISED,
    &rows_without_end::ROWS_WITHOUT_END,
    &end_masked::END_MASKED,
    &end_repeated::END_REPEATED,
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
