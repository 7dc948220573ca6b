use super::rule::declare_rule;
use super::wording::{counted, grouped};
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, Slot};

declare_rule! {
    /// ## What it finds
    ///
    /// Training was to go on from an earlier adapter, and that adapter's file holds nothing for this base.
    ///
    /// ## Why it matters
    ///
    /// mlx-lm says "Loading fine-tuned weights from ..." and takes what fits. If no name fits, it starts from scratch without
    /// a word, and the earlier training is lost. If names fit and shapes do not, it fails in the first forward pass, without
    /// a word of the file.
    ///
    /// ## Evidence
    ///
    /// Identity: every tensor in the file that `resume_adapter_file` names has a layer of that name in the base, with the
    /// same inputs and outputs.
    ///
    /// ## How to fix
    ///
    /// Name the file that belongs to this base and to these layers, in mlx-lm's format.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-lm/issues/1727>
    /// - <https://github.com/ml-explore/mlx-lm/pull/1725>
    pub static RESUMED_ADAPTER_NOT_LOADED = {
        name: "resumed-adapter-not-loaded",
        code: "SAVE009",
        summary: "training was to go on from an adapter that does not fit",
        phase: Parameters,
        severity: Error,
        status: Preview,
        since: "0.1.0",
        explains: &["finished-adapter-unreadable", "adapter-too-weak"],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(resumed) = &evidence.resumed else {
        return Outcome::not_measured("the adapter that training went on from", &evidence.resumed);
    };
    if resumed.tensors > 0 && resumed.misfits.is_empty() {
        return Outcome::Pass;
    }
    let fitting = resumed.tensors.saturating_sub(resumed.misfits.total);
    Finding::new(
        if fitting == 0 {
            "training started from scratch: the adapter that it was to go on from holds nothing for it".to_owned()
        } else {
            format!(
                "of the adapter that training was to go on from, only {} of {} fit",
                grouped(fitting as u64),
                counted(resumed.tensors, "tensor")
            )
        },
        format!(
            "{} in `{}`, {} of them with a place in the base",
            counted(resumed.tensors, "tensor"),
            resumed.file,
            grouped(fitting as u64)
        ),
        "a place in the base for every tensor",
    )
    .at(&resumed.misfits)
    .with("resumed_from", resumed.file.clone())
    .with("tensors", resumed.tensors)
    .with("misfits", &resumed.misfits)
    .fix(Fix::by_hand(
        "give `--resume-adapter-file` the file of an adapter that was trained on this base and these layers",
    ))
    .into()
}
