use serde::Serialize;

use crate::evidence::{Evaluation, EvaluationMeans, Evidence, FineTuneKind, Side};
use crate::rules::Diagnosis;
use crate::rules::wording::{counted, difference as in_words};
use crate::thresholds::{ABNORMAL_REFERENCE_RISE, ABNORMAL_RISE, MOST, VISIBLE_UPDATE, logit_tolerance};

/// A measurement that no healthy run shows, whatever its cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Signal {
    /// Name in kebab case.
    pub name: &'static str,
    /// What was measured, without a final period.
    pub text: String,
    /// A rule whose finding accounts for it; `None` when the cause is unknown.
    pub explained_by: Option<&'static str>,
}

/// How to see one signal, and which rules account for it when they find something.
struct Watch {
    name: &'static str,
    explained_by: &'static [&'static str],
    see: fn(&Evidence) -> Option<String>,
}

const WATCHES: &[Watch] = &[
    Watch {
        name: "training-stopped-early",
        explained_by: &["loss-not-finite", "nothing-supervised"],
        see: training_stopped_early,
    },
    Watch {
        name: "optimizer-miscounted",
        explained_by: &["optimizer-not-stepping", "gradients-not-flowing", "loss-not-finite"],
        see: optimizer_miscounted,
    },
    Watch {
        name: "same-batch-loss-rose",
        explained_by: &["training-diverged", "loss-not-finite", "loss-not-decreasing"],
        see: same_batch_loss_rose,
    },
    Watch {
        name: "tensors-appeared-or-vanished",
        explained_by: &["adapter-not-attached", "parameter-tree-incomplete"],
        see: tensors_appeared_or_vanished,
    },
    Watch {
        name: "fresh-adapter-is-not-identity",
        explained_by: &["fresh-adapter-changes-answers", "loss-not-finite"],
        see: fresh_adapter_is_not_identity,
    },
    Watch {
        name: "change-without-effect",
        explained_by: &[
            "loss-not-finite",
            "adapter-never-moved",
            "adapter-not-attached",
            "adapter-partly-frozen",
            "adapter-starts-at-zero",
        ],
        see: change_without_effect,
    },
    Watch {
        name: "answers-collapsed",
        explained_by: &[
            "end-of-text-spam",
            "training-diverged",
            "loss-not-finite",
            "labels-only-end-of-text",
        ],
        see: answers_collapsed,
    },
    Watch {
        name: "references-less-likely",
        explained_by: &["training-diverged", "loss-not-finite", "labels-only-end-of-text"],
        see: references_less_likely,
    },
    Watch {
        name: "evaluation-changed-parameters",
        explained_by: &["loss-not-finite"],
        see: evaluation_changed_parameters,
    },
    Watch {
        name: "their-training-falls-short",
        explained_by: &[
            "trainer-failed",
            "finished-adapter-unreadable",
            "finished-adapter-incomplete",
            "finished-adapter-does-not-fit",
            "finished-adapter-misdescribed",
            "resumed-adapter-not-loaded",
            "adapter-never-moved",
            "adapter-not-attached",
            "adapter-too-weak",
            "base-not-frozen",
            "end-token-untrained",
            "end-of-text-spam",
            "never-stops",
            "repetition-loop",
            "training-diverged",
            "loss-not-finite",
            "loss-not-decreasing",
            "update-too-large",
            "update-too-small",
        ],
        see: their_training_falls_short,
    },
];

/// Every signal that is there, in the order of the phases.
pub(super) fn signals(evidence: &Evidence, diagnosis: &Diagnosis) -> Vec<Signal> {
    WATCHES
        .iter()
        .filter_map(|watch| {
            let text = (watch.see)(evidence)?;
            let explained_by = diagnosis
                .causes
                .iter()
                .map(|cause| cause.rule.name)
                .find(|name| watch.explained_by.contains(name));
            Some(Signal {
                name: watch.name,
                text,
                explained_by,
            })
        })
        .collect()
}

fn their_training_falls_short(evidence: &Evidence) -> Option<String> {
    let side = evidence.swap.ran()?.side(evidence.baseline.ran()?)?;
    match side {
        Side::Training | Side::Both => Some(
            "what the other trainer left does not answer as what the reference trained with the same settings"
                .to_owned(),
        ),
        Side::Together => Some(
            "the other trainer and the other generator work with the reference's counterparts, and not together"
                .to_owned(),
        ),
        Side::Neither | Side::Generation | Side::Shared | Side::Unknown => None,
    }
}

fn training_stopped_early(evidence: &Evidence) -> Option<String> {
    let stopped = evidence.training.ran()?.stopped_early.as_ref()?;
    Some(format!("training stopped at step {}: {}", stopped.step, stopped.reason))
}

/// A run that stopped early may hold a last step without its update.
fn optimizer_miscounted(evidence: &Evidence) -> Option<String> {
    let training = evidence.training.ran()?;
    let (steps, counted_steps) = (training.steps.len() as u64, training.optimizer.step_count);
    let right = counted_steps == steps || (training.stopped_early.is_some() && counted_steps + 1 == steps);
    (!right).then(|| {
        format!(
            "the optimizer counts {} for {}",
            counted(counted_steps as usize, "update"),
            counted(training.steps.len(), "step")
        )
    })
}

fn same_batch_loss_rose(evidence: &Evidence) -> Option<String> {
    let fit = evidence.fit.ran()?;
    let (before, after) = (fit.loss_before()?, fit.loss_after()?);
    (after > before + ABNORMAL_RISE).then(|| format!("the loss of the first batch rose from {before:.3} to {after:.3}"))
}

/// Adapters may be attached after the snapshot, so exactly their tensors may appear.
fn tensors_appeared_or_vanished(evidence: &Evidence) -> Option<String> {
    let parameters = evidence.parameters.ran()?;
    let moved = &parameters.appeared_or_vanished;
    let adapter_tensors = parameters.adapter.as_ref().map_or(0, |adapter| adapter.tensors.total);
    (!moved.is_empty() && moved.total != adapter_tensors)
        .then(|| format!("{} on one side only: {moved}", counted(moved.total, "tensor")))
}

fn fresh_adapter_is_not_identity(evidence: &Evidence) -> Option<String> {
    let difference = evidence.parameters.ran()?.adapter.as_ref()?.identity_difference?;
    (difference > logit_tolerance(&evidence.environment.dtype)).then(|| {
        format!(
            "adapters changed the logits by up to {} before any step",
            in_words(Some(difference))
        )
    })
}

/// Updates that are too small may vanish in the rounding of the logits.
fn change_without_effect(evidence: &Evidence) -> Option<String> {
    let training = evidence.training.ran()?;
    let binding = evidence.state.ran()?.generation.ran()?;
    let changed = evidence.parameters.ran()?.changed;
    let scale = match evidence.settings.fine_tune {
        FineTuneKind::Lora => evidence.settings.scale,
        FineTuneKind::Full => 1.0,
    };
    let visible = training.optimizer.learning_rate_sum * scale >= VISIBLE_UPDATE;
    (changed > 0 && visible && binding.trained_from_base == Some(0.0)).then(|| {
        format!(
            "{} changed, and every logit is exactly the base's",
            counted(changed, "tensor")
        )
    })
}

fn answers_collapsed(evidence: &Evidence) -> Option<String> {
    let before = evidence.baseline.ran()?.summary();
    let after = evidence.generation.ran()?.summary();
    let more = after.empty.saturating_sub(before.empty);
    (more > 0 && more as f64 >= MOST * after.answers as f64).then(|| {
        format!(
            "{} of {} empty since training, {} before",
            after.empty,
            counted(after.answers, "answer"),
            before.empty
        )
    })
}

fn references_less_likely(evidence: &Evidence) -> Option<String> {
    let before = evidence.baseline.ran()?.summary().reference_nll?;
    let after = evidence.generation.ran()?.summary().reference_nll?;
    (after > before + ABNORMAL_REFERENCE_RISE)
        .then(|| format!("the reference answers cost {after:.3} nats per token, {before:.3} before training"))
}

fn evaluation_changed_parameters(evidence: &Evidence) -> Option<String> {
    let evaluations = evidence.state.ran()?.evaluations.ran()?;
    let guilty: Vec<&Evaluation> = evaluations
        .iter()
        .filter(|evaluation| !evaluation.changed.is_empty())
        .collect();
    let first = guilty.first()?;
    Some(format!(
        "{} changed {}, so it was missing after training",
        means_in_words(first.means),
        counted(first.changed.total, "parameter")
    ))
}

/// The means of evaluation as a noun phrase.
pub(super) fn means_in_words(means: EvaluationMeans) -> &'static str {
    match means {
        EvaluationMeans::Parameters => "evaluating the parameters",
        EvaluationMeans::OptimizerState => "evaluating the optimizer's state",
        EvaluationMeans::Both => "evaluating parameters and optimizer state",
        EvaluationMeans::Synchronize => "waiting for the device",
    }
}
