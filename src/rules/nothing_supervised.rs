use super::rule::declare_rule;
use super::wording::{counted, grouped};
use super::{Applicability, Finding, Fix, Outcome, Rerun, Severity};
use crate::evidence::{DataEvidence, Evidence, Listing, RunSettings, Slot};
use crate::thresholds::UNSUPERVISED_ROWS;

declare_rule! {
    /// ## What it finds
    ///
    /// Rows, or whole batches, without a single token that the loss counts.
    ///
    /// ## Why it matters
    ///
    /// The mean loss of a batch without targets is 0/0: it is NaN, and one Adam step turns every weight into NaN. A
    /// guarded mean gives 0 instead, and training "succeeds" without learning anything.
    ///
    /// ## Evidence
    ///
    /// Identity: every batch has at least one supervised token, so the count over all rows is above zero. When only
    /// some rows are empty, no batch is hurt; then their share decides between information and a warning.
    ///
    /// ## How to fix
    ///
    /// Usually the prompt alone is longer than the length limit, so that the answer is cut off: raise the limit or
    /// shorten the prompts. Otherwise the marker that separates prompt and answer was not found, or the answers are
    /// empty: look at the rows that are named.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-lm/pull/1355>
    /// - <https://github.com/huggingface/trl/issues/6668>
    /// - <https://github.com/unslothai/unsloth/issues/2364>
    pub static NOTHING_SUPERVISED = {
        name: "nothing-supervised",
        code: "MASK001",
        summary: "rows or batches have no token that the loss counts",
        phase: Training,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[
            "gradients-not-flowing",
            "loss-not-finite",
            "parameters-unchanged",
            "adapter-never-moved",
            "loss-not-decreasing",
        ],
        offers_command: true,
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(data) = &evidence.data else {
        return Outcome::not_measured("the data", &evidence.data);
    };
    let empty_steps: Listing = evidence
        .training
        .ran()
        .into_iter()
        .flat_map(|training| &training.steps)
        .filter(|step| step.supervised_tokens == 0)
        .map(|step| format!("step {}", step.step))
        .collect();
    let empty_rows = &data.rows_without_supervision;
    let (headline, severity) = if data.supervised_tokens == 0 {
        ("no token of the training data is supervised".to_owned(), None)
    } else if !empty_steps.is_empty() {
        let batches = if empty_steps.total == 1 {
            "batch has"
        } else {
            "batches have"
        };
        (
            format!("{} {batches} no supervised token", grouped(empty_steps.total as u64)),
            None,
        )
    } else if empty_rows.total as f64 > UNSUPERVISED_ROWS * data.rows as f64 {
        (some_rows(data), Some(Severity::Warning))
    } else if !empty_rows.is_empty() {
        (some_rows(data), Some(Severity::Info))
    } else {
        return Outcome::Pass;
    };
    let place = if empty_rows.is_empty() {
        &empty_steps
    } else {
        empty_rows
    };
    let mut finding = Finding::new(
        headline,
        format!(
            "{} supervised of {} tokens; {} of {} without any",
            grouped(data.supervised_tokens as u64),
            grouped(data.tokens as u64),
            grouped(empty_rows.total as u64),
            counted(data.rows, "row")
        ),
        "at least one supervised token in every row",
    )
    .at(place)
    .with("rows", data.rows)
    .with("tokens", data.tokens)
    .with("supervised_tokens", data.supervised_tokens)
    .with("rows_without_supervision", empty_rows)
    .with("steps_without_supervision", &empty_steps)
    .with("rows_truncated", &data.rows_truncated);
    finding.lowered_severity = severity;
    fixes(data, &evidence.settings)
        .into_iter()
        .fold(finding, Finding::fix)
        .into()
}

fn some_rows(data: &DataEvidence) -> String {
    format!(
        "{} of {} carry no supervised token",
        grouped(data.rows_without_supervision.total as u64),
        counted(data.rows, "row")
    )
}

fn fixes(data: &DataEvidence, settings: &RunSettings) -> Vec<Fix> {
    let mut fixes = Vec::new();
    if !data.rows_truncated.is_empty() {
        fixes.push(Fix::command(
            format!(
                "raise the length limit: {} cut at {} tokens, which can remove the whole answer",
                match data.rows_truncated.total {
                    1 => "1 row is".to_owned(),
                    rows => format!("{} rows are", grouped(rows as u64)),
                },
                settings.max_sequence_length
            ),
            Rerun::of(settings).max_sequence_length(data.longest_row),
            Applicability::MaybeIncorrect,
        ));
    }
    let place = if settings.mask_prompt {
        ", and that the prompt's mask ends before it"
    } else {
        ""
    };
    fixes.push(Fix::by_hand(format!(
        "check that every row has a non-empty answer{place}"
    )));
    fixes
}
