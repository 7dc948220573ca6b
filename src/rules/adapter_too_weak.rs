use super::finished_adapter::files;
use super::row_fit::fit;
use super::rule::declare_rule;
use super::wording::{factor, shortest};
use super::{Finding, Fix, Outcome};
use crate::evidence::{AdapterEvidence, AdapterFilesEvidence, Evidence, ScaledLoss};
use crate::thresholds::{UPDATE_IN_ALL, WEAK_FACTOR, WEAK_GAIN, WEAK_SHARE};

declare_rule! {
    /// ## What it finds
    ///
    /// A finished adapter that has learnt something and hardly acts: the rows of the data become likely only when its change
    /// is multiplied.
    ///
    /// ## Why it matters
    ///
    /// Everything loads, and the model answers like the base. Either the scale was lost on the way, such as alpha / rank for
    /// an adapter that was trained with 20, or training ended before it had done anything.
    ///
    /// ## Evidence
    ///
    /// The loss of the first rows with the adapter's change multiplied by 3, 10 and 30, which an adapter at its right
    /// strength does not gain by. It is a finding when a multiple of at least `WEAK_FACTOR` is best and lowers the loss by
    /// at least `WEAK_GAIN`, of which the adapter as it is reaches less than `WEAK_SHARE`; or when the median change is
    /// below `UPDATE_IN_ALL` of its layer's weight.
    /// Finished files cannot tell a lost scale from too little training, so both are named.
    ///
    /// ## How to fix
    ///
    /// Compare the scale in `adapter_config.json` with that of the training. If it is the same, train longer or with a higher
    /// learning rate.
    ///
    /// ## References
    ///
    /// - <https://github.com/Blaizzy/mlx-vlm/issues/841>
    /// - <https://github.com/ml-explore/mlx-lm/issues/1670>
    /// - <https://github.com/ARahim3/mlx-tune/issues/15>
    pub static ADAPTER_TOO_WEAK = {
        name: "adapter-too-weak",
        code: "SCALE004",
        summary: "a finished adapter hardly acts: its scale was lost, or it was trained too little",
        phase: Parameters,
        severity: Error,
        status: Preview,
        since: "0.1.0",
        explains: &["loss-not-decreasing"],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let files = match files(evidence) {
        Ok(files) => files,
        Err(outcome) => return outcome,
    };
    let fit = match fit(evidence) {
        Ok(fit) => fit,
        Err(outcome) => return outcome,
    };
    let adapter = evidence
        .parameters
        .ran()
        .and_then(|parameters| parameters.adapter.as_ref());
    if adapter.is_some_and(|adapter| adapter.nonzero_b == 0) {
        return Outcome::not_applicable("the adapter is zero");
    }
    let (Some(before), Some(after)) = (fit.loss_before(), fit.loss_after()) else {
        return Outcome::not_applicable("no finite loss of the rows without the adapter and with it");
    };
    let update = adapter.and_then(AdapterEvidence::median_update);
    let best = best(files);
    let gains = best.is_some_and(|(factor, loss)| {
        let reachable = before - loss;
        factor >= WEAK_FACTOR && reachable >= WEAK_GAIN && before - after < WEAK_SHARE * reachable
    });
    let is_tiny = update.is_some_and(|update| update < UPDATE_IN_ALL);
    if !gains && !is_tiny {
        return Outcome::Pass;
    }
    let scale = evidence.settings.scale;
    let multiplied = best.filter(|_| gains);
    Finding::new(
        "the adapter hardly acts: either its scale was lost, or it was trained too little",
        format!(
            "the rows cost {before:.3} nats per token without the adapter and {after:.3} with it{}{}",
            multiplied.map_or_else(String::new, |(factor, loss)| format!(
                ", and {loss:.3} with {} times its change",
                shortest(factor)
            )),
            update.map_or_else(String::new, |update| format!(
                "; a median change of {} of the weights",
                factor(update)
            ))
        ),
        "most of what the adapter can do at the scale that it is loaded with",
    )
    .with("loss_without", before)
    .with("loss_with", after)
    .with("best_factor", best.map(|(factor, _)| factor))
    .with("best_loss", best.map(|(_, loss)| loss))
    .with("median_update", update)
    .with("scale", scale)
    .with("stated_learning_rate", files.learning_rate)
    .with("stated_steps", files.steps)
    .fix(Fix::by_hand(match multiplied {
        Some((factor, _)) => format!(
            "look up the scale of the training: the configuration has {}, and the rows ask for about {}",
            shortest(scale),
            shortest(scale * factor)
        ),
        None => format!(
            "look up the scale of the training: the configuration has {}",
            shortest(scale)
        ),
    }))
    .fix(Fix::by_hand(format!(
        "if that is the scale it was trained with, train longer or with a higher learning rate{}",
        stated(files)
    )))
    .into()
}

/// The factor with the lowest loss.
fn best(files: &AdapterFilesEvidence) -> Option<(f64, f64)> {
    files
        .scaled_losses
        .iter()
        .filter_map(|ScaledLoss { factor, loss }| Some((*factor, (*loss)?)))
        .min_by(|(_, left), (_, right)| left.total_cmp(right))
}

fn stated(files: &AdapterFilesEvidence) -> String {
    match (files.steps, files.learning_rate) {
        (Some(steps), Some(learning_rate)) => format!(" than the stated {steps} steps at {}", shortest(learning_rate)),
        _ => String::new(),
    }
}
