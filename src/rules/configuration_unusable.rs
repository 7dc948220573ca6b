use super::Outcome;
use super::rule::declare_rule;
use super::unusable::Unusable;
use crate::evidence::{Evidence, RefusalKind};

declare_rule! {
    /// ## What it finds
    ///
    /// A `config.json`, or the metadata of a GGUF file, that cannot be read, contradicts itself, or asks for an
    /// architecture or a computation that this program does not have, for example an unknown kind of rotary scaling.
    ///
    /// ## Why it matters
    ///
    /// A setting that a program does not know changes the model without changing any tensor: passed over, it leaves a
    /// model that answers well on short texts and degenerates on long ones.
    ///
    /// ## Evidence
    ///
    /// Every value of the configuration is read and checked before anything is loaded. A value that would change the
    /// computation and is not supported is refused, not passed over; all of them are named at once.
    ///
    /// ## How to fix
    ///
    /// Take the `config.json` that belongs to the weights. If the setting is right and not supported, use a model of a
    /// supported architecture: leaving the setting out would give another model. A finished adapter (`--adapter`) is judged
    /// on other architectures too, with the answers and losses of Python mlx-lm.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-examples/issues/799>
    /// - <https://github.com/jundot/omlx/issues/3347>
    /// - <https://github.com/sbryngelson/ANEForge/issues/58>
    /// - <https://github.com/ml-explore/mlx-lm/issues/660>
    /// - <https://github.com/ml-explore/mlx-lm/issues/1606>
    pub static CONFIGURATION_UNUSABLE = {
        name: "configuration-unusable",
        code: "MODEL009",
        summary: "the configuration is absent, broken or asks for what is not supported",
        phase: Baseline,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    Unusable {
        kind: RefusalKind::Configuration,
        expected: "a configuration whose every setting is supported",
        fix: "do not delete a setting that is not supported, as the model would compute something else: use a model without it",
    }
    .in_model(evidence)
}
