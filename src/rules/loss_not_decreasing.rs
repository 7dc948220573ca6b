use super::logged_losses::{curve, log};
use super::row_fit::fit;
use super::rule::declare_rule;
use super::wording::{counted, shortest};
use super::{Applicability, Finding, Fix, Outcome, Rerun, Severity};
use crate::evidence::{Evidence, LogEvidence, Slot, TrainingEvidence};
use crate::thresholds::{FITTED_LOSS, FLAT_LOSS, LEARNING_RATE_CUT, PREDICTED_DROP, SAME_LOSS, TREND_STEPS};

declare_rule! {
    /// ## What it finds
    ///
    /// The loss of one batch is not lower after training than before, although the updates should have lowered it.
    ///
    /// ## Why it matters
    ///
    /// The loss per step moves with the batches, so it looks alive. The same batch before and after shows whether
    /// anything was learnt.
    ///
    /// ## Evidence
    ///
    /// Identity: if no parameter changed, the loss of the same batch is the same to the last bit; that is an error. In a log,
    /// the loss of the same validation rows is then the same at every step.
    ///
    /// Otherwise three conditions must hold together, and the finding is a warning. The loss of the same batch did not
    /// fall. The losses of the later half of at least `TREND_STEPS` steps are not below those of the earlier half. And
    /// the updates predict a drop: Adam moves each value by about the learning rate in the direction of the gradient,
    /// which to first order lowers the loss by at least learning rate times gradient norm; summed over the steps this
    /// lower bound exceeds `PREDICTED_DROP`. A tiny learning rate predicts nothing and is healthy, and so is a batch
    /// whose loss is already below `FITTED_LOSS`.
    ///
    /// ## How to fix
    ///
    /// If no parameter changed, another finding names the cause. Otherwise the steps overshoot: lower the learning
    /// rate. If that does not help, the gradient has the wrong sign, or is not that of the loss that is printed.
    ///
    /// ## References
    ///
    /// - <https://github.com/hiyouga/LlamaFactory/issues/1540>
    /// - <https://github.com/ml-explore/mlx-examples/issues/620>
    pub static LOSS_NOT_DECREASING = {
        name: "loss-not-decreasing",
        code: "OPT005",
        summary: "the loss of one batch is not lower after training than before",
        phase: Training,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[],
        offers_command: true,
    }
}

fn check(evidence: &Evidence) -> Outcome {
    if let Some(log) = log(evidence) {
        return in_log(log);
    }
    let Slot::Ran(training) = &evidence.training else {
        return Outcome::not_measured("training", &evidence.training);
    };
    let fit = match fit(evidence) {
        Ok(fit) => fit,
        Err(outcome) => return outcome,
    };
    let (Some(before), Some(after)) = (fit.loss_before(), fit.loss_after()) else {
        return Outcome::not_applicable("no finite loss of one batch before and after");
    };
    if training.steps.is_empty() {
        return Outcome::not_applicable("no step was made");
    }
    let nothing_changed = evidence
        .parameters
        .ran()
        .is_some_and(|parameters| parameters.changed == 0);
    let predicted = predicted_drop(training);
    let (headline, severity) = if nothing_changed && (after - before).abs() <= SAME_LOSS * before.max(1.0) {
        (
            "the loss of the first batch is what it was before training".to_owned(),
            None,
        )
    } else if after >= before && before > FITTED_LOSS && predicted > PREDICTED_DROP && not_falling(training) {
        let steps = counted(training.steps.len(), "step");
        (format!("the loss did not fall in {steps}"), Some(Severity::Warning))
    } else {
        return Outcome::Pass;
    };
    let lower = evidence.settings.learning_rate * LEARNING_RATE_CUT;
    let mut finding = Finding::new(
        headline,
        format!("a loss of {before:.3} before and {after:.3} after on the same batch"),
        if nothing_changed {
            "a lower loss on the same batch".to_owned()
        } else {
            format!("a loss lower by at least {predicted:.3}, as the gradients predict")
        },
    )
    .with("first_batch_loss_before", before)
    .with("first_batch_loss_after", after)
    .with("predicted_drop", predicted)
    .with(
        "losses",
        training.steps.iter().map(|step| step.loss).collect::<Vec<_>>(),
    );
    finding.lowered_severity = severity;
    if nothing_changed {
        return finding
            .fix(Fix::by_hand("find out first why no parameter changed"))
            .into();
    }
    finding
        .fix(Fix::command(
            format!("lower the learning rate to {}", shortest(lower)),
            Rerun::of(&evidence.settings).learning_rate(lower),
            Applicability::MaybeIncorrect,
        ))
        .fix(Fix::by_hand(
            "if that does not help, check that the gradient is that of the loss, with its sign",
        ))
        .into()
}

/// Whether the losses of a log, of training rows and of validation rows where there are any, stay where they began.
fn in_log(log: &LogEvidence) -> Outcome {
    let losses = log.losses();
    if losses.len() < TREND_STEPS {
        return Outcome::not_applicable("the log has too few losses to see a trend");
    }
    let third = losses.len() / 3;
    let mean = |losses: &[(usize, f64)]| losses.iter().map(|(_, loss)| loss).sum::<f64>() / losses.len() as f64;
    let (first, last) = (mean(&losses[..third]), mean(&losses[losses.len() - third..]));
    let validation = log.validation_losses();
    let validation_fell = match (validation.first(), validation.last()) {
        (Some((_, first)), Some((_, last))) if validation.len() > 1 => first - last > FLAT_LOSS * first,
        _ => false,
    };
    // The very same loss of the very same rows means the very same weights, whatever the training rows did by chance.
    let validation_stood = validation.split_first().is_some_and(|((_, first), rest)| {
        !rest.is_empty() && rest.iter().all(|(_, loss)| loss.to_bits() == first.to_bits())
    });
    let fell = first - last > FLAT_LOSS * first && !validation_stood;
    if fell || validation_fell || first < FITTED_LOSS {
        return Outcome::Pass;
    }
    let (from, to) = (losses[0].0, losses[losses.len() - 1].0);
    let (headline, found) = if validation_stood {
        (
            "the loss of validation rows in the log is the same to the last digit throughout".to_owned(),
            format!(
                "validation rows: {}; training rows: {}",
                curve(&validation),
                curve(&losses)
            ),
        )
    } else {
        (
            format!("the loss in the log did not fall from step {from} to step {to}"),
            format!(
                "a mean of {first:.3} in the first third and {last:.3} in the last: {}",
                curve(&losses)
            ),
        )
    };
    Finding::new(headline, found, "a loss that falls")
    .with("mean_of_first_third", first)
    .with("mean_of_last_third", last)
    .with("losses", losses.iter().map(|(_, loss)| *loss).collect::<Vec<_>>())
    .fix(Fix::by_hand(
        "see that the optimizer gets the adapters' parameters and a learning rate above 0, and that the adapters are attached",
    ))
    .into()
}

/// Lower bound of the drop that the updates predict to first order, in nats.
fn predicted_drop(training: &TrainingEvidence) -> f64 {
    training
        .steps
        .iter()
        .filter_map(|step| step.gradient_norm.map(|norm| norm * step.learning_rate))
        .sum()
}

/// Whether the later half of a long enough run is not below the earlier half.
fn not_falling(training: &TrainingEvidence) -> bool {
    let losses: Vec<f64> = training.steps.iter().filter_map(|step| step.loss).collect();
    if losses.len() < TREND_STEPS {
        return false;
    }
    let (earlier, later) = losses.split_at(losses.len() / 2);
    let mean = |half: &[f64]| half.iter().sum::<f64>() / half.len() as f64;
    mean(later) >= mean(earlier)
}
