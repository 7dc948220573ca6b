use super::rule::declare_rule;
use super::wording::out_of;
use super::{Finding, Fix, Outcome, Severity};
use crate::evidence::{BoundaryEvidence, Evidence, Slot};
use crate::thresholds::WRONG_MASK_ROWS;

declare_rule! {
    /// ## What it finds
    ///
    /// Masks that end a few tokens before or behind the end of the prompt.
    ///
    /// ## Why it matters
    ///
    /// A mask that ends early teaches the model to write the header of its own turn. One that ends late leaves the
    /// answer's first tokens untrained, and these decide how the answer goes on. Marker strings that are looked for in
    /// tokens are not found where they melt into their neighbours.
    ///
    /// ## Evidence
    ///
    /// Identity: the first target is the first token behind what the rendered question, with the header of the answer,
    /// has in common with the row. Rows whose whole prompt is supervised, and masks of one length for all rows, are
    /// other rules'. Above a share of `WRONG_MASK_ROWS` it is an error, below it a warning. Where only the tokenizer
    /// melts the question's last letters into the answer, the mask ends where they part, which is information.
    ///
    /// ## How to fix
    ///
    /// Let the mask end at the longest common prefix of the row's tokens and those of its question, rendered with
    /// `add_generation_prompt=True`; search for no marker strings.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-lm/issues/584>
    /// - <https://github.com/ml-explore/mlx-lm/issues/1355>
    /// - <https://github.com/huggingface/trl/issues/5213>
    /// - <https://github.com/huggingface/trl/issues/1820>
    /// - <https://github.com/huggingface/trl/issues/588>
    pub static MASK_BOUNDARY_WRONG = {
        name: "mask-boundary-wrong",
        code: "MASK003",
        summary: "masks end before or behind the end of the prompt",
        phase: Baseline,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &["end-of-text-spam", "repetition-loop", "never-stops"],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(data) = &evidence.data else {
        return Outcome::not_measured("the data", &evidence.data);
    };
    if !evidence.settings.mask_prompt {
        return Outcome::not_applicable("prompts were not to be masked");
    }
    let boundary = &data.boundary;
    if boundary.rows == 0 {
        return Outcome::not_applicable("no row has a prompt to judge a mask by");
    }
    if boundary.constant.is_some() {
        return Outcome::Pass;
    }
    if boundary.early.is_empty() && boundary.late.is_empty() {
        return moved(boundary);
    }
    let (side, rows, expected) = if boundary.early.total >= boundary.late.total {
        ("before", &boundary.early, "no target before the answer")
    } else {
        ("behind", &boundary.late, "the answer's first token as the first target")
    };
    let finding = Finding::new(
        format!(
            "the mask of {} ends {side} the end of the prompt",
            out_of(rows.total, boundary.rows, "row")
        ),
        format!("the first targets of such a row are {:?}", boundary.first_targets),
        expected,
    )
    .at(rows)
    .with("rows", boundary.rows)
    .with("early", &boundary.early)
    .with("late", &boundary.late)
    .with("first_targets", boundary.first_targets.as_str())
    .with("supervised_prompt_tokens", boundary.supervised_prompt_tokens)
    .fix(Fix::by_hand(
        "end the mask where the row's tokens and those of its question, rendered with `add_generation_prompt=True`, part",
    ));
    let wrong = (boundary.early.total + boundary.late.total) as f64;
    if wrong > WRONG_MASK_ROWS * boundary.rows as f64 {
        finding.into()
    } else {
        finding.lowered_to(Severity::Warning).into()
    }
}

/// The masks are right, and the tokens of the questions are not those that the rows begin with.
fn moved(boundary: &BoundaryEvidence) -> Outcome {
    let rows = &boundary.moved;
    if rows.is_empty() {
        return Outcome::Pass;
    }
    Finding::new(
        format!(
            "the last tokens of the question are others in {}",
            out_of(rows.total, boundary.rows, "row")
        ),
        "tokens that differ between the question alone and the whole row; the mask ends where they part",
        "rows that begin with the tokens of their question",
    )
    .at(rows)
    .with("rows", boundary.rows)
    .with("moved", rows)
    .fix(Fix::by_hand(
        "nothing has to be done here; a trainer that counts the question's tokens masks these rows wrongly",
    ))
    .lowered_to(Severity::Info)
    .into()
}
