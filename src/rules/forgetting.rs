use super::live_state::divergence;
use super::rule::declare_rule;
use super::update_strength::update_strength;
use super::wording::{nats, shortest};
use super::{Applicability, Finding, Fix, Outcome, Rerun, Severity};
use crate::evidence::{Evidence, RunSettings};
use crate::thresholds::{FORGOTTEN_DIVERGENCE, FORGOTTEN_RISE, LEARNING_RATE_CUT};

declare_rule! {
    /// ## What it finds
    ///
    /// Training changed what the model says where the training data says nothing.
    ///
    /// ## Why it matters
    ///
    /// The task gets better and everything else worse: general questions are answered in the manner of the data, wrongly,
    /// or not at all. The loss of the training rows cannot show it.
    ///
    /// ## Evidence
    ///
    /// The base's own answers to prompts that are not in the data, token by token with the true tokens before each. Their
    /// loss rose by more than `FORGOTTEN_RISE`, or the mean divergence from the trained model to the base is above
    /// `FORGOTTEN_DIVERGENCE`. Data in a manner of its own does that by itself: it is a warning only when learning rate
    /// times scale is above the product of `ADAPTER_LEARNING_RATE` and `DEFAULT_SCALE`, otherwise information.
    ///
    /// ## How to fix
    ///
    /// Lower the learning rate, the scale or the rank, make fewer passes over the data, or mix rows of general
    /// conversation into it. If a new manner everywhere is what was wanted, it is no fault.
    ///
    /// ## References
    ///
    /// - <https://github.com/smallcloudai/refact/issues/311>
    /// - <https://github.com/deepseek-ai/DeepSeek-Coder/issues/134>
    /// - <https://github.com/ise-uiuc/magicoder/issues/33>
    pub static FORGETTING = {
        name: "forgetting",
        code: "GEN005",
        summary: "training changed the answers to prompts that the data says nothing about",
        phase: State,
        severity: Warning,
        status: Stable,
        since: "0.1.0",
        explains: &[],
        offers_command: true,
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let divergence = match divergence(evidence) {
        Ok(divergence) => divergence,
        Err(outcome) => return outcome,
    };
    let (Some(apart), Some(rise)) = (divergence.held_out, divergence.held_out_rise) else {
        return Outcome::not_applicable("no prompt outside the data has an answer with a finite loss");
    };
    if rise <= FORGOTTEN_RISE && apart <= FORGOTTEN_DIVERGENCE {
        return Outcome::Pass;
    }
    let settings = &evidence.settings;
    let is_trained_elsewhere = settings.is_trained_elsewhere();
    let finding = Finding::new(
        if is_trained_elsewhere {
            "the adapter changes what the model says to prompts that are not in the data"
        } else {
            "training changed what the model says to prompts that are not in the data"
        },
        format!(
            "the base's own answers cost {} nats per token more than {}; the models are {} nats apart",
            nats(Some(rise)),
            if is_trained_elsewhere { "without it" } else { "before" },
            nats(Some(apart))
        ),
        format!(
            "a rise of at most {} and a distance of at most {}",
            shortest(FORGOTTEN_RISE),
            shortest(FORGOTTEN_DIVERGENCE)
        ),
    )
    .with("held_out_rise", rise)
    .with("held_out", apart)
    .with("learning_rate", settings.learning_rate)
    .with("steps", settings.steps)
    .fix(lower_rate(settings))
    .fix(Fix::by_hand(
        "or mix rows of general conversation into the data, and make fewer passes over it",
    ));
    if update_strength(settings) > 1.0 {
        finding.into()
    } else {
        finding.lowered_to(Severity::Info).into()
    }
}

fn lower_rate(settings: &RunSettings) -> Fix {
    if settings.is_trained_elsewhere() {
        return Fix::by_hand("if that is not wanted, train again with a lower learning rate, scale or rank");
    }
    let lower = settings.learning_rate * LEARNING_RATE_CUT;
    Fix::command(
        format!(
            "lower the learning rate from {} to {}",
            shortest(settings.learning_rate),
            shortest(lower)
        ),
        Rerun::of(settings).learning_rate(lower),
        Applicability::MachineApplicable,
    )
}
