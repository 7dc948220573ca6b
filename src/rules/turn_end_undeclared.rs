use std::path::Path;

use super::rule::declare_rule;
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, ModelEvidence, Slot, StopToken};

declare_rule! {
    /// ## What it finds
    ///
    /// A token that the chat template puts after every answer and that no file of the model declares as an end.
    ///
    /// ## Why it matters
    ///
    /// Training teaches the model to close its answer with this token, and programs stop at the declared ones alone.
    /// The answer is right, the token is printed or passed over, and the model goes on with a turn of its own. This
    /// program stops at both, so its own answers look fine.
    ///
    /// ## Evidence
    ///
    /// Identity: the first control token after an assistant's words, as the chat template renders them, is among the end
    /// tokens of `tokenizer_config.json`, `config.json`, `generation_config.json` or the metadata of the GGUF file.
    ///
    /// ## How to fix
    ///
    /// Add the id to `eos_token_id` of `generation_config.json`, beside those that are there.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-examples/issues/737>
    /// - <https://github.com/ml-explore/mlx-examples/issues/1141>
    /// - <https://github.com/Blaizzy/mlx-vlm/issues/309>
    /// - <https://github.com/Blaizzy/mlx-vlm/issues/2112>
    /// - <https://github.com/Blaizzy/mlx-vlm/issues/1496>
    pub static TURN_END_UNDECLARED = {
        name: "turn-end-undeclared",
        code: "EOS009",
        summary: "no file declares the token that the chat template puts after an answer as an end",
        phase: Baseline,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(model) = &evidence.model else {
        return Outcome::not_measured("the model", &evidence.model);
    };
    if !model.has_chat_template {
        return Outcome::not_applicable("there is no chat template");
    }
    if evidence.data.ran().is_some_and(|data| data.format == "text") {
        return Outcome::not_applicable("the rows are plain text, in which nobody takes turns");
    }
    let Some(end) = model.stop_tokens.iter().find(|token| token.is_written_by_template()) else {
        return Outcome::not_applicable("the chat template puts no control token after an answer");
    };
    if end.is_declared() {
        return Outcome::Pass;
    }
    let declared: Vec<&StopToken> = model.stop_tokens.iter().filter(|token| token.is_declared()).collect();
    let names: Vec<String> = declared.iter().map(|token| format!("`{}`", token.text)).collect();
    Finding::new(
        format!("no file declares `{}` as an end, and it closes every answer", end.text),
        if names.is_empty() {
            "no declared end at all".to_owned()
        } else {
            format!("{} as the only declared ends", names.join(", "))
        },
        format!("`{}` (id {}) among the declared ends", end.text, end.id),
    )
    .with("token", end.text.as_str())
    .with("id", end.id)
    .with("declared", declared.iter().map(|token| token.id).collect::<Vec<_>>())
    .fix(Fix::by_hand(remedy(model, end, &evidence.settings.model)))
    .predating_training()
    .into()
}

fn remedy(model: &ModelEvidence, end: &StopToken, path: &str) -> String {
    let in_one_file = Path::new(path)
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    if in_one_file {
        return format!(
            "write the id {} as `tokenizer.ggml.eot_token_id` into the GGUF file",
            end.id
        );
    }
    let mut ids: Vec<u32> = model.stop_tokens.iter().map(|token| token.id).collect();
    ids.sort_unstable();
    let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
    format!(
        "write `\"eos_token_id\": [{}]` into generation_config.json and config.json",
        ids.join(", ")
    )
}
