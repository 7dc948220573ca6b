use super::Outcome;
use super::rule::declare_rule;
use super::unusable::Unusable;
use crate::evidence::{Evidence, RefusalKind};

declare_rule! {
    /// ## What it finds
    ///
    /// A model folder without weights, or one in which files that `model.safetensors.index.json` names are not there.
    ///
    /// ## Why it matters
    ///
    /// Programs that load what they find and leave the rest at random start values answer nonsense, and fine-tuning
    /// teaches that nonsense. An index that was copied from another export names files that never existed.
    ///
    /// ## Evidence
    ///
    /// Identity: every file name in the index's `weight_map` is a file of the folder. Only names are compared; nothing
    /// is estimated.
    ///
    /// ## How to fix
    ///
    /// The usual cause is a download that was interrupted: fetch the model again, which continues where it stopped. If
    /// the files are all there and the index is that of another export, delete the index when there is a single
    /// `model.safetensors`, or convert the model again.
    ///
    /// ## References
    ///
    /// - <https://github.com/Blaizzy/mlx-vlm/issues/1827>
    /// - <https://github.com/sgl-project/sglang/issues/32279>
    /// - <https://github.com/ml-explore/mlx-swift-lm/issues/554>
    /// - <https://github.com/jundot/omlx/issues/599>
    pub static SHARDS_MISSING = {
        name: "shards-missing",
        code: "MODEL002",
        summary: "weight files are absent, or the index of the shards is broken",
        phase: Baseline,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    Unusable {
        kind: RefusalKind::Shards,
        expected: "every weight file that the index names",
        fix: "run `hf download OWNER/NAME` again for a model of the hub: it fetches only what is missing",
    }
    .in_model(evidence)
}
