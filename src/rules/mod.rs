//! One fault per file: how to recognise it, why it matters, how to remove it.
//!
//! A rule is a pure function from [`Evidence`](crate::evidence::Evidence) to an [`Outcome`]. Its doc comment is also
//! what `diagnose explain` prints.

mod diagnosis;
mod family;
mod gradient_slope;
mod live_adapters;
mod live_state;
mod logged_losses;
mod loss_reading;
mod outcome;
mod pages;
mod pairing;
mod registry;
mod rerun;
mod rounding;
mod row_fit;
mod rule;
mod shared_gradient;
mod still_learning;
mod swapped_generator;
mod unusable;
mod update_reading;
mod update_strength;
pub(crate) mod wording;

mod activations_promoted;
mod adam_without_bias_correction;
mod adapter_configuration_wrong;
mod adapter_file_unusable;
mod adapter_lost_on_reload;
mod adapter_never_moved;
mod adapter_not_attached;
mod adapter_on_another_base;
mod adapter_partly_frozen;
mod adapter_settings_not_applied;
mod adapter_starts_at_zero;
mod adapter_targets_unknown;
mod adapter_too_weak;
mod answers_not_to_their_prompts;
mod answers_unpredictable;
mod asked_differently;
mod backends_disagree;
mod base_cannot_predict;
mod base_not_frozen;
mod chat_template_fails;
mod chat_template_missing;
mod configuration_unusable;
mod data_unusable;
mod default_scale;
mod double_beginning;
mod duplicate_rows;
mod earlier_turns_not_supervised;
mod end_expected_everywhere;
mod end_masked;
mod end_of_text_spam;
mod end_repeated;
mod end_token_untrained;
mod ends_not_trained;
mod few_layers_adapted;
mod fewer_rows_than_a_batch;
mod finished_adapter;
mod finished_adapter_does_not_fit;
mod finished_adapter_incomplete;
mod finished_adapter_misdescribed;
mod finished_adapter_unreadable;
mod float16_of_bfloat16;
mod foreign_architecture;
mod foreign_turn_markers;
mod forgetting;
mod fresh_adapter_changes_answers;
mod fuse_loses_adapter;
mod fuse_rounds_adapter_away;
mod generator_asks_differently;
mod generator_counts_adapter_twice;
mod generator_disagrees;
mod generator_does_not_stop;
mod generator_failed;
mod generator_without_adapter;
mod gradient_spike;
mod gradient_wrong;
mod gradients_not_averaged;
mod gradients_not_cleared;
mod gradients_not_flowing;
mod labels_not_shifted;
mod labels_only_end_of_text;
mod labels_shifted_twice;
mod learning_rate_not_applied;
mod loss_counts_padding;
mod loss_counts_prompts;
mod loss_miscomputed;
mod loss_not_decreasing;
mod loss_not_finite;
mod mask_boundary_wrong;
mod mask_offset_constant;
mod memory_grows;
mod never_stops;
mod nothing_supervised;
mod optimizer_not_stepping;
mod optimizer_state_lost;
mod outlier_row;
mod overfit;
mod packing_mismatch;
mod padding_heavy;
mod padding_supervised;
mod parameter_tree_incomplete;
mod parameters_unchanged;
mod passes_differ;
mod prompt_not_masked;
mod rank_lost;
mod rank_weighting_wrong;
mod ranks_diverged;
mod repetition_loop;
mod resumed_adapter_not_loaded;
mod rows_cut;
mod rows_without_answer;
mod rows_without_end;
mod same_data_on_every_rank;
mod scale_too_high;
mod shards_missing;
mod stop_token_ignored;
mod straggler;
mod tensors_mismatch;
mod thinking_asked_differently;
mod tied_output_mismatch;
mod token_ids_out_of_range;
mod tokenizer_unusable;
mod trained_state_not_used_in_generation;
mod trainer_failed;
mod training_diverged;
mod training_does_not_fit;
mod turn_end_not_a_token;
mod turn_end_undeclared;
mod update_not_as_configured;
mod update_too_large;
mod update_too_small;
mod update_uphill;
mod updates_lost_to_rounding;
mod validation_rows_trained;
mod warmup_longer_than_run;
mod weight_decay_wrong;
mod weight_file_broken;
mod weights_not_finite;
mod weights_packed_by_another_library;
mod whole_weights_hardly_changed;

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
    &shards_missing::SHARDS_MISSING,
    &weight_file_broken::WEIGHT_FILE_BROKEN,
    &configuration_unusable::CONFIGURATION_UNUSABLE,
    &tied_output_mismatch::TIED_OUTPUT_MISMATCH,
    &weights_packed_by_another_library::WEIGHTS_PACKED_BY_ANOTHER_LIBRARY,
    &packing_mismatch::PACKING_MISMATCH,
    &tensors_mismatch::TENSORS_MISMATCH,
    &weights_not_finite::WEIGHTS_NOT_FINITE,
    &tokenizer_unusable::TOKENIZER_UNUSABLE,
    &chat_template_missing::CHAT_TEMPLATE_MISSING,
    &chat_template_fails::CHAT_TEMPLATE_FAILS,
    &data_unusable::DATA_UNUSABLE,
    &parameter_tree_incomplete::PARAMETER_TREE_INCOMPLETE,
    &end_token_untrained::END_TOKEN_UNTRAINED,
    &turn_end_not_a_token::TURN_END_NOT_A_TOKEN,
    &turn_end_undeclared::TURN_END_UNDECLARED,
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
    &outlier_row::OUTLIER_ROW,
    &rows_cut::ROWS_CUT,
    &nothing_supervised::NOTHING_SUPERVISED,
    &labels_only_end_of_text::LABELS_ONLY_END_OF_TEXT,
    &adapter_targets_unknown::ADAPTER_TARGETS_UNKNOWN,
    &prompt_not_masked::PROMPT_NOT_MASKED,
    &mask_offset_constant::MASK_OFFSET_CONSTANT,
    &mask_boundary_wrong::MASK_BOUNDARY_WRONG,
    &padding_supervised::PADDING_SUPERVISED,
    &earlier_turns_not_supervised::EARLIER_TURNS_NOT_SUPERVISED,
    &rows_without_end::ROWS_WITHOUT_END,
    &end_masked::END_MASKED,
    &end_repeated::END_REPEATED,
    &backends_disagree::BACKENDS_DISAGREE,
    &base_cannot_predict::BASE_CANNOT_PREDICT,
    &answers_unpredictable::ANSWERS_UNPREDICTABLE,
    &answers_not_to_their_prompts::ANSWERS_NOT_TO_THEIR_PROMPTS,
    &training_does_not_fit::TRAINING_DOES_NOT_FIT,
    &memory_grows::MEMORY_GROWS,
    &rank_lost::RANK_LOST,
    &same_data_on_every_rank::SAME_DATA_ON_EVERY_RANK,
    &gradients_not_averaged::GRADIENTS_NOT_AVERAGED,
    &rank_weighting_wrong::RANK_WEIGHTING_WRONG,
    &ranks_diverged::RANKS_DIVERGED,
    &straggler::STRAGGLER,
    &trainer_failed::TRAINER_FAILED,
    &resumed_adapter_not_loaded::RESUMED_ADAPTER_NOT_LOADED,
    &finished_adapter_unreadable::FINISHED_ADAPTER_UNREADABLE,
    &finished_adapter_does_not_fit::FINISHED_ADAPTER_DOES_NOT_FIT,
    &finished_adapter_misdescribed::FINISHED_ADAPTER_MISDESCRIBED,
    &finished_adapter_incomplete::FINISHED_ADAPTER_INCOMPLETE,
    &adapter_not_attached::ADAPTER_NOT_ATTACHED,
    &adapter_settings_not_applied::ADAPTER_SETTINGS_NOT_APPLIED,
    &few_layers_adapted::FEW_LAYERS_ADAPTED,
    &fresh_adapter_changes_answers::FRESH_ADAPTER_CHANGES_ANSWERS,
    &adapter_starts_at_zero::ADAPTER_STARTS_AT_ZERO,
    &adapter_partly_frozen::ADAPTER_PARTLY_FROZEN,
    &default_scale::DEFAULT_SCALE_USED,
    &scale_too_high::SCALE_TOO_HIGH,
    &base_not_frozen::BASE_NOT_FROZEN,
    &float16_of_bfloat16::FLOAT16_OF_BFLOAT16,
    &activations_promoted::ACTIVATIONS_PROMOTED,
    &labels_not_shifted::LABELS_NOT_SHIFTED,
    &labels_shifted_twice::LABELS_SHIFTED_TWICE,
    &loss_counts_prompts::LOSS_COUNTS_PROMPTS,
    &loss_counts_padding::LOSS_COUNTS_PADDING,
    &loss_miscomputed::LOSS_MISCOMPUTED,
    &gradients_not_flowing::GRADIENTS_NOT_FLOWING,
    &learning_rate_not_applied::LEARNING_RATE_NOT_APPLIED,
    &gradients_not_cleared::GRADIENTS_NOT_CLEARED,
    &update_uphill::UPDATE_UPHILL,
    &gradient_wrong::GRADIENT_WRONG,
    &optimizer_not_stepping::OPTIMIZER_NOT_STEPPING,
    &optimizer_state_lost::OPTIMIZER_STATE_LOST,
    &weight_decay_wrong::WEIGHT_DECAY_WRONG,
    &update_not_as_configured::UPDATE_NOT_AS_CONFIGURED,
    &warmup_longer_than_run::WARMUP_LONGER_THAN_RUN,
    &adam_without_bias_correction::ADAM_WITHOUT_BIAS_CORRECTION,
    &gradient_spike::GRADIENT_SPIKE,
    &training_diverged::TRAINING_DIVERGED,
    &loss_not_finite::LOSS_NOT_FINITE,
    &parameters_unchanged::PARAMETERS_UNCHANGED,
    &updates_lost_to_rounding::UPDATES_LOST_TO_ROUNDING,
    &adapter_too_weak::ADAPTER_TOO_WEAK,
    &whole_weights_hardly_changed::WHOLE_WEIGHTS_HARDLY_CHANGED,
    &update_too_small::UPDATE_TOO_SMALL,
    &adapter_never_moved::ADAPTER_NEVER_MOVED,
    &loss_not_decreasing::LOSS_NOT_DECREASING,
    &overfit::OVERFIT,
    &update_too_large::UPDATE_TOO_LARGE,
    &stop_token_ignored::STOP_TOKEN_IGNORED,
    &passes_differ::PASSES_DIFFER,
    &end_expected_everywhere::END_EXPECTED_EVERYWHERE,
    &ends_not_trained::ENDS_NOT_TRAINED,
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
    &generator_failed::GENERATOR_FAILED,
    &generator_without_adapter::GENERATOR_WITHOUT_ADAPTER,
    &generator_counts_adapter_twice::GENERATOR_COUNTS_ADAPTER_TWICE,
    &generator_asks_differently::GENERATOR_ASKS_DIFFERENTLY,
    &generator_does_not_stop::GENERATOR_DOES_NOT_STOP,
    &generator_disagrees::GENERATOR_DISAGREES,
];
