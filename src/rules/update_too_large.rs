use super::live_adapters::adapters;
use super::rule::declare_rule;
use super::training_diverged::TRAINING_DIVERGED;
use super::update_strength::update_strength;
use super::wording::{counted, shortest};
use super::{Applicability, Finding, Fix, Outcome, Rerun, Severity};
use crate::evidence::{Evidence, Listing};
use crate::thresholds::{ADAPTER_LEARNING_RATE, LARGE_UPDATE, LEARNING_RATE_CUT, OUTWEIGHING_UPDATE};

declare_rule! {
    /// ## What it finds
    ///
    /// Adapters that changed their layers by a large part of the layers' own size, though the loss did not diverge.
    ///
    /// ## Why it matters
    ///
    /// The loss of the training rows may be fine. What the base knew beyond them is overwritten: answers to anything
    /// else turn odd, repetitive or empty, and a longer run is likely to diverge.
    ///
    /// ## Evidence
    ///
    /// For each adapter the Frobenius norm of `scale * A B` over that of its layer's weight. The median over the layers
    /// is above `LARGE_UPDATE`. It is a warning when learning rate times scale is above the product of
    /// `ADAPTER_LEARNING_RATE` and `DEFAULT_SCALE`, and an error from `OUTWEIGHING_UPDATE` on, where answers that end at
    /// once or never are its doing; below the product a high rank or many steps made the update, which is information.
    ///
    /// ## How to fix
    ///
    /// Lower the learning rate or the scale: what counts is their product times the number of steps. More rows or fewer
    /// steps help as well.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-examples/issues/620>
    /// - <https://github.com/Blaizzy/mlx-vlm/issues/841>
    /// - <https://github.com/openvla/openvla/issues/334>
    pub static UPDATE_TOO_LARGE = {
        name: "update-too-large",
        code: "SCALE003",
        summary: "adapters changed their layers by a large part of the layers' own size",
        phase: Parameters,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &["forgetting", "end-of-text-spam", "repetition-loop", "never-stops"],
        offers_command: true,
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let adapter = match adapters(evidence) {
        Ok(adapter) => adapter,
        Err(outcome) => return outcome,
    };
    let Some(median) = adapter.median_update() else {
        return Outcome::not_applicable("no adapter has a finite change");
    };
    if matches!((TRAINING_DIVERGED.check)(evidence), Outcome::Found(_)) {
        return Outcome::not_applicable("training diverged, which is a finding of its own");
    }
    if median <= LARGE_UPDATE {
        return Outcome::Pass;
    }
    let settings = &evidence.settings;
    let lower = if settings.learning_rate > ADAPTER_LEARNING_RATE {
        ADAPTER_LEARNING_RATE
    } else {
        settings.learning_rate * LEARNING_RATE_CUT
    };
    let large: Listing = adapter
        .updates
        .iter()
        .filter(|update| update.relative.is_some_and(|relative| relative > LARGE_UPDATE))
        .map(|update| update.module.as_str())
        .collect();
    let finding = Finding::new(
        format!("the adapters changed their layers by {median:.2} of the layers' own size in the median"),
        format!(
            "{} of {} above {}, at learning rate {} and scale {}",
            large.total,
            counted(adapter.updates.len(), "layer"),
            shortest(LARGE_UPDATE),
            shortest(settings.learning_rate),
            shortest(settings.scale)
        ),
        format!("a median of at most {}", shortest(LARGE_UPDATE)),
    )
    .at(&large)
    .with("median_update", median)
    .with("learning_rate", settings.learning_rate)
    .with("scale", settings.scale)
    .with("steps", settings.steps)
    .fix(Fix::command(
        format!(
            "lower the learning rate from {} to {}",
            shortest(settings.learning_rate),
            shortest(lower)
        ),
        Rerun::of(settings).learning_rate(lower),
        Applicability::MachineApplicable,
    ));
    if update_strength(settings) <= 1.0 {
        finding.lowered_to(Severity::Info).into()
    } else if median < OUTWEIGHING_UPDATE {
        finding.lowered_to(Severity::Warning).into()
    } else {
        finding.into()
    }
}
