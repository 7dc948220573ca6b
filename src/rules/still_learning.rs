//! Whether training was cut short while it did what it should.

use crate::evidence::{Evidence, TrainingEvidence};
use crate::thresholds::{END_EXPECTED_RANK, STILL_FALLING};

/// What to do about it.
pub(super) const CONTINUE: &str =
    "make more steps before judging the answers: the loss was still falling when training ended";

/// Whether every loss with the true tokens before it fell, and that of the steps was still falling at the end.
///
/// A model that is being taught something new passes through states in which it predicts the rows well, token by token,
/// and yet loses its way in answers of its own, where one wrong token leads to the next. That is no fault of the training:
/// more steps end it.
pub(super) fn is_still_learning(evidence: &Evidence) -> bool {
    evidence.training.ran().is_some_and(|training| {
        let Some(fit) = evidence.fit.ran() else {
            return false;
        };
        let batch_fell = fell(fit.loss_before(), fit.loss_after());
        let rows = (fit.validation_before, fit.validation_after);
        let validation_rose = rows.0.is_some() && !fell(rows.0, rows.1);
        batch_fell && !validation_rose && falls_at_the_end(training)
    })
}

/// Whether the trained model expects the token that ends a row where rows end.
pub(super) fn expects_ends(evidence: &Evidence) -> bool {
    let after = evidence.fit.ran().and_then(|fit| fit.after.ran());
    after
        .and_then(|fit| fit.end_rank)
        .is_some_and(|rank| rank <= END_EXPECTED_RANK)
}

fn fell(before: Option<f64>, after: Option<f64>) -> bool {
    before.zip(after).is_some_and(|(before, after)| after < before)
}

/// Batches of which the mean says more than one batch's chance.
const FEWEST_BATCHES: usize = 2;

/// Compares the last third of the steps with the third before it.
fn falls_at_the_end(training: &TrainingEvidence) -> bool {
    let Some(losses) = training
        .steps
        .iter()
        .map(|step| step.loss)
        .collect::<Option<Vec<f64>>>()
    else {
        return false;
    };
    let third = losses.len() / 3;
    if third < FEWEST_BATCHES {
        return false;
    }
    let (rest, last) = losses.split_at(losses.len() - third);
    let middle = &rest[rest.len() - third..];
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / third as f64;
    mean(middle) - mean(last) > STILL_FALLING
}
