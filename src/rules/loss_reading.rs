//! Which reading of the batch the reported loss is.

use super::wording::{factor, nats};
use super::{Finding, Outcome};
use crate::evidence::{Evidence, LossCheck, LossReading, Slot};
use crate::thresholds::{EXPLAINED_DEVIATION, loss_tolerance};

/// Readings other than the definition, the milder ones first where two are equal.
const MISREADINGS: [LossReading; 7] = [
    LossReading::OnePaddingToo,
    LossReading::PaddingToo,
    LossReading::PromptsToo,
    LossReading::NotShifted,
    LossReading::ShiftedTwice,
    LossReading::MeanOfRowMeans,
    LossReading::DividedByAllTokens,
];

/// What the reported loss of the first step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reported {
    /// The definition.
    Right,
    /// What this reading gives.
    As(LossReading),
    /// Neither the definition nor any known reading.
    Unknown,
}

/// The recomputed loss and what it says of the reported one.
pub(super) struct Judged<'a> {
    pub(super) check: &'a LossCheck,
    /// The reported loss in nats.
    pub(super) loss: f64,
    /// The loss by definition, in nats.
    pub(super) definition: f64,
    pub(super) reported: Reported,
}

/// Judges the reported loss, or says why it cannot be judged.
pub(super) fn judge(evidence: &Evidence) -> Result<Judged<'_>, Outcome> {
    let Slot::Ran(training) = &evidence.training else {
        return Err(Outcome::not_measured("training", &evidence.training));
    };
    let Slot::Ran(check) = &training.loss_check else {
        return Err(Outcome::not_measured(
            "the recomputation of the loss",
            &training.loss_check,
        ));
    };
    let (Some(loss), Some(definition)) = (check.reported, check.loss(LossReading::Definition)) else {
        return Err(Outcome::not_applicable(
            "the loss of the first step is not finite, or its batch has no target",
        ));
    };
    let tolerance = loss_tolerance(&evidence.environment.dtype) * definition.max(1.0);
    let deviation = (loss - definition).abs();
    let reported = if deviation <= tolerance {
        Reported::Right
    } else {
        let mut nearest: Option<(LossReading, f64)> = None;
        for reading in MISREADINGS {
            let Some(distance) = check.loss(reading).map(|value| (loss - value).abs()) else {
                continue;
            };
            let explains = distance <= tolerance || distance <= (1.0 - EXPLAINED_DEVIATION) * deviation;
            if explains && nearest.is_none_or(|(_, least)| distance < least) {
                nearest = Some((reading, distance));
            }
        }
        nearest.map_or(Reported::Unknown, |(reading, _)| Reported::As(reading))
    };
    Ok(Judged {
        check,
        loss,
        definition,
        reported,
    })
}

/// Judges the reported loss and finds `headline` when it is what `reading` gives.
pub(super) fn find(evidence: &Evidence, reading: LossReading, headline: &str) -> Result<Option<Finding>, Outcome> {
    let judged = judge(evidence)?;
    Ok((judged.reported == Reported::As(reading)).then(|| judged.finding(headline)))
}

impl Judged<'_> {
    /// A finding with the losses of all readings.
    pub(super) fn finding(&self, headline: &str) -> Finding {
        let mut finding = Finding::new(
            headline,
            match self.reported {
                Reported::As(reading) => format!(
                    "step 1 reported {:.3} nats, and {} gives {}",
                    self.loss,
                    in_words(reading),
                    nats(self.check.loss(reading))
                ),
                Reported::Right | Reported::Unknown => format!(
                    "step 1 reported {:.3} nats, {} times the right loss, and no known reading of the batch gives that",
                    self.loss,
                    factor(self.loss / self.definition)
                ),
            },
            format!(
                "{:.3} nats, the mean over the supervised tokens, each predicted from those before it",
                self.definition
            ),
        )
        .with("reported", self.loss);
        for read in &self.check.readings {
            finding = finding.with(key(read.reading), read.loss);
        }
        finding
    }
}

fn key(reading: LossReading) -> &'static str {
    match reading {
        LossReading::Definition => "definition",
        LossReading::NotShifted => "not_shifted",
        LossReading::ShiftedTwice => "shifted_twice",
        LossReading::PromptsToo => "prompts_too",
        LossReading::PaddingToo => "padding_too",
        LossReading::OnePaddingToo => "one_padding_too",
        LossReading::MeanOfRowMeans => "mean_of_row_means",
        LossReading::DividedByAllTokens => "divided_by_all_tokens",
    }
}

/// The reading as a noun phrase.
pub(super) fn in_words(reading: LossReading) -> &'static str {
    match reading {
        LossReading::Definition => "the definition",
        LossReading::NotShifted => "predicting each token at its own position",
        LossReading::ShiftedTwice => "predicting each token one position too early",
        LossReading::PromptsToo => "counting all tokens, prompts too,",
        LossReading::PaddingToo => "counting the padding too",
        LossReading::OnePaddingToo => "counting one padding token behind each shorter row too",
        LossReading::MeanOfRowMeans => "the mean over the means of the rows",
        LossReading::DividedByAllTokens => "dividing the sum by all tokens of the batch",
    }
}
