use super::finished_adapter::files;
use super::rule::declare_rule;
use super::wording::{counted, factor, grouped, shortest};
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, FineTuneKind, Slot};
use crate::thresholds::UPDATE_IN_ALL;

declare_rule! {
    /// ## What it finds
    ///
    /// Whole weights that were trained and are those of the base, or next to them.
    ///
    /// ## Why it matters
    ///
    /// The files are large, everything loads, and the model answers like the base. Either training taught next to nothing, or
    /// what was saved is not what was trained.
    ///
    /// ## Evidence
    ///
    /// The norm of each weight's difference from the base, over the norm of the base's weight. The median of the weights
    /// that differ at all is below `UPDATE_IN_ALL`, or none differs. Files cannot tell too little training from weights that
    /// were saved from before it or rounded away, so both are named.
    ///
    /// ## How to fix
    ///
    /// Train with a higher learning rate or longer; if the training's own loss fell far, see which model was saved.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-examples/issues/244>
    /// - <https://github.com/ARahim3/mlx-tune/issues/15>
    pub static WHOLE_WEIGHTS_HARDLY_CHANGED = {
        name: "whole-weights-hardly-changed",
        code: "SAVE010",
        summary: "whole weights that were trained are next to those of the base",
        phase: Parameters,
        severity: Error,
        status: Preview,
        since: "0.1.0",
        explains: &["loss-not-decreasing"],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let files = match files(evidence) {
        Ok(files) => files,
        Err(outcome) => return outcome,
    };
    if evidence.settings.fine_tune != FineTuneKind::Full {
        return Outcome::not_applicable("an adapter, no whole weights");
    }
    if files.applied == 0 {
        return Outcome::not_applicable("none of the weights fits the base");
    }
    let Slot::Ran(parameters) = &evidence.parameters else {
        return Outcome::not_measured("the comparison of parameters", &evidence.parameters);
    };
    let change = parameters.median_change();
    if change.is_some_and(|change| change >= UPDATE_IN_ALL) {
        return Outcome::Pass;
    }
    let changed = format!(
        "{} of {} differ from the base",
        grouped(parameters.changed as u64),
        counted(files.applied, "weight")
    );
    let found = match change {
        Some(change) => format!("{changed}, by a median of {} of their norm", factor(change)),
        None => changed,
    };
    Finding::new(
        "the trained weights are next to those of the base: too little was learnt, or it was not saved",
        found,
        format!("a median change of at least {}", shortest(UPDATE_IN_ALL)),
    )
    .with("applied", files.applied)
    .with("changed", parameters.changed)
    .with("median_change", change)
    .with("stated_learning_rate", files.learning_rate)
    .with("stated_steps", files.steps)
    .fix(Fix::by_hand(match (files.steps, files.learning_rate) {
        (Some(steps), Some(rate)) => format!(
            "train longer or with a higher learning rate than the stated {steps} steps at {}",
            shortest(rate)
        ),
        _ => "train longer or with a higher learning rate".to_owned(),
    }))
    .fix(Fix::by_hand(
        "if the training's loss fell far, see that the model that was trained is the one that is saved, and in 32 bits",
    ))
    .into()
}
