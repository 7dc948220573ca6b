use super::row_fit::fit_before;
use super::rule::declare_rule;
use super::{Finding, Fix, Outcome};
use crate::evidence::{DataEvidence, Evidence, FitEvidence, Slot};
use crate::thresholds::{KNOWS_SOMETHING, logit_tolerance};

declare_rule! {
    /// ## What it finds
    ///
    /// A base that predicts the data no better than a uniform guess, before any training.
    ///
    /// ## Why it matters
    ///
    /// A broken conversion, a wrong tokenizer or weights that were never trained load without an error. Fine-tuning then
    /// starts from nothing, and a few hundred rows do not make a language model.
    ///
    /// ## Evidence
    ///
    /// The loss of the first rows, up to 256 tokens, before training is at least `KNOWS_SOMETHING` of the natural
    /// logarithm of the vocabulary size, both for the supervised tokens and for all others, prompts among them. Answers
    /// alone being as bad is `answers-unpredictable`.
    ///
    /// ## How to fix
    ///
    /// Fetch or convert the base again, with other bits if it is packed, and with the tokenizer that belongs to it.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-examples/issues/323>
    /// - <https://github.com/ml-explore/mlx-examples/issues/967>
    /// - <https://github.com/ml-explore/mlx-lm/issues/49>
    pub static BASE_CANNOT_PREDICT = {
        name: "base-cannot-predict",
        code: "MODEL010",
        summary: "the base predicts the data no better than a uniform guess",
        phase: Baseline,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[
            "gradient-spike",
            "training-diverged",
            "update-too-small",
            "loss-not-decreasing",
            "end-expected-everywhere",
            "end-of-text-spam",
            "repetition-loop",
            "never-stops",
        ],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let fit = match fit_before(evidence) {
        Ok(fit) => fit,
        Err(outcome) => return outcome,
    };
    let Slot::Ran(model) = &evidence.model else {
        return Outcome::not_measured("the model", &evidence.model);
    };
    if let Some(reason) = measured_elsewhere(evidence, fit) {
        return Outcome::not_applicable(reason);
    }
    let uniform = model.uniform_loss();
    let Some(supervised) = fit.supervised else {
        return Outcome::not_applicable("the first batch has no finite loss of supervised tokens");
    };
    let lowest = fit.unsupervised.unwrap_or(supervised).min(supervised);
    if lowest < KNOWS_SOMETHING * uniform {
        return Outcome::Pass;
    }
    let mut finding = Finding::new(
        "the base predicts the data no better than a uniform guess",
        format!(
            "{supervised:.3} nats per supervised token{}; a uniform guess has {uniform:.3}",
            fit.unsupervised
                .map_or_else(String::new, |loss| format!(" and {loss:.3} for the others"))
        ),
        "losses far below that of a uniform guess",
    )
    .with("supervised_loss", supervised)
    .with("unsupervised_loss", fit.unsupervised)
    .with("uniform_loss", uniform)
    .fix(Fix::by_hand(format!(
        "fetch or convert `{}` again, with the tokenizer that belongs to it",
        evidence.settings.model
    )));
    finding.predates_training = true;
    if fit.unsupervised.is_none() {
        finding = finding.fix(Fix::by_hand(
            "if the base answers well, look at the data: its text may be in an encoding or a language the base does not know",
        ));
    }
    finding.into()
}

/// Why the losses before training are not those of the base on text it could know.
fn measured_elsewhere(evidence: &Evidence, fit: &FitEvidence) -> Option<&'static str> {
    let adapter = evidence
        .parameters
        .ran()
        .and_then(|parameters| parameters.adapter.as_ref());
    let tolerance = logit_tolerance(&evidence.environment.dtype);
    let changed = adapter.and_then(|adapter| adapter.identity_difference);
    if changed.is_some_and(|difference| difference > tolerance) {
        return Some("fresh adapters had changed the model when it was measured");
    }
    if evidence
        .model
        .ran()
        .is_some_and(|model| !model.split_turn_ends.is_empty())
    {
        return Some("the chat template writes another model's format");
    }
    let foreign = |data: &DataEvidence| !data.template.rows_with_foreign_markers.is_empty();
    (fit.unsupervised.is_none() && evidence.data.ran().is_some_and(foreign))
        .then_some("the rows are written in another model family's format")
}
