use super::rule::declare_rule;
use super::wording::shortest;
use super::{Applicability, Finding, Fix, Outcome, Rerun};
use crate::evidence::{Evidence, FineTuneKind};
use crate::thresholds::{DEFAULT_SCALE, PEFT_SCALE};

declare_rule! {
    /// ## What it finds
    ///
    /// Adapters with mlx-lm's default scale.
    ///
    /// ## Why it matters
    ///
    /// The default is strong: at rank 8 it stands for an alpha of 160 in PEFT, where 8 to 32 are usual. A learning rate
    /// taken over from a recipe for PEFT is then some ten times too high.
    ///
    /// ## Evidence
    ///
    /// The scale is `DEFAULT_SCALE`. It is information and never more: most healthy runs with MLX have it.
    ///
    /// ## How to fix
    ///
    /// Nothing, if the learning rate was chosen with it. To follow a recipe for PEFT, set scale to its alpha / rank.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-examples/issues/982>
    /// - <https://github.com/ml-explore/mlx-lm/issues/65>
    pub static DEFAULT_SCALE_USED = {
        name: "default-scale",
        code: "SCALE002",
        summary: "the scale is mlx-lm's default, which is strong",
        phase: Baseline,
        severity: Info,
        status: Stable,
        since: "0.1.0",
        explains: &[],
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
    if settings.scale != DEFAULT_SCALE {
        return Outcome::Pass;
    }
    Finding::new(
        format!("the adapters' scale is {}, mlx-lm's default", shortest(settings.scale)),
        format!(
            "scale {} at rank {}, an alpha of {} in PEFT's terms",
            shortest(settings.scale),
            settings.rank,
            shortest(settings.scale * settings.rank as f64)
        ),
        "a scale that fits the learning rate",
    )
    .with("scale", settings.scale)
    .with("rank", settings.rank)
    .fix(Fix::command(
        "to follow a recipe for PEFT, set scale to its alpha / rank, for example",
        Rerun::of(settings).scale(PEFT_SCALE),
        Applicability::MaybeIncorrect,
    ))
    .into()
}
