use super::rule::declare_rule;
use super::wording::{counted, grouped};
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, Slot};

declare_rule! {
    /// ## What it finds
    ///
    /// The model holds fewer parameters than its configuration predicts: some blocks or layers were built but never
    /// registered, so that the parameter tree does not know them.
    ///
    /// ## Why it matters
    ///
    /// Only registered parameters are loaded, trained, saved and moved. A list of blocks that is invisible to the
    /// module tree keeps its random start values, and a report of "total parameters: 2" is the only sign.
    ///
    /// ## Evidence
    ///
    /// Identity: the names predicted from `config.json` are exactly the names in the parameter tree, and the counts of
    /// tensors and values agree. Nothing is estimated.
    ///
    /// ## How to fix
    ///
    /// Give every layer to the module system: in mlx-rs a field needs `#[param]`, and a `Vec` of blocks must be a
    /// field of a type that derives `ModuleParameters`. In Python the blocks must be attributes of the module, not of
    /// a plain object or a closure.
    ///
    /// ## References
    ///
    /// - <https://github.com/oxiglade/mlx-rs/issues/304>
    pub static PARAMETER_TREE_INCOMPLETE = {
        name: "parameter-tree-incomplete",
        code: "MODEL001",
        summary: "the model holds fewer parameters than its configuration predicts",
        phase: Baseline,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[
            "adapter-not-attached",
            "gradients-not-flowing",
            "parameters-unchanged",
            "adapter-never-moved",
            "loss-not-decreasing",
        ],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(model) = &evidence.model else {
        return Outcome::not_measured("the model", &evidence.model);
    };
    let (Some(predicted_tensors), Some(predicted_values)) = (model.predicted_tensors, model.predicted_values) else {
        return Outcome::not_applicable(
            "nothing is predicted of the tensors of an architecture that this program lacks",
        );
    };
    let complete = model.unregistered.is_empty()
        && model.registered_tensors >= predicted_tensors
        && model.registered_values >= predicted_values;
    if complete {
        return Outcome::Pass;
    }
    Finding::new(
        format!(
            "the model holds {} of the {} parameters that its configuration predicts",
            grouped(model.registered_values),
            grouped(predicted_values)
        ),
        format!(
            "{} with {} values",
            counted(model.registered_tensors, "tensor"),
            grouped(model.registered_values)
        ),
        format!(
            "{} with {} values ({}, {})",
            counted(predicted_tensors, "tensor"),
            grouped(predicted_values),
            model.architecture,
            counted(model.layers, "layer")
        ),
    )
    .at(&model.unregistered)
    .with("predicted_tensors", predicted_tensors)
    .with("registered_tensors", model.registered_tensors)
    .with("predicted_values", predicted_values)
    .with("registered_values", model.registered_values)
    .with("unregistered", &model.unregistered)
    .fix(Fix::by_hand(
        "register every block with the module system (`#[param]` in mlx-rs, an attribute of the module in Python)",
    ))
    .into()
}
