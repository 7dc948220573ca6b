use super::logged_losses::{curve, log};
use super::row_fit::fit;
use super::rule::declare_rule;
use super::wording::counted;
use super::{Applicability, Finding, Fix, Outcome, Rerun};
use crate::evidence::{Evidence, FitComparison, LogEvidence, Slot};
use crate::thresholds::{LOST_AGAIN, OVERFIT_RISE};

declare_rule! {
    /// ## What it finds
    ///
    /// A model that gets worse on rows it is not trained on, while it gets better on those it is.
    ///
    /// ## Why it matters
    ///
    /// It learns the rows by heart instead of what they have in common, and answers other questions worse than before.
    ///
    /// ## Evidence
    ///
    /// The mean loss of the validation rows rose by more than `OVERFIT_RISE`, or it fell by more than `LOST_AGAIN` on the
    /// way and rose by as much again, and the loss of the first training batch fell. It is measured before and after, and
    /// in runs of 20 steps or more three times on the way.
    ///
    /// ## How to fix
    ///
    /// Stop where validation rows were best, or take more rows, a lower rank or some dropout.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-examples/issues/236>
    /// - <https://github.com/ml-explore/mlx-examples/issues/527>
    /// - <https://github.com/QwenLM/Qwen/issues/785>
    pub static OVERFIT = {
        name: "overfit",
        code: "OPT015",
        summary: "the loss of validation rows rises while that of training rows falls",
        phase: Training,
        severity: Warning,
        status: Stable,
        since: "0.1.0",
        explains: &["update-too-large", "forgetting"],
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
    let (Some(lowest), Some(after)) = (lowest(fit), fit.validation_after) else {
        return Outcome::not_applicable("there is no finite loss of validation rows before and after");
    };
    let (Some(trained_before), Some(trained_after)) = (fit.loss_before(), fit.loss_after()) else {
        return Outcome::not_applicable("no finite loss of one batch before and after");
    };
    // Only what was gained can be lost again: a dip within the noise is no gain.
    let gained = fit
        .validation_before
        .is_some_and(|before| before - lowest.loss > LOST_AGAIN);
    let limit = if gained { LOST_AGAIN } else { OVERFIT_RISE };
    if after - lowest.loss <= limit || trained_after >= trained_before {
        return Outcome::Pass;
    }
    let settings = &evidence.settings;
    let finding = Finding::new(
        format!(
            "the loss of validation rows rose from {:.3} to {after:.3} while that of training rows fell",
            lowest.loss
        ),
        format!(
            "{trained_before:.3} before and {trained_after:.3} after on the first batch of training, in {}; validation \
             rows were best {}",
            counted(training.steps.len(), "step"),
            match lowest.updates {
                0 => "before training".to_owned(),
                updates => format!("after {}", counted(updates, "step")),
            }
        ),
        format!("a loss of validation rows of about {:.3} or below", lowest.loss),
    )
    .with("validation_loss_before", fit.validation_before)
    .with("validation_loss_lowest", lowest.loss)
    .with("validation_loss_after", after)
    .with("lowest_after_steps", lowest.updates)
    .with("first_batch_loss_before", trained_before)
    .with("first_batch_loss_after", trained_after)
    .with("rows", evidence.data.ran().map(|data| data.rows));
    if lowest.updates > 0 {
        finding.fix(Fix::command(
            format!(
                "stop where validation rows were best: make {} instead of {}",
                counted(lowest.updates, "step"),
                training.steps.len()
            ),
            Rerun::of(settings).steps(lowest.updates),
            Applicability::MaybeIncorrect,
        ))
    } else {
        finding
    }
    .fix(Fix::by_hand(
        "take more rows, a lower rank or learning rate, or some dropout",
    ))
    .into()
}

/// The same from the losses that a log holds.
fn in_log(log: &LogEvidence) -> Outcome {
    let (losses, validation) = (log.losses(), log.validation_losses());
    let ends = |losses: &[(usize, f64)]| Some((losses.first()?.1, losses.last().filter(|_| losses.len() > 1)?.1));
    let (Some((trained_before, trained_after)), Some((first, after))) = (ends(&losses), ends(&validation)) else {
        return Outcome::not_applicable("the log has no losses of validation rows at two moments");
    };
    let lowest = validation.iter().min_by(|(_, left), (_, right)| left.total_cmp(right));
    let &(step, lowest) = lowest.unwrap_or(&validation[0]);
    let limit = if first - lowest > LOST_AGAIN {
        LOST_AGAIN
    } else {
        OVERFIT_RISE
    };
    if after - lowest <= limit || trained_after >= trained_before {
        return Outcome::Pass;
    }
    Finding::new(
        format!("the loss of validation rows in the log rose from {lowest:.3} to {after:.3} while that of training rows fell"),
        format!(
            "validation: {}; training from {trained_before:.3} to {trained_after:.3}",
            curve(&validation)
        ),
        format!("a loss of validation rows of about {lowest:.3} or below"),
    )
    .with("validation_loss_lowest", lowest)
    .with("validation_loss_after", after)
    .with("lowest_at_step", step)
    .fix(Fix::by_hand(format!(
        "take the checkpoint of step {step} or the one nearest to it, where validation rows were best"
    )))
    .fix(Fix::by_hand(
        "take more rows, a lower rank or learning rate, or some dropout",
    ))
    .into()
}

/// The moment at which the loss of validation rows was lowest.
struct Lowest {
    updates: usize,
    loss: f64,
}

fn lowest(fit: &FitComparison) -> Option<Lowest> {
    let before = (0, fit.validation_before);
    let between = fit
        .validation_between
        .iter()
        .map(|moment| (moment.updates, moment.loss));
    std::iter::once(before)
        .chain(between)
        .filter_map(|(updates, loss)| Some(Lowest { updates, loss: loss? }))
        .min_by(|left, right| left.loss.total_cmp(&right.loss))
}
