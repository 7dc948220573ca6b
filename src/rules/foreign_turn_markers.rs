use super::rule::declare_rule;
use super::wording::out_of;
use super::{Finding, Fix, Outcome, Severity};
use crate::evidence::{Evidence, Slot};
use crate::thresholds::FOREIGN_MARKER_ROWS;

declare_rule! {
    /// ## What it finds
    ///
    /// Rows whose text holds the turn markers of another model family, such as `[INST]` for a model that knows
    /// `<|im_start|>`.
    ///
    /// ## Why it matters
    ///
    /// To this tokenizer the markers are a few ordinary letters. The model learns conversations in a format that its
    /// own chat template never writes, so that nothing of it shows when it is asked through the template.
    ///
    /// ## Evidence
    ///
    /// The rows' text, searched for the markers of the common formats; those that the tokenizer holds as one token or
    /// that its own chat template writes are left out. Up to a share of `FOREIGN_MARKER_ROWS` it is information:
    /// texts about language models quote such markers.
    ///
    /// ## How to fix
    ///
    /// Write the rows as `messages`, and let the model's own template write the turns. If the format is meant, ask
    /// without the template.
    ///
    /// ## References
    ///
    /// - <https://github.com/hiyouga/LlamaFactory/issues/6736>
    /// - <https://github.com/ml-explore/mlx-examples/issues/849>
    /// - <https://github.com/Blaizzy/mlx-vlm/issues/1254>
    pub static FOREIGN_TURN_MARKERS = {
        name: "foreign-turn-markers",
        code: "DATA004",
        summary: "the text of rows holds turn markers of another model family",
        phase: Baseline,
        severity: Warning,
        status: Stable,
        since: "0.1.0",
        explains: &["never-stops", "repetition-loop"],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(data) = &evidence.data else {
        return Outcome::not_measured("the data", &evidence.data);
    };
    let Slot::Ran(model) = &evidence.model else {
        return Outcome::not_measured("the model", &evidence.model);
    };
    if !model.has_chat_template {
        return Outcome::not_applicable("the model has no chat template of its own");
    }
    let rows = &data.template.rows_with_foreign_markers;
    if rows.is_empty() {
        return Outcome::Pass;
    }
    let markers: Vec<String> = data
        .template
        .foreign_markers
        .iter()
        .map(|marker| format!("`{marker}`"))
        .collect();
    let finding = Finding::new(
        format!(
            "{} hold turn markers of another model family",
            out_of(rows.total, data.rows, "row")
        ),
        format!(
            "{}, which this tokenizer splits into ordinary tokens",
            markers.join(", ")
        ),
        "turns as the model's own chat template writes them",
    )
    .at(rows)
    .with("rows", data.rows)
    .with("rows_with_foreign_markers", rows)
    .with("foreign_markers", data.template.foreign_markers.clone())
    .fix(Fix::by_hand(if data.format == "text" {
        "write the rows as `messages` with roles and contents, so that the model's own chat template writes the turns"
    } else {
        "take the markers out of the messages: the model's own chat template writes the turns around them"
    }))
    .fix(Fix::by_hand(
        "if the format is meant, ask in it too: `--ignore-chat-template` of mlx_lm.generate",
    ));
    if rows.share_of(data.rows) > FOREIGN_MARKER_ROWS {
        finding.into()
    } else {
        finding.lowered_to(Severity::Info).into()
    }
}
