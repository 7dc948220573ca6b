//! One fault per file: how to recognise it, why it matters, how to remove it.
//!
//! A rule is a pure function from [`Evidence`](crate::evidence::Evidence) to an [`Outcome`]. Its doc comment is also
//! what `diagnose explain` prints.

mod diagnosis;
mod outcome;
mod pairing;
mod registry;
mod rerun;
mod rounding;
mod rule;
pub(crate) mod wording;

mod adapter_lost_on_reload;
mod adapter_never_moved;
mod adapter_not_attached;
mod base_not_frozen;
mod end_of_text_spam;
mod gradients_not_flowing;
mod labels_only_end_of_text;
mod loss_not_decreasing;
mod loss_not_finite;
mod never_stops;
mod nothing_supervised;
mod optimizer_not_stepping;
mod parameter_tree_incomplete;
mod parameters_unchanged;
mod repetition_loop;
mod trained_state_not_used_in_generation;
mod training_diverged;

pub use diagnosis::{Cause, Check, Diagnosis, diagnose};
pub use outcome::{Applicability, Finding, Fix, FixCommand, Outcome};
pub use registry::{UnknownRule, catalogue_json, explain, find, table};
pub use rerun::Rerun;
pub use rule::{Phase, Rule, RuleStatus, Severity};

/// Every rule in causal order: a rule explains only rules that come after it.
pub static RULES: &[&Rule] = &[
    &parameter_tree_incomplete::PARAMETER_TREE_INCOMPLETE,
    &nothing_supervised::NOTHING_SUPERVISED,
    &labels_only_end_of_text::LABELS_ONLY_END_OF_TEXT,
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
