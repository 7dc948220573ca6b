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
    /// block. It adapts blocks from the end: of a file that is complete for the last blocks and has nothing before them
    /// nobody can tell whether the others were lost or its configuration merely calls for more blocks. That is a note
    /// where no training can have written the configuration, as with more blocks than the model has; a warning where one
    /// did; and an error where the training was part of this run.
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
            Some(blocks) => fewer_blocks(evidence, files, blocks).into(),
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

/// Either the configuration says too much, which is harmless, or whole blocks were lost: the files cannot tell.
///
/// A configuration that a training wrote is right about itself, unless it calls for more blocks than there are, which no
/// training does; one without steps was written by another program.
fn fewer_blocks(evidence: &Evidence, files: &AdapterFilesEvidence, blocks: usize) -> Finding {
    let called_for = files
        .configured_blocks
        .map_or_else(|| "all blocks".to_owned(), |blocks| counted(blocks, "block"));
    let there_are = evidence.model.ran().map(|model| model.layers);
    let is_possible = files
        .configured_blocks
        .is_none_or(|blocks| there_are.is_some_and(|there_are| blocks <= there_are));
    let finding = Finding::new(
        format!(
            "either the blocks before the last {blocks} were lost from the adapter's file, or its configuration calls for too \
             many"
        ),
        format!(
            "complete for the last {}, nothing before them, and `num_layers` calls for {called_for}",
            counted(blocks, "block")
        ),
        "as many blocks in the file as in the configuration",
    )
    .with("blocks_in_file", blocks)
    .with("blocks_configured", files.configured_blocks)
    .fix(Fix::by_hand(format!(
        "if it was trained on {}, write that into `num_layers`; otherwise the other blocks were lost when it was saved",
        counted(blocks, "block")
    )));
    if !is_possible || files.steps.is_none() {
        finding.lowered_to(Severity::Info)
    } else if evidence.settings.trainer.is_none() {
        finding.lowered_to(Severity::Warning)
    } else {
        finding
    }
}
