use super::rule::declare_rule;
use super::wording::{counted, factor, shortest};
use super::{Applicability, Finding, Fix, Outcome, Rerun};
use crate::evidence::{Evidence, FineTuneKind, ParameterEvidence, Slot};
use crate::quantile::upper_median;
use crate::thresholds::{ADAPTER_LEARNING_RATE, FITTED_LOSS, FULL_LEARNING_RATE, UPDATE_IN_ALL, UPDATE_PER_STEP};

declare_rule! {
    /// ## What it finds
    ///
    /// A training run whose steps are real but far too small to teach anything.
    ///
    /// ## Why it matters
    ///
    /// The parameters change, files are saved, and the answers are those of the base. It is the commonest reason for "the
    /// model did not learn my data".
    ///
    /// ## Evidence
    ///
    /// The norm of what training added to each layer, over the norm of the layer's weight; for adapters that is scale
    /// times the product of the two matrices. The median over the layers is below `UPDATE_IN_ALL`, and per step at the
    /// full learning rate below `UPDATE_PER_STEP`. A rate of exactly 0 belongs to `parameters-unchanged`. Data that the
    /// base had already fitted is not judged.
    ///
    /// ## How to fix
    ///
    /// Raise the learning rate; for adapters the product of learning rate and scale counts. Or make more steps.
    ///
    /// ## References
    ///
    /// - <https://github.com/ARahim3/mlx-tune/issues/15>
    /// - <https://github.com/ml-explore/mlx-examples/issues/244>
    /// - <https://github.com/hiyouga/LlamaFactory/issues/1540>
    pub static UPDATE_TOO_SMALL = {
        name: "update-too-small",
        code: "OPT006",
        summary: "the steps are far too small to teach anything",
        phase: Parameters,
        severity: Warning,
        status: Stable,
        since: "0.1.0",
        explains: &["loss-not-decreasing"],
        offers_command: true,
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(training) = &evidence.training else {
        return Outcome::not_measured("training", &evidence.training);
    };
    let Slot::Ran(parameters) = &evidence.parameters else {
        return Outcome::not_measured("the comparison of parameters", &evidence.parameters);
    };
    let settings = &evidence.settings;
    let peak = settings.learning_rate;
    if training.steps.is_empty() || training.optimizer.learning_rate_sum <= 0.0 || peak <= 0.0 {
        return Outcome::not_applicable("no step had a learning rate above 0");
    }
    if evidence.loss_before().is_some_and(|loss| loss < FITTED_LOSS) {
        return Outcome::not_applicable("the base had already fitted the data");
    }
    let sizes = relative_sizes(parameters);
    let Some(in_all) = upper_median(sizes).filter(|&size| size > 0.0) else {
        return Outcome::not_applicable("no layer that was to be trained has a measured change");
    };
    // Warm-up makes some of the steps smaller than they were meant to be.
    let full_steps = training.optimizer.learning_rate_sum / peak;
    let per_step = in_all / full_steps;
    if per_step >= UPDATE_PER_STEP || in_all >= UPDATE_IN_ALL {
        return Outcome::Pass;
    }
    let usual = match settings.fine_tune {
        FineTuneKind::Lora => ADAPTER_LEARNING_RATE,
        FineTuneKind::Full => FULL_LEARNING_RATE,
    };
    let steps = counted(training.steps.len(), "step");
    let finding = Finding::new(
        format!(
            "the updates are too small to teach anything: {} of the weights in {steps}",
            factor(in_all)
        ),
        format!(
            "a median change of {} per step, relative to the norm of the layer, at a learning rate of {}",
            factor(per_step),
            shortest(peak)
        ),
        format!("at least {} per step", shortest(UPDATE_PER_STEP)),
    )
    .with("relative_change", in_all)
    .with("relative_change_per_step", per_step)
    .with("learning_rate", peak)
    .with("scale", settings.scale)
    .with("steps", training.steps.len());
    if peak < usual {
        finding.fix(Fix::command(
            format!("raise the learning rate from {} to {}", shortest(peak), shortest(usual)),
            Rerun::of(settings).learning_rate(usual),
            Applicability::MachineApplicable,
        ))
    } else {
        finding.fix(Fix::by_hand(
            "the learning rate is not low, so find out what makes its updates small: the scale of the adapters, the \
             optimizer, or weights of an unusual size",
        ))
    }
    .into()
}

/// The change of each trained layer over the layer's norm.
fn relative_sizes(parameters: &ParameterEvidence) -> Vec<f64> {
    match &parameters.adapter {
        Some(adapter) => adapter.updates.iter().filter_map(|update| update.relative).collect(),
        None => parameters
            .changes
            .iter()
            .filter(|change| change.norm_before > 0.0)
            .filter_map(|change| change.norm_difference.map(|norm| norm / change.norm_before))
            .collect(),
    }
}
