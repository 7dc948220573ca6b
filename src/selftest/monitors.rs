//! What others would say of the same runs, as comparisons: none of them is part of a diagnosis.

use crate::evidence::{Evidence, StepRecord, TensorChange};

/// A check that only says whether something is wrong.
#[derive(Debug, Clone, Copy)]
pub struct Monitor {
    /// Name in reports.
    pub name: &'static str,
    /// Where it is described.
    pub source: &'static str,
    /// Whether it alarms; `None` where it cannot judge.
    pub alarms: fn(&Evidence) -> Option<bool>,
}

/// Documentation of SageMaker Debugger's built-in rules.
const SAGEMAKER: &str = "https://docs.aws.amazon.com/sagemaker/latest/dg/debugger-built-in-rules.html";

/// Every monitor, in the order of reports.
pub static MONITORS: &[Monitor] = &[
    Monitor {
        name: "loss only",
        source: "https://arxiv.org/abs/2506.14813",
        alarms: loss_only,
    },
    Monitor {
        name: "PEFT, one tensor",
        source: "https://huggingface.co/docs/peft/developer_guides/troubleshooting",
        alarms: one_tensor,
    },
    Monitor {
        name: "SageMaker, any default rule",
        source: SAGEMAKER,
        alarms: |evidence| any(evidence, &SAGEMAKER_RULES),
    },
    Monitor {
        name: "SageMaker, without the two that frozen weights set off",
        source: SAGEMAKER,
        alarms: |evidence| {
            any(
                evidence,
                &[vanishing_gradient, exploding_tensor, loss_not_decreasing, all_zero],
            )
        },
    },
    Monitor {
        name: "  VanishingGradient",
        source: SAGEMAKER,
        alarms: vanishing_gradient,
    },
    Monitor {
        name: "  ExplodingTensor",
        source: SAGEMAKER,
        alarms: exploding_tensor,
    },
    Monitor {
        name: "  LossNotDecreasing",
        source: SAGEMAKER,
        alarms: loss_not_decreasing,
    },
    Monitor {
        name: "  WeightUpdateRatio",
        source: SAGEMAKER,
        alarms: weight_update_ratio,
    },
    Monitor {
        name: "  UnchangedTensor",
        source: SAGEMAKER,
        alarms: unchanged_tensor,
    },
    Monitor {
        name: "  AllZero",
        source: SAGEMAKER,
        alarms: all_zero,
    },
];

type Alarm = fn(&Evidence) -> Option<bool>;

const SAGEMAKER_RULES: [Alarm; 6] = [
    vanishing_gradient,
    exploding_tensor,
    loss_not_decreasing,
    weight_update_ratio,
    unchanged_tensor,
    all_zero,
];

fn any(evidence: &Evidence, alarms: &[Alarm]) -> Option<bool> {
    let judged: Vec<bool> = alarms.iter().filter_map(|alarm| alarm(evidence)).collect();
    (!judged.is_empty()).then(|| judged.contains(&true))
}

fn steps(evidence: &Evidence) -> Option<&[StepRecord]> {
    let steps = &evidence.training.ran()?.steps;
    (!steps.is_empty()).then_some(steps)
}

/// A loss that is not finite, or whose mean over the later half of the steps is above that over the earlier half.
fn loss_only(evidence: &Evidence) -> Option<bool> {
    const STEPS: usize = 4;
    let training = evidence.training.ran()?;
    if training.stopped_early.is_some() || training.steps.iter().any(|step| step.loss.is_none()) {
        return Some(true);
    }
    let losses: Vec<f64> = training.steps.iter().filter_map(|step| step.loss).collect();
    if losses.len() < STEPS {
        return None;
    }
    let (earlier, later) = losses.split_at(losses.len() / 2);
    let mean = |half: &[f64]| half.iter().sum::<f64>() / half.len() as f64;
    Some(mean(later) > mean(earlier))
}

/// Steps that PEFT's guide asks for at least, and that `UnchangedTensor` compares over.
const THREE_STEPS: usize = 3;

/// `allclose` with its default tolerances, on root mean squares, since evidence holds norms.
fn all_close(change: &TensorChange) -> bool {
    const RELATIVE: f64 = 1e-5;
    const ABSOLUTE: f64 = 1e-8;
    let size = (change.values as f64).sqrt();
    change
        .norm_difference
        .is_some_and(|difference| difference / size <= ABSOLUTE + RELATIVE * change.norm_before / size)
}

/// The first trainable tensor, cloned before training and compared after it.
fn one_tensor(evidence: &Evidence) -> Option<bool> {
    if steps(evidence)?.len() < THREE_STEPS {
        return None;
    }
    // Without any trainable tensor there is nothing to clone, which its reader would notice.
    Some(evidence.parameters.ran()?.changes.first().is_none_or(all_close))
}

/// Mean absolute gradient below 1e-7. Evidence holds norms, and the root mean square is never below that mean. The
/// gradient of `lora_a`, which is zero at the first step of every run, is passed over in its favour.
fn vanishing_gradient(evidence: &Evidence) -> Option<bool> {
    const THRESHOLD: f64 = 1e-7;
    let size = (evidence.training.ran()?.trainable_values as f64).sqrt();
    let always_zero = &evidence.training.ran()?.gradients.always_zero;
    let small = |step: &StepRecord| step.gradient_norm.is_some_and(|norm| norm < THRESHOLD * size);
    Some(!always_zero.is_empty() || steps(evidence)?.iter().any(small))
}

/// A NaN or an infinity in the loss, a gradient or a weight.
fn exploding_tensor(evidence: &Evidence) -> Option<bool> {
    let not_finite = |step: &StepRecord| step.loss.is_none() || step.gradient_norm.is_none();
    let gradients = &evidence.training.ran()?.gradients.non_finite;
    let weights = evidence
        .parameters
        .ran()
        .is_some_and(|parameters| !parameters.non_finite.is_empty());
    Some(steps(evidence)?.iter().any(not_finite) || !gradients.is_empty() || weights)
}

/// A loss that over ten steps fell by less than 0.1 percent.
fn loss_not_decreasing(evidence: &Evidence) -> Option<bool> {
    const STEPS: usize = 10;
    const PERCENT: f64 = 0.1;
    let losses: Vec<f64> = steps(evidence)?.iter().filter_map(|step| step.loss).collect();
    let compared: Vec<bool> = losses
        .iter()
        .step_by(STEPS)
        .zip(losses.iter().skip(STEPS).step_by(STEPS))
        .map(|(before, after)| 100.0 * (before - after) < PERCENT * before)
        .collect();
    (!compared.is_empty()).then(|| compared.contains(&true))
}

/// Change over weight above 10 or below 1e-8, over the whole run instead of one step; `lora_b` starts at zero.
fn weight_update_ratio(evidence: &Evidence) -> Option<bool> {
    const LARGE: f64 = 10.0;
    const SMALL: f64 = 1e-8;
    const EPSILON: f64 = 1e-9;
    let parameters = evidence.parameters.ran()?;
    let outside = |change: &TensorChange| {
        change.norm_difference.is_none_or(|difference| {
            let ratio = difference / (change.norm_before + EPSILON);
            !(SMALL..=LARGE).contains(&ratio)
        })
    };
    // An unchanged tensor has a ratio of zero.
    Some(parameters.unchanged > 0 || parameters.changes.iter().any(outside))
}

/// A tensor that `allclose` finds equal after three steps or more.
fn unchanged_tensor(evidence: &Evidence) -> Option<bool> {
    if steps(evidence)?.len() < THREE_STEPS {
        return None;
    }
    let parameters = evidence.parameters.ran()?;
    Some(parameters.unchanged > 0 || parameters.changes.iter().any(all_close))
}

/// A tensor that is zero throughout, judged after training in its favour: `lora_b` starts so.
fn all_zero(evidence: &Evidence) -> Option<bool> {
    let changes = &evidence.parameters.ran()?.changes;
    Some(changes.iter().any(|change| change.norm_after == Some(0.0)))
}
