use super::live_state::reload;
use super::rule::declare_rule;
use super::wording::counted;
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, ReloadEvidence};

declare_rule! {
    /// ## What it finds
    ///
    /// What was saved cannot be loaded as an adapter of mlx-lm: a file is cut off, or the folder is in the format of
    /// another program.
    ///
    /// ## Why it matters
    ///
    /// The training is lost although it worked. Some loaders stop with an error that names neither file nor cause;
    /// others skip every name they do not know and answer like the base.
    ///
    /// ## Evidence
    ///
    /// Identity: the folder that the run wrote can be loaded, strictly, onto the same base. The reason that the loader
    /// gave is quoted. A file that can be read and merely lacks tensors is another rule's, adapter-lost-on-reload.
    ///
    /// ## How to fix
    ///
    /// Evaluate the tensors before writing, write to a temporary name and rename: arrays that are still read from a
    /// file are destroyed when that very file is overwritten. To bring an adapter over from PEFT, rename the tensors,
    /// transpose both, and set scale to alpha / rank.
    ///
    /// ## References
    ///
    /// - <https://github.com/unslothai/unsloth-zoo/issues/1078>
    /// - <https://github.com/ml-explore/mlx-lm/issues/1119>
    /// - <https://github.com/ml-explore/mlx-swift-examples/issues/262>
    /// - <https://github.com/Blaizzy/mlx-vlm/issues/140>
    pub static ADAPTER_FILE_UNUSABLE = {
        name: "adapter-file-unusable",
        code: "SAVE003",
        summary: "what was saved cannot be loaded as an adapter",
        phase: State,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &["adapter-lost-on-reload"],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let reload = match reload(evidence) {
        Ok(reload) => reload,
        Err(outcome) => return outcome,
    };
    if reload.saved == 0 {
        return Outcome::not_applicable("nothing was saved");
    }
    let Some(reason) = &reload.refused else {
        return Outcome::Pass;
    };
    if lacks_tensors_only(reload) {
        return Outcome::not_applicable("the file can be read, and what it lacks is judged by adapter-lost-on-reload");
    }
    Finding::new(
        headline(reload),
        reason.clone(),
        "a folder that loads strictly onto the same base",
    )
    .at(&reload.lost)
    .with("saved", reload.saved)
    .with("stored", reload.stored)
    .with("other_format", reload.other_format.clone())
    .with("refused", reason.clone())
    .fix(fix(reload))
    .into()
}

/// Whether loading was refused because tensors are missing from a file that is otherwise sound.
pub(super) fn lacks_tensors_only(reload: &ReloadEvidence) -> bool {
    reload.refused.is_some() && reload.stored.is_some() && reload.other_format.is_none() && !reload.lost.is_empty()
}

fn headline(reload: &ReloadEvidence) -> String {
    match (&reload.other_format, reload.stored) {
        (Some(format), _) => format!("the adapter was saved in the format of {format}, which mlx-lm cannot load"),
        (None, None) => "the file of the saved adapter cannot be read".to_owned(),
        (None, Some(tensors)) => format!("the saved adapter of {} cannot be loaded", counted(tensors, "tensor")),
    }
}

fn fix(reload: &ReloadEvidence) -> Fix {
    Fix::by_hand(match (&reload.other_format, reload.stored) {
        (Some(_), _) => {
            "convert it: name the tensors `<path>.lora_a` and `<path>.lora_b`, transpose both, and write \
             `adapter_config.json` with `num_layers` and a scale of alpha / rank"
        }
        (None, None) => {
            "evaluate the tensors, write them to a temporary name in the same folder, and rename it when it is whole"
        }
        (None, Some(_)) => "make the configuration and the tensors agree, and load the folder once right after saving",
    })
}
