use super::live_state::reload;
use super::rule::declare_rule;
use super::wording::counted;
use super::{Finding, Fix, Outcome};
use crate::evidence::Evidence;

declare_rule! {
    /// ## What it finds
    ///
    /// An `adapter_config.json` that does not describe the adapters it was saved with, or that is loaded as something
    /// else.
    ///
    /// ## Why it matters
    ///
    /// The tensors alone do not say how strong an adapter is or where it belongs. With a wrong scale the loaded model is
    /// too weak or garbage; with wrong keys or layers nothing is adapted, or loading fails; without the file most tools
    /// stop.
    ///
    /// ## Evidence
    ///
    /// Identity: fine-tune type, rank, scale, dropout and the layers that keys and number of blocks name, as they stand
    /// in the file that the run wrote, are those of the live adapters; so are those of the adapters that loading it
    /// gives.
    ///
    /// ## How to fix
    ///
    /// Write the configuration from the live adapters, not from a template: the rank is the narrow side of the tensors,
    /// `keys` are the paths within a block, `num_layers` counts blocks from the last, -1 for all. Write resolved values,
    /// never `auto`.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-examples/issues/1317>
    /// - <https://github.com/MakazhanAlpamys/Soup/issues/392>
    /// - <https://github.com/unslothai/unsloth-zoo/issues/679>
    /// - <https://github.com/ml-explore/mlx-lm/issues/1671>
    pub static ADAPTER_CONFIGURATION_WRONG = {
        name: "adapter-configuration-wrong",
        code: "SAVE002",
        summary: "the adapter's configuration file does not describe the adapters it was saved with",
        phase: State,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &["adapter-file-unusable", "adapter-lost-on-reload"],
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
    if let Some(format) = &reload.other_format {
        return Outcome::not_applicable(format!("what was saved is in the format of {format}"));
    }
    let problems = &reload.configuration_problems;
    let headline = match problems.as_slice() {
        [] => return Outcome::Pass,
        [only] => format!("the saved adapter's configuration is wrong: {only}"),
        several => format!(
            "the saved adapter's configuration is wrong in {}",
            counted(several.len(), "point")
        ),
    };
    Finding::new(
        headline,
        problems.join("; "),
        "type, rank, scale, dropout and layers of the live adapters, in the file and after loading it",
    )
    .with("configuration_problems", problems.clone())
    .with("refused", reload.refused.clone())
    .with("difference_from_live", reload.difference_from_live)
    .fix(Fix::by_hand(
        "write `adapter_config.json` from the live adapters: the rank from the tensors' shape, the scale that they use, \
         and the paths of the layers that carry them",
    ))
    .into()
}
