use super::finished_adapter::files;
use super::rule::declare_rule;
use super::wording::{counted, grouped};
use super::{Finding, Fix, Outcome, Severity};
use crate::evidence::{AdapterFilesEvidence, Evidence};

declare_rule! {
    /// ## What it finds
    ///
    /// The adapter's file lacks tensors that its configuration calls for, or holds none at all.
    ///
    /// ## Why it matters
    ///
    /// Loaders take a file like this without a word: what is missing stays as a fresh adapter, which does nothing. With no
    /// tensor at all the answers are exactly those of the base.
    ///
    /// ## Evidence
    ///
    /// Identity: for every module that the configuration names in the base's own tree, the file holds `lora_a` and `lora_b`.
    /// mlx-lm does not store keys that were left out, so without keys the layers that occur in the file count, in every
    /// block. It adapts blocks from the end: a file that is complete for the last blocks and has nothing before them is
    /// whole, and its configuration merely calls for more blocks, which is a note.
    ///
    /// ## How to fix
    ///
    /// Save all adapter tensors, both of each pair, or go back to a checkpoint that has them.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-lm/pull/1725>
    /// - <https://github.com/MakazhanAlpamys/Soup/issues/392>
    pub static FINISHED_ADAPTER_INCOMPLETE = {
        name: "finished-adapter-incomplete",
        code: "SAVE006",
        summary: "the adapter's file lacks tensors that its configuration calls for",
        phase: Parameters,
        severity: Error,
        status: Preview,
        since: "0.1.0",
        explains: &[
            "adapter-not-attached",
            "adapter-starts-at-zero",
            "adapter-too-weak",
            "adapter-never-moved",
        ],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let files = match files(evidence) {
        Ok(files) => files,
        Err(outcome) => return outcome,
    };
    if files.missing.is_empty() {
        return match files.only_last_blocks {
            Some(blocks) => fewer_blocks(files, blocks).into(),
            None => Outcome::Pass,
        };
    }
    if files.applied == 0 && !files.other_shape.is_empty() {
        return Outcome::not_applicable("the adapter is made for a model of another shape");
    }
    let called_for = files.missing.total + files.applied;
    let headline = if files.tensors == 0 {
        "the adapter's file holds no tensor, so the answers are those of the base".to_owned()
    } else {
        format!(
            "the adapter's file lacks {} of {}",
            grouped(files.missing.total as u64),
            counted(called_for, "tensor")
        )
    };
    Finding::new(
        headline,
        format!(
            "{} in the file, {} applied",
            counted(files.tensors, "tensor"),
            grouped(files.applied as u64)
        ),
        format!("{}, as the configuration calls for", counted(called_for, "tensor")),
    )
    .at(&files.missing)
    .with("tensors", files.tensors)
    .with("applied", files.applied)
    .with("missing", &files.missing)
    .fix(Fix::by_hand(
        "go back to a checkpoint that holds all tensors, or train again and save both matrices of every adapted layer",
    ))
    .into()
}

/// Either the configuration says too much, which is harmless, or whole blocks were lost.
fn fewer_blocks(files: &AdapterFilesEvidence, blocks: usize) -> Finding {
    let called_for = files
        .configured_blocks
        .map_or_else(|| "all blocks".to_owned(), |blocks| counted(blocks, "block"));
    Finding::new(
        format!(
            "the adapter's file is complete for the last {}, and its configuration calls for {called_for}",
            counted(blocks, "block")
        ),
        format!("nothing for the blocks before the last {blocks}"),
        "as many blocks in the file as in the configuration",
    )
    .with("blocks_in_file", blocks)
    .with("blocks_configured", files.configured_blocks)
    .fix(Fix::by_hand(format!(
        "if it was trained on {}, write that into `num_layers`; otherwise the other blocks were lost when it was saved",
        counted(blocks, "block")
    )))
    .lowered_to(Severity::Info)
}
