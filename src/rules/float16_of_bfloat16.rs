use super::rule::declare_rule;
use super::unusable::finding;
use super::{Applicability, Finding, Fix, Outcome, Rerun, Severity};
use crate::evidence::{Evidence, RefusalKind, RunSettings, Slot};

declare_rule! {
    /// ## What it finds
    ///
    /// A model whose files hold bfloat16, or float32 beyond its reach, computed in float16.
    ///
    /// ## Why it matters
    ///
    /// bfloat16 reaches as far as float32, float16 ends at 65504. A model that was trained in bfloat16 may have
    /// activations beyond that; they become infinite, and the gradients NaN, in the first step or in the thousandth.
    ///
    /// ## Evidence
    ///
    /// The element type of the files and that of the products. When a number of the run is not finite, or a weight
    /// that is finite in its file becomes infinite in float16, the finding is an error, otherwise a warning.
    ///
    /// ## How to fix
    ///
    /// Compute in bfloat16, or in float32 where memory allows it.
    ///
    /// ## References
    ///
    /// - <https://github.com/unslothai/unsloth-zoo/issues/670>
    /// - <https://github.com/ostris/ai-toolkit/issues/1046>
    /// - <https://github.com/ml-explore/mlx-lm/issues/370>
    pub static FLOAT16_OF_BFLOAT16 = {
        name: "float16-of-bfloat16",
        code: "NUM003",
        summary: "a model stored in bfloat16 is computed in float16, which overflows early",
        phase: Baseline,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &["gradient-spike", "loss-not-finite"],
        offers_command: true,
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let fix = wider(&evidence.settings);
    if let Some(finding) = finding(evidence, RefusalKind::WeightsOverflow, EXPECTED) {
        return finding.fix(fix).into();
    }
    let Slot::Ran(model) = &evidence.model else {
        return Outcome::not_measured("the model", &evidence.model);
    };
    if evidence.environment.dtype != "float16" || model.stored_dtype != "bfloat16" {
        return Outcome::Pass;
    }
    let overflowed = overflowed(evidence);
    let mut finding = Finding::new(
        if overflowed {
            "a model stored in bfloat16 is computed in float16, and overflows"
        } else {
            "a model stored in bfloat16 is computed in float16"
        },
        "products in float16, which ends at 65504",
        EXPECTED,
    )
    .with("dtype", evidence.environment.dtype.clone())
    .with("stored_dtype", model.stored_dtype.clone())
    .with("overflowed", overflowed)
    .fix(fix);
    finding.lowered_severity = (!overflowed).then_some(Severity::Warning);
    finding.into()
}

const EXPECTED: &str = "products in bfloat16 or float32, whose range is that of the files";

fn wider(settings: &RunSettings) -> Fix {
    Fix::command(
        "compute in float32, or in bfloat16 (`--dtype bfloat16`) where memory is short",
        Rerun::of(settings).dtype(Some("float32")),
        Applicability::MachineApplicable,
    )
}

/// Whether a number that training met or left is not finite.
fn overflowed(evidence: &Evidence) -> bool {
    let in_training = evidence.training.ran().is_some_and(|training| {
        !training.gradients.non_finite.is_empty()
            || training
                .steps
                .iter()
                .any(|step| step.loss.is_none() || step.gradient_norm.is_none())
            || (training.stopped_early.is_none() && lost_between(evidence))
    });
    let in_parameters = evidence
        .parameters
        .ran()
        .is_some_and(|parameters| !parameters.non_finite.is_empty());
    let in_answers = [&evidence.baseline, &evidence.generation]
        .into_iter()
        .filter_map(Slot::ran)
        .any(|generation| generation.summary().non_finite > 0);
    in_training || in_parameters || in_answers
}

/// Whether the rows have a finite loss on one side of training only.
fn lost_between(evidence: &Evidence) -> bool {
    evidence
        .fit
        .ran()
        .is_some_and(|fit| fit.loss_before().is_some() != fit.loss_after().is_some())
}
