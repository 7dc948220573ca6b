use super::rule::declare_rule;
use super::wording::{difference, nats, shortest};
use super::{Applicability, Finding, Fix, Outcome, Rerun};
use crate::evidence::{CrossCheckEvidence, CrossCheckWeights, Evidence};
use crate::thresholds::{backend_gradient_tolerance, backend_logit_tolerance, loss_tolerance};

declare_rule! {
    /// ## What it finds
    ///
    /// MLX and PyTorch compute different logits, losses or gradients from the same weights and the same rows.
    ///
    /// ## Why it matters
    ///
    /// One of them is wrong: a kernel, a broken release, a device that miscounts, or a model that one of the two reads
    /// otherwise than it was trained. Training then fits weights to a model that nobody else has, and its answers are worse
    /// wherever it is used.
    ///
    /// ## Evidence
    ///
    /// Measured with `--cross-check torch`. The logits of the first rows, the mean loss of the first batch, and its
    /// gradient for adapters with random values on every linear layer are equal but for rounding: in float32 logits within
    /// 1e-3, the loss within 1e-3 of itself and each tensor's gradient within 1e-3 of its norm; in 16 bits within a few
    /// units of their last place. A device that computes in tensor cores may round more than these allow.
    ///
    /// ## How to fix
    ///
    /// Repeat the check on the CPU in float32: where it passes there, the kernels of the device are at fault. Then try
    /// another release of MLX, then of torch. If all of them disagree alike, one of the two reads the configuration in
    /// another way: rotary embeddings, their scaling, the attention window and the size of a head are the usual places.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx/issues/2835>
    /// - <https://github.com/pytorch/pytorch/issues/163597>
    /// - <https://github.com/pytorch/pytorch/issues/195910>
    pub static BACKENDS_DISAGREE = {
        name: "backends-disagree",
        code: "NUM006",
        summary: "two backends compute different things from the same weights",
        phase: Baseline,
        severity: Error,
        status: Preview,
        since: "0.1.0",
        explains: &[
            "base-cannot-predict",
            "loss-miscomputed",
            "gradient-wrong",
            "training-diverged",
            "loss-not-finite",
            "loss-not-decreasing",
            "end-of-text-spam",
            "repetition-loop",
            "never-stops",
        ],
        offers_command: true,
    }
}

/// One of the things that were computed twice.
struct Part {
    /// As a noun.
    name: &'static str,
    found: String,
    expected: String,
    agrees: bool,
}

fn check(evidence: &Evidence) -> Outcome {
    let Some(check) = evidence.cross_check.ran() else {
        return Outcome::not_measured("the comparison with another backend", &evidence.cross_check);
    };
    let parts = parts(check, &evidence.environment.dtype);
    let apart: Vec<&Part> = parts.iter().filter(|part| !part.agrees).collect();
    if apart.is_empty() {
        return Outcome::Pass;
    }
    let joined = |text: fn(&Part) -> &str| apart.iter().map(|part| text(part)).collect::<Vec<_>>();
    let mut finding = Finding::new(
        format!(
            "two backends, MLX and PyTorch, compute different {} from the same weights",
            in_a_row(&joined(|part| part.name))
        ),
        joined(|part| &part.found).join("; "),
        joined(|part| &part.expected).join("; "),
    )
    .with("versions", check.versions.clone())
    .with("device", check.device.clone())
    .with("mlx_version", evidence.environment.mlx_version.clone())
    .with("logit_difference", check.logit_difference)
    .with("loss_here", check.loss_here)
    .with("loss_there", check.loss_there)
    .with("gradient_difference", check.gradients.largest)
    .with("gradient_differs_most_in", check.gradients.worst.clone());
    if !gradients_agree(check, &evidence.environment.dtype) {
        finding.location = Some(check.gradients.worst.clone());
    }
    finding
        .fix(Fix::command(
            "repeat the check on the CPU in float32: if they agree there, a kernel of the device is wrong",
            Rerun::of(&evidence.settings)
                .backend(Some("cpu"))
                .dtype(Some("float32")),
            Applicability::MaybeIncorrect,
        ))
        .fix(Fix::by_hand(
            "try another release of MLX, then of torch: the one with which they agree is the one to use",
        ))
        .fix(Fix::by_hand(match check.weights {
            CrossCheckWeights::ModelFolder => {
                "compare how the two read `config.json`: rotary embeddings, attention window, size of a head"
            }
            CrossCheckWeights::HandedOver => {
                "compare how the two read the configuration: rotary embeddings, attention window, size of a head"
            }
        }))
        .into()
}

fn parts(check: &CrossCheckEvidence, dtype: &str) -> [Part; 3] {
    let logits = backend_logit_tolerance(dtype, check.largest_logit.unwrap_or(0.0));
    let loss = loss_tolerance(dtype);
    let gradients = backend_gradient_tolerance(dtype);
    let losses_agree = match (check.loss_here, check.loss_there) {
        (Some(here), Some(there)) => (here - there).abs() <= loss * here.abs().max(1.0),
        _ => false,
    };
    [
        Part {
            name: "logits",
            found: format!("logits {} apart", difference(check.logit_difference)),
            expected: format!("logits within {}", difference(Some(logits))),
            agrees: check.logit_difference.is_some_and(|apart| apart <= logits),
        },
        Part {
            name: "losses",
            found: format!(
                "a loss of {} and one of {}",
                nats(check.loss_here),
                nats(check.loss_there)
            ),
            expected: format!("losses within {} of each other", shortest(loss)),
            agrees: losses_agree,
        },
        Part {
            name: "gradients",
            found: format!(
                "gradients {} of their norm apart, most in {}",
                difference(check.gradients.largest),
                check.gradients.worst
            ),
            expected: format!("gradients within {} of their norm", shortest(gradients)),
            agrees: gradients_agree(check, dtype),
        },
    ]
}

fn gradients_agree(check: &CrossCheckEvidence, dtype: &str) -> bool {
    let allowed = backend_gradient_tolerance(dtype);
    check.gradients.largest.is_some_and(|apart| apart <= allowed)
}

fn in_a_row(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
