use super::rule::declare_rule;
use super::wording::{counted, grouped, out_of, percentage};
use super::{Applicability, Finding, Fix, Outcome, Rerun, Severity};
use crate::evidence::{DataEvidence, Evidence, Slot};
use crate::thresholds::MOST;

declare_rule! {
    /// ## What it finds
    ///
    /// Prompts that are supervised from their start, though they were to carry no loss; or, where no mask was asked
    /// for, prompts that make up most of what is learnt.
    ///
    /// ## Why it matters
    ///
    /// The model learns to write questions. With long prompts most of the loss is theirs, so that a falling loss says
    /// little about the answers, and the model parrots instructions. mlx-lm once ignored `mask_prompt` in its
    /// configuration file.
    ///
    /// ## Evidence
    ///
    /// Identity: where a mask was asked for, no token of a prompt is a target. The prompt ends where the rendered
    /// question, with the header of the answer, ends. It is an error if most rows break it, a warning otherwise. Where
    /// no mask was asked for it is information, if prompts have at least a share of `MOST` of the targets.
    ///
    /// ## How to fix
    ///
    /// Mask the prompts (`--mask-prompt` of mlx_lm.lora; this program does by default), for rows of `messages` or of
    /// `prompt` and `completion`.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-examples/issues/689>
    /// - <https://github.com/ml-explore/mlx-examples/issues/1313>
    /// - <https://github.com/huggingface/trl/issues/1282>
    pub static PROMPT_NOT_MASKED = {
        name: "prompt-not-masked",
        code: "MASK002",
        summary: "prompts are supervised though they were to be masked",
        phase: Baseline,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &["end-of-text-spam", "repetition-loop", "never-stops"],
        offers_command: true,
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(data) = &evidence.data else {
        return Outcome::not_measured("the data", &evidence.data);
    };
    if data.format == "text" {
        return Outcome::not_applicable("rows of plain text have no prompt");
    }
    if !evidence.settings.mask_prompt {
        return not_asked_for(data, evidence);
    }
    if data.boundary.rows == 0 {
        return Outcome::not_applicable("no row has a prompt to judge a mask by");
    }
    let rows = &data.boundary.unmasked;
    if rows.is_empty() {
        return Outcome::Pass;
    }
    let finding = Finding::new(
        format!(
            "{} train on the prompt, which was to be masked",
            out_of(rows.total, data.boundary.rows, "row")
        ),
        prompt_targets(data),
        "no target before the answer",
    )
    .at(rows)
    .with("rows", data.boundary.rows)
    .with("unmasked", rows)
    .with("supervised_prompt_tokens", data.boundary.supervised_prompt_tokens)
    .with("supervised_tokens", data.supervised_tokens)
    .fix(Fix::by_hand(
        "look for the code that makes the mask: it is not called for the rows that are named, or what it returns is not \
         used by the loss",
    ));
    if rows.share_of(data.boundary.rows) >= MOST {
        finding.into()
    } else {
        finding.lowered_to(Severity::Warning).into()
    }
}

fn prompt_targets(data: &DataEvidence) -> String {
    format!(
        "{} of {} belong to prompts",
        grouped(data.boundary.supervised_prompt_tokens as u64),
        counted(data.supervised_tokens, "supervised token")
    )
}

fn not_asked_for(data: &DataEvidence, evidence: &Evidence) -> Outcome {
    let share = data.boundary.supervised_prompt_tokens as f64 / data.supervised_tokens.max(1) as f64;
    if share < MOST {
        return Outcome::Pass;
    }
    Finding::new(
        format!("{} of what is learnt are prompts", percentage(share)),
        prompt_targets(data),
        "mostly answers, or prompts that are worth learning",
    )
    .with("supervised_prompt_tokens", data.boundary.supervised_prompt_tokens)
    .with("supervised_tokens", data.supervised_tokens)
    .fix(Fix::command(
        "mask the prompts",
        Rerun::of(&evidence.settings).mask_prompt(true),
        Applicability::MachineApplicable,
    ))
    .lowered_to(Severity::Info)
    .into()
}
