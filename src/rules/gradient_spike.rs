use super::logged_losses::log;
use super::rule::declare_rule;
use super::wording::{factor, nats};
use super::{Finding, Fix, Outcome, Severity};
use crate::evidence::{Evidence, Listing, LogEntry, Slot, StepRecord};
use crate::quantile::lower_median;
use crate::thresholds::{ABNORMAL_RISE, BURST_RATIO, SPIKE_RATIO};

declare_rule! {
    /// ## What it finds
    ///
    /// A step whose gradient is many times larger than usual although its loss is not.
    ///
    /// ## Why it matters
    ///
    /// The loss of such a step may look perfectly well. Somewhere in the backward pass a number is about to overflow, and
    /// a few steps later it does: Adam then spreads NaN over every weight. Even a single spike poisons Adam's moments for
    /// a thousand steps.
    ///
    /// ## Evidence
    ///
    /// From the third step on: the norm of the gradient against the median of the steps before, divided by the rise of
    /// the loss against its median, since a batch that is harder has a larger gradient. Above `SPIKE_RATIO` it is a
    /// warning, above `BURST_RATIO` an error. Once the loss itself has risen by `ABNORMAL_RISE`, later gradients are
    /// those of a model that diverges and are not judged.
    ///
    /// ## How to fix
    ///
    /// Clip gradients at a norm of 1 and skip steps that are not finite. Compute in bfloat16 or float32, not in float16.
    /// Look at the rows of the step.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-lm/issues/1658>
    /// - <https://github.com/ml-explore/mlx-examples/issues/620>
    /// - <https://github.com/openvla/openvla/issues/334>
    pub static GRADIENT_SPIKE = {
        name: "gradient-spike",
        code: "NUM002",
        summary: "a step's gradient is many times larger than usual although its loss is not",
        phase: Training,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &["training-diverged", "loss-not-finite", "loss-not-decreasing"],
    }
}

/// Steps that say what is usual before any is judged.
const USUAL_STEPS: usize = 2;

fn check(evidence: &Evidence) -> Outcome {
    let steps: Vec<Step> = match (&evidence.training, log(evidence)) {
        (Slot::Ran(training), _) => training.steps.iter().map(Step::made).collect(),
        (_, Some(log)) => log.entries.iter().filter_map(Step::logged).collect(),
        (absent, None) => return Outcome::not_measured("training", absent),
    };
    let Slot::Ran(model) = &evidence.model else {
        return Outcome::not_measured("the model", &evidence.model);
    };
    if steps.len() <= USUAL_STEPS {
        return Outcome::not_applicable("there are too few steps to say what is usual");
    }
    let spikes = spikes(&steps, model.uniform_loss());
    let Some((worst, ratio)) = spikes.iter().max_by(|(_, left), (_, right)| left.total_cmp(right)) else {
        return Outcome::Pass;
    };
    let mut finding = Finding::new(
        format!(
            "the gradient of step {} is {} times larger than its loss explains",
            worst.number,
            factor(*ratio)
        ),
        format!(
            "a norm of {} with a loss of {}",
            worst.gradient_norm.map_or_else(|| "none".to_owned(), factor),
            nats(worst.loss)
        ),
        "a norm like those of the steps before",
    )
    .at(&Listing::numbered("step", spikes.iter().map(|(step, _)| step.number)))
    .with("step", worst.number)
    .with("ratio", *ratio)
    .with(
        "gradient_norms",
        steps.iter().map(|step| step.gradient_norm).collect::<Vec<_>>(),
    )
    .with("losses", steps.iter().map(|step| step.loss).collect::<Vec<_>>())
    .fix(Fix::by_hand(if evidence.settings.clip_norm.is_some() {
        "look at the rows of the step: clipping shortens its gradient, and what made it so large is still there"
    } else {
        "clip gradients at a norm of 1 (`--clip-norm 1`), and look at the rows of the step"
    }));
    if evidence.environment.dtype == "float16" {
        finding = finding.fix(Fix::by_hand("compute in bfloat16 or float32: float16 ends at 65504"));
    }
    finding.lowered_severity = (*ratio <= BURST_RATIO).then_some(Severity::Warning);
    finding.into()
}

/// What a step, made here or logged, says about its gradient; `None` where it is not finite.
struct Step {
    number: usize,
    loss: Option<f64>,
    gradient_norm: Option<f64>,
}

impl Step {
    fn made(step: &StepRecord) -> Self {
        Self {
            number: step.step,
            loss: step.loss,
            gradient_norm: step.gradient_norm,
        }
    }

    /// `None` for lines that do not hold both numbers.
    fn logged(entry: &LogEntry) -> Option<Self> {
        Some(Self {
            number: entry.step,
            loss: entry.loss?.finite(),
            gradient_norm: entry.gradient_norm?.finite(),
        })
    }
}

/// The steps whose gradient stands out, with how many times it is larger than usual.
fn spikes(steps: &[Step], uniform_loss: f64) -> Vec<(&Step, f64)> {
    let mut norms = Vec::new();
    let mut losses = Vec::new();
    let mut spikes = Vec::new();
    for step in steps {
        let (Some(norm), Some(loss)) = (step.gradient_norm, step.loss) else {
            break;
        };
        let usual = |values: &[f64]| lower_median(values.iter().copied());
        if let (true, Some(usual_norm), Some(usual_loss)) = (norms.len() >= USUAL_STEPS, usual(&norms), usual(&losses))
        {
            // A loss above a uniform guess is no harder batch: something is wrong with the number.
            let harder = (loss.min(uniform_loss) / usual_loss).max(1.0);
            let ratio = norm / usual_norm / harder;
            if ratio.is_finite() && ratio > SPIKE_RATIO {
                spikes.push((step, ratio));
            } else if loss > usual_loss + ABNORMAL_RISE {
                break;
            }
        }
        norms.push(norm);
        losses.push(loss);
    }
    spikes
}
