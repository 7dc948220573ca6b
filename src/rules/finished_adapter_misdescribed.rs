use super::finished_adapter::files;
use super::rule::declare_rule;
use super::wording::counted;
use super::{Finding, Fix, Outcome};
use crate::evidence::Evidence;

declare_rule! {
    /// ## What it finds
    ///
    /// The adapter's configuration does not describe its tensors, or leaves out what a loader needs.
    ///
    /// ## Why it matters
    ///
    /// Rank, scale and layers are read from `adapter_config.json` when the adapter is loaded. With a value of another
    /// program, or none, loading fails, or the adapter acts with another strength than it was trained with.
    ///
    /// ## Evidence
    ///
    /// Identity: the configured rank is that of the tensors, scale and dropout are there and finite, every key names a layer
    /// of the base, and nothing is configured that changes what the tensors mean.
    ///
    /// ## How to fix
    ///
    /// Write the values that training used. mlx-lm's `scale` multiplies directly; PEFT's alpha is divided by the rank.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-lm/issues/1671>
    /// - <https://github.com/unslothai/unsloth-zoo/issues/679>
    /// - <https://github.com/MakazhanAlpamys/Soup/issues/392>
    pub static FINISHED_ADAPTER_MISDESCRIBED = {
        name: "finished-adapter-misdescribed",
        code: "SAVE008",
        summary: "the adapter's configuration does not describe its tensors",
        phase: Parameters,
        severity: Error,
        status: Preview,
        since: "0.1.0",
        explains: &[
            "finished-adapter-incomplete",
            "adapter-not-attached",
            "adapter-settings-not-applied",
            "adapter-too-weak",
        ],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let files = match files(evidence) {
        Ok(files) => files,
        Err(outcome) => return outcome,
    };
    let problems = &files.configuration_problems;
    let is_whole_model = evidence.settings.trained.is_some();
    let whose = if is_whole_model {
        "the finished model's folder"
    } else {
        "the adapter's configuration"
    };
    let headline = match problems.as_slice() {
        [] => return Outcome::Pass,
        [only] => format!("{whose} is wrong: {only}"),
        several => format!("{whose} is wrong in {}", counted(several.len(), "point")),
    };
    Finding::new(
        headline,
        problems.join("; "),
        if is_whole_model {
            "a folder that holds everything that is asked with".to_owned()
        } else {
            format!("an `adapter_config.json` of {} that its tensors agree with", files.format)
        },
    )
    .with("configuration_problems", problems.clone())
    .with("format", files.format.clone())
    .fix(Fix::by_hand(if is_whole_model {
        "save the tokenizer with the model, chat template and generation configuration included"
    } else {
        "write into `adapter_config.json` what training used: the rank of the tensors, the scale, and the adapted layers"
    }))
    .into()
}
