use super::rule::declare_rule;
use super::training_diverged::TRAINING_DIVERGED;
use super::wording::shortest;
use super::{Applicability, Finding, Fix, Outcome, Rerun, Severity};
use crate::evidence::{AdapterEvidence, Evidence, FineTuneKind, RunSettings};
use crate::thresholds::{ADAPTER_LEARNING_RATE, DEFAULT_SCALE, HIGH_SCALE, LARGE_UPDATE};

declare_rule! {
    /// ## What it finds
    ///
    /// A scale of the adapters that no recipe uses.
    ///
    /// ## Why it matters
    ///
    /// mlx-lm multiplies the adapter's output by `scale` as it stands. Recipes for PEFT name `alpha`, which is divided by
    /// the rank first, or by its root (rsLoRA). Who writes alpha into `scale` gets adapters that are stronger by that
    /// factor: the loss jumps, or falls while the answers turn into word salad.
    ///
    /// ## Evidence
    ///
    /// The scale of the adapters is above `HIGH_SCALE`. By itself that is a warning. It is an error when training
    /// diverged or the median update is above `LARGE_UPDATE`, and the scale is further above its usual value,
    /// `DEFAULT_SCALE`, than the learning rate is above `ADAPTER_LEARNING_RATE`; otherwise the learning rate is to blame.
    ///
    /// ## How to fix
    ///
    /// Set scale to alpha / rank. If there is no alpha to go by, 20 is mlx-lm's default and strong, and 1 to 2 is what
    /// recipes for PEFT come to.
    ///
    /// ## References
    ///
    /// - <https://github.com/Blaizzy/mlx-vlm/issues/841>
    /// - <https://github.com/ml-explore/mlx-examples/issues/982>
    /// - <https://github.com/ml-explore/mlx-examples/issues/1186>
    /// - <https://github.com/ml-explore/mlx-lm/issues/1670>
    /// - <https://github.com/ml-explore/mlx-examples/issues/620>
    pub static SCALE_TOO_HIGH = {
        name: "scale-too-high",
        code: "SCALE001",
        summary: "the scale of the adapters is one that no recipe uses",
        phase: Baseline,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[
            "training-diverged",
            "loss-not-finite",
            "overfit",
            "update-too-large",
            "loss-not-decreasing",
            "end-of-text-spam",
            "repetition-loop",
            "never-stops",
            "forgetting",
        ],
        offers_command: true,
    }
}

fn check(evidence: &Evidence) -> Outcome {
    if evidence.model.ran().is_none() {
        return Outcome::not_measured("the model", &evidence.model);
    }
    let settings = &evidence.settings;
    if settings.fine_tune == FineTuneKind::Full {
        return Outcome::not_applicable("all weights were to be trained, no adapter was asked for");
    }
    let adapter = evidence
        .parameters
        .ran()
        .and_then(|parameters| parameters.adapter.as_ref());
    let scale = adapter
        .and_then(|adapter| adapter.scales.last().copied())
        .unwrap_or(settings.scale);
    if scale <= HIGH_SCALE {
        return Outcome::Pass;
    }
    let diverged = matches!((TRAINING_DIVERGED.check)(evidence), Outcome::Found(_));
    let update = adapter.and_then(AdapterEvidence::median_update);
    let large = update.is_some_and(|update| update > LARGE_UPDATE);
    let scale_excess = scale / DEFAULT_SCALE;
    let rate_excess = settings.learning_rate / ADAPTER_LEARNING_RATE;
    let finding = Finding::new(
        format!(
            "the adapters' scale is {}, beyond what any recipe uses",
            shortest(scale)
        ),
        format!(
            "scale {} at rank {}, as if alpha were {}",
            shortest(scale),
            settings.rank,
            shortest(scale * settings.rank as f64)
        ),
        format!(
            "at most {}; mlx-lm's default is {}",
            shortest(HIGH_SCALE),
            shortest(DEFAULT_SCALE)
        ),
    )
    .with("scale", scale)
    .with("rank", settings.rank)
    .with("learning_rate", settings.learning_rate)
    .with("training_diverged", diverged)
    .with("median_update", update)
    .fix(fix(scale, settings));
    if (diverged || large) && scale_excess >= rate_excess {
        finding.into()
    } else {
        finding.lowered_to(Severity::Warning).into()
    }
}

fn fix(scale: f64, settings: &RunSettings) -> Fix {
    let rank = settings.rank.max(1) as f64;
    // What counts is the product with the learning rate: a higher rate leaves less for the scale.
    let usual = DEFAULT_SCALE * (ADAPTER_LEARNING_RATE / settings.learning_rate).min(1.0);
    let (text, lower) = if scale / rank <= usual {
        let lower = scale / rank;
        let text = format!(
            "set scale to alpha / rank: if {} is the alpha of another program's recipe, that is {}",
            shortest(scale),
            shortest(lower)
        );
        (text, lower)
    } else if settings.learning_rate > ADAPTER_LEARNING_RATE {
        let text = format!(
            "set scale to {} or lower: at learning rate {} that is as strong as mlx-lm's default scale at {}",
            shortest(usual),
            shortest(settings.learning_rate),
            shortest(ADAPTER_LEARNING_RATE)
        );
        (text, usual)
    } else {
        let text = format!("set scale to {}, mlx-lm's default, or lower", shortest(usual));
        (text, usual)
    };
    Fix::command(text, Rerun::of(settings).scale(lower), Applicability::MachineApplicable)
}
