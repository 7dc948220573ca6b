use super::rule::declare_rule;
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, Slot};

/// What an error says to do about itself.
const HINT: &str = "hint:";

declare_rule! {
    /// ## What it finds
    ///
    /// The files of the adapter that was given cannot be read.
    ///
    /// ## Why it matters
    ///
    /// A file that was cut off while it was written or copied holds only a part of what was trained. Some loaders say so
    /// without naming the file, others take what is there.
    ///
    /// ## Evidence
    ///
    /// Identity: the folder holds an adapter of mlx-lm, mlx-examples or PEFT, its configuration is JSON, and the weight file
    /// is as long as its own header says.
    ///
    /// ## How to fix
    ///
    /// Copy the folder again from where it was trained. mlx-lm also leaves numbered checkpoints, such as
    /// `0000100_adapters.safetensors`: one of them can take the place of `adapters.safetensors`.
    ///
    /// ## References
    ///
    /// - <https://github.com/unslothai/unsloth-zoo/issues/1078>
    /// - <https://github.com/ml-explore/mlx-lm/issues/1119>
    pub static FINISHED_ADAPTER_UNREADABLE = {
        name: "finished-adapter-unreadable",
        code: "SAVE005",
        summary: "the files of the adapter that was given cannot be read",
        phase: Parameters,
        severity: Error,
        status: Preview,
        since: "0.1.0",
        explains: &[],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    if !evidence.settings.is_trained_elsewhere() {
        return Outcome::not_applicable("the adapter was trained here");
    }
    let error = match &evidence.adapter_files {
        Slot::Ran(_) => return Outcome::Pass,
        Slot::Crashed { error } => error,
        absent @ Slot::Skipped { .. } => return Outcome::not_measured("the finished adapter", absent),
    };
    let (headline, rest) = error.split_once('\n').unwrap_or((error, ""));
    let (hints, found): (Vec<&str>, Vec<&str>) = rest
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .partition(|line| line.starts_with(HINT));
    let finding = Finding::new(
        headline.to_owned(),
        if found.is_empty() {
            headline.to_owned()
        } else {
            found.join("; ").trim_start_matches("found: ").to_owned()
        },
        "a folder with the whole files of one adapter",
    )
    .with(
        "adapter",
        evidence
            .settings
            .adapter
            .clone()
            .or_else(|| evidence.settings.trained.clone()),
    )
    .with("error", error.clone());
    let own = hints.iter().map(|hint| Fix::by_hand(hint[HINT.len()..].trim_start()));
    own.fold(finding, Finding::fix)
        .fix(Fix::by_hand(
            "where a file is damaged, copy the folder again from where it was trained, or put one of its numbered checkpoints in \
             its place",
        ))
        .into()
}
