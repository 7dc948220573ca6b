use super::finished_adapter::files;
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
    /// a word, and the earlier training is lost.
    ///
    /// ## Evidence
    ///
    /// Identity: every tensor in the file that `resume_adapter_file` names has the name and the shape of a tensor that the
    /// adapter itself holds.
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
        explains: &["adapter-too-weak"],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let files = match files(evidence) {
        Ok(files) => files,
        Err(outcome) => return outcome,
    };
    let Some(named) = &files.resumed_from else {
        return Outcome::not_applicable("training did not go on from an earlier adapter");
    };
    let Slot::Ran(resumed) = &files.resumed else {
        return Outcome::not_measured("the adapter that training went on from", &files.resumed);
    };
    if resumed.tensors > 0 && resumed.other.is_empty() {
        return Outcome::Pass;
    }
    let fitting = resumed.tensors - resumed.other.total;
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
            "{} in `{named}`, {} of them with a name and shape of the adapter's own",
            counted(resumed.tensors, "tensor"),
            grouped(fitting as u64)
        ),
        "the same names and shapes in both files",
    )
    .at(&resumed.other)
    .with("resumed_from", named.clone())
    .with("tensors", resumed.tensors)
    .with("other", &resumed.other)
    .fix(Fix::by_hand(
        "give `--resume-adapter-file` the file of an adapter that was trained on this base and these layers",
    ))
    .into()
}
