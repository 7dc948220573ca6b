use super::rule::declare_rule;
use super::wording::out_of;
use super::{Finding, Fix, Outcome, Severity};
use crate::evidence::{Evidence, Slot};
use crate::thresholds::{KNOWN_VALIDATION_SHARE, LARGE_KNOWN_VALIDATION_SHARE};

declare_rule! {
    /// ## What it finds
    ///
    /// Rows for validation that are training rows too.
    ///
    /// ## Why it matters
    ///
    /// The validation loss then falls with the training loss, whatever the model learns. It no longer tells when to
    /// stop, and the result looks better than it is.
    ///
    /// ## Evidence
    ///
    /// Rows of the validation file equal to a training row token for token, before any cut. Above a share of
    /// `KNOWN_VALIDATION_SHARE` it is a warning, from `LARGE_KNOWN_VALIDATION_SHARE` on an error.
    ///
    /// ## How to fix
    ///
    /// Take the rows out of one of the two files: remove copies first, then split.
    ///
    /// ## References
    ///
    /// - <https://github.com/ai-forever/ru-gpts/issues/23>
    /// - <https://github.com/OpenRLHF/OpenRLHF/issues/1089>
    pub static VALIDATION_ROWS_TRAINED = {
        name: "validation-rows-trained",
        code: "DATA008",
        summary: "rows for validation are training rows too",
        phase: Baseline,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(data) = &evidence.data else {
        return Outcome::not_measured("the data", &evidence.data);
    };
    let Slot::Ran(validation) = &data.validation else {
        return Outcome::not_measured("validation", &data.validation);
    };
    let known = &validation.also_trained;
    let share = known.share_of(validation.rows);
    if share <= KNOWN_VALIDATION_SHARE {
        return Outcome::Pass;
    }
    let finding = Finding::new(
        format!(
            "{} for validation are trained on",
            out_of(known.total, validation.rows, "row")
        ),
        "rows of `valid.jsonl` with the tokens of a training row",
        "validation rows that training never sees",
    )
    .at(known)
    .with("validation_rows", validation.rows)
    .with("also_trained", known)
    .fix(Fix::by_hand(
        "remove copies from the whole data, then split it anew; or take the rows that are named out of `valid.jsonl`",
    ));
    if share >= LARGE_KNOWN_VALIDATION_SHARE {
        finding.into()
    } else {
        finding.lowered_to(Severity::Warning).into()
    }
}
