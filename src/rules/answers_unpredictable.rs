use super::foreign_architecture::not_seen;
use super::row_fit::fit_before;
use super::rule::declare_rule;
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, Slot};
use crate::thresholds::{ANSWER_TOKENS, KNOWS_SOMETHING, NOISE_SHARE, ORDER_GAIN};

declare_rule! {
    /// ## What it finds
    ///
    /// Answers that no one could predict: to the base they are noise, while the prompts beside them are not.
    ///
    /// ## Why it matters
    ///
    /// A large enough model learns random targets by heart. The loss falls as it should, and the answers to anything
    /// else get worse with every step.
    ///
    /// ## Evidence
    ///
    /// The tokens of the answers have no order: turned round they cost less than `ORDER_GAIN` more. And before training
    /// they cost at least `NOISE_SHARE` of what a uniform guess costs, and more than the tokens beside them. Text in a
    /// language, a voice or a code that the base hardly knows may cost as much, but its tokens follow each other in an
    /// order. Fewer than `ANSWER_TOKENS` targets a row are not judged, nor is padding behind the answers.
    ///
    /// ## How to fix
    ///
    /// Look at the answers as the rows hold them: shuffled tokens, binary data or a wrong encoding, or text that another
    /// tokenizer has turned into ids.
    ///
    /// ## References
    ///
    /// - <https://github.com/ekwek1/soprano-factory/issues/4>
    /// - <https://arxiv.org/abs/1611.03530>
    pub static ANSWERS_UNPREDICTABLE = {
        name: "answers-unpredictable",
        code: "DATA020",
        summary: "the answers of the data are noise to the base, the prompts are not",
        phase: Baseline,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[
            "answers-not-to-their-prompts",
            "gradient-spike",
            "training-diverged",
            "loss-not-decreasing",
            "overfit",
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
    let Slot::Ran(data) = &evidence.data else {
        return Outcome::not_measured("the data", &evidence.data);
    };
    if !data.rows_with_supervised_padding.is_empty() || !data.rows_with_repeated_end.is_empty() {
        return Outcome::not_applicable("targets behind the end of the answers are counted as answers");
    }
    if data.supervised_tokens < ANSWER_TOKENS * data.rows {
        return Outcome::not_applicable("the answers are too short to say what they are");
    }
    let (Some(answers), Some(prompts)) = (fit.supervised, fit.unsupervised) else {
        return Outcome::not_applicable("the first batch has no prompts beside its answers");
    };
    let uniform = model.uniform_loss();
    if prompts >= KNOWS_SOMETHING * uniform {
        return Outcome::not_applicable("the base cannot predict the prompts either");
    }
    if let Some(outcome) = not_seen(evidence, "the answers of its rows were not turned round") {
        return outcome;
    }
    let Some(pairing) = fit
        .pairing
        .as_ref()
        .filter(|pairing| pairing.tokens >= ANSWER_TOKENS * pairing.rows)
    else {
        return Outcome::not_applicable("too few answers to see whether their tokens have an order");
    };
    let has_order = pairing.order_gain >= ORDER_GAIN;
    if has_order || answers < NOISE_SHARE * uniform || answers <= prompts {
        return Outcome::Pass;
    }
    let mut finding = Finding::new(
        "the answers of the data are noise: the base cannot predict them, though it predicts the prompts",
        format!("{answers:.3} nats per token of the answers and {prompts:.3} of the prompts"),
        format!("answers far below the {uniform:.3} nats of a uniform guess"),
    )
    .with("supervised_loss", answers)
    .with("unsupervised_loss", prompts)
    .with("uniform_loss", uniform)
    .with("order_gain", pairing.order_gain)
    .fix(Fix::by_hand(
        "look at the answers in the rows: shuffled tokens, binary data, a wrong encoding, or another tokenizer's ids",
    ));
    finding.predates_training = true;
    finding.into()
}
