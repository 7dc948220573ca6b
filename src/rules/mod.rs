//! One fault per file: how to recognise it, why it matters, how to remove it.
//!
//! A rule is a pure function from [`Evidence`](crate::evidence::Evidence) to an [`Outcome`]. Its doc comment is also
//! what `diagnose explain` prints.

mod diagnosis;
mod gradient_slope;
mod loss_reading;
mod outcome;
mod pairing;
mod registry;
mod rerun;
mod rounding;
mod rule;
mod update_reading;
pub(crate) mod wording;

mod activations_promoted;
mod adam_without_bias_correction;
mod adapter_lost_on_reload;
mod adapter_never_moved;
mod adapter_not_attached;
mod answers_not_to_their_prompts;
mod answers_unpredictable;
mod base_cannot_predict;
mod base_not_frozen;
mod end_expected_everywhere;
mod end_of_text_spam;
mod float16_of_bfloat16;
mod gradient_spike;
mod gradient_wrong;
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
mod never_stops;
mod nothing_supervised;
mod optimizer_not_stepping;
mod optimizer_state_lost;
mod overfit;
mod parameter_tree_incomplete;
mod parameters_unchanged;
mod repetition_loop;
mod trained_state_not_used_in_generation;
mod training_diverged;
mod update_not_as_configured;
mod update_too_small;
mod update_uphill;
mod updates_lost_to_rounding;
mod warmup_longer_than_run;
mod weight_decay_wrong;

pub use diagnosis::{Cause, Check, Diagnosis, diagnose};
pub use outcome::{Applicability, Finding, Fix, Outcome};
pub use registry::{UnknownRule, catalogue_json, explain, find, table};
pub use rerun::Rerun;
pub use rule::{Phase, Rule, RuleStatus, Severity};

/// Every rule in causal order: a rule explains only rules that come after it.
pub static RULES: &[&Rule] = &[
    &parameter_tree_incomplete::PARAMETER_TREE_INCOMPLETE,
    &base_cannot_predict::BASE_CANNOT_PREDICT,
    &nothing_supervised::NOTHING_SUPERVISED,
    &labels_only_end_of_text::LABELS_ONLY_END_OF_TEXT,
    &answers_unpredictable::ANSWERS_UNPREDICTABLE,
    &answers_not_to_their_prompts::ANSWERS_NOT_TO_THEIR_PROMPTS,
    &adapter_not_attached::ADAPTER_NOT_ATTACHED,
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
    &update_too_small::UPDATE_TOO_SMALL,
    &adapter_never_moved::ADAPTER_NEVER_MOVED,
    &loss_not_decreasing::LOSS_NOT_DECREASING,
    &overfit::OVERFIT,
    &end_expected_everywhere::END_EXPECTED_EVERYWHERE,
    &trained_state_not_used_in_generation::TRAINED_STATE_NOT_USED_IN_GENERATION,
    &adapter_lost_on_reload::ADAPTER_LOST_ON_RELOAD,
    &end_of_text_spam::END_OF_TEXT_SPAM,
    &repetition_loop::REPETITION_LOOP,
    &never_stops::NEVER_STOPS,
];
