use super::rule::declare_rule;
use super::wording::counted;
use super::{Applicability, Finding, Fix, Outcome, Rerun};
use crate::evidence::{Evidence, Slot};
use crate::thresholds::OVERFIT_RISE;

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
    /// The mean loss of the validation rows rose by more than `OVERFIT_RISE`, and the loss of the first training batch
    /// fell.
    ///
    /// ## How to fix
    ///
    /// Make fewer steps, or take more rows, a lower rank or some dropout.
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
    let Slot::Ran(training) = &evidence.training else {
        return Outcome::not_measured("training", &evidence.training);
    };
    let (Some(before), Some(after)) = (training.validation_loss_before, training.validation_loss_after) else {
        return Outcome::not_applicable("there is no finite loss of validation rows before and after");
    };
    let (Some(trained_before), Some(trained_after)) =
        (training.first_batch_loss_before, training.first_batch_loss_after)
    else {
        return Outcome::not_applicable("no finite loss of one batch before and after");
    };
    if after - before <= OVERFIT_RISE || trained_after >= trained_before {
        return Outcome::Pass;
    }
    let settings = &evidence.settings;
    let finding = Finding::new(
        format!("the loss of validation rows rose from {before:.3} to {after:.3} while that of training rows fell"),
        format!(
            "{trained_before:.3} before and {trained_after:.3} after on the first batch of training, in {}",
            counted(training.steps.len(), "step")
        ),
        format!("a loss of validation rows of about {before:.3} or below"),
    )
    .with("validation_loss_before", before)
    .with("validation_loss_after", after)
    .with("first_batch_loss_before", trained_before)
    .with("first_batch_loss_after", trained_after)
    .with("rows", evidence.data.ran().map(|data| data.rows));
    let fewer = training.steps.len() / 2;
    if fewer > 0 {
        finding.fix(Fix::command(
            format!("make {} instead of {}", counted(fewer, "step"), training.steps.len()),
            Rerun::of(settings).steps(fewer),
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
