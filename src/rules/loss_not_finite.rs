use super::logged_losses::log;
use super::rule::declare_rule;
use super::wording::{counted, grouped};
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, FinishReason, Listing, Slot, StepRecord};

declare_rule! {
    /// ## What it finds
    ///
    /// A NaN or an infinity: in the base, in a loss, in a gradient, in a trained parameter, or in the logits of an
    /// answer. The first place in this order is named, because the others follow from it.
    ///
    /// ## Why it matters
    ///
    /// One such value is enough. Adam spreads it over every weight in the next step, the adapter that is saved is
    /// dead, and generation repeats one token. The loss alone hides it: a gradient can overflow while the loss is fine.
    ///
    /// ## Evidence
    ///
    /// Identity: every number of a healthy run is finite.
    ///
    /// ## How to fix
    ///
    /// In the base: fetch the checkpoint again. In a batch without targets: see `nothing-supervised`. With float16:
    /// compute in bfloat16 or float32, whose range is wider. After growing losses or gradients: see
    /// `training-diverged`. Otherwise clip gradients at 1, skip steps that are not finite, and look at the rows of the
    /// step that is named.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-lm/issues/1658>
    /// - <https://github.com/ml-explore/mlx-lm/pull/1355>
    pub static LOSS_NOT_FINITE = {
        name: "loss-not-finite",
        code: "NUM001",
        summary: "a loss, a gradient, a parameter or a logit is NaN or infinite",
        phase: Training,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[
            "parameters-unchanged",
            "adapter-never-moved",
            "loss-not-decreasing",
            "end-expected-everywhere",
            "adapter-lost-on-reload",
            "end-of-text-spam",
            "repetition-loop",
            "never-stops",
        ],
    }
}

/// The first place where a number was not finite.
struct Origin<'a> {
    headline: String,
    found: String,
    location: Listing,
    step: Option<&'a StepRecord>,
}

fn check(evidence: &Evidence) -> Outcome {
    let origin = in_base(evidence)
        .or_else(|| in_training(evidence))
        .or_else(|| in_log(evidence))
        .or_else(|| in_parameters(evidence))
        .or_else(|| in_answers(evidence));
    let Some(origin) = origin else {
        let is_finished = evidence.settings.is_trained_elsewhere() && evidence.parameters.ran().is_some();
        return match &evidence.training {
            Slot::Ran(_) => Outcome::Pass,
            Slot::Skipped { .. } if is_finished => Outcome::Pass,
            absent => Outcome::not_measured("training", absent),
        };
    };
    let fix = fix(evidence, &origin);
    Finding::new(origin.headline, origin.found, "finite numbers throughout")
        .at(&origin.location)
        .with("dtype", evidence.environment.dtype.clone())
        .with("step", origin.step.map(|step| step.step))
        .with("loss", origin.step.and_then(|step| step.loss))
        .with("gradient_norm", origin.step.and_then(|step| step.gradient_norm))
        .with("supervised_tokens", origin.step.map(|step| step.supervised_tokens))
        .with("found_in", &origin.location)
        .fix(fix)
        .into()
}

fn in_base(evidence: &Evidence) -> Option<Origin<'_>> {
    let model = evidence.model.ran()?;
    (!model.non_finite.is_empty()).then(|| Origin {
        headline: "the base model holds values that are not finite".to_owned(),
        found: format!("{} with NaN or infinity", counted(model.non_finite.total, "tensor")),
        location: model.non_finite.clone(),
        step: None,
    })
}

fn in_log(evidence: &Evidence) -> Option<Origin<'_>> {
    let (entry, name) = log(evidence)?.first_not_finite()?;
    Some(Origin {
        headline: format!("the {name} in the log is not finite at step {}", entry.step),
        found: format!("a {name} of NaN or infinity, from step {} on", entry.step),
        location: Listing::numbered("step", std::iter::once(entry.step)),
        step: None,
    })
}

fn in_training(evidence: &Evidence) -> Option<Origin<'_>> {
    let training = evidence.training.ran()?;
    let step = training
        .steps
        .iter()
        .find(|step| step.loss.is_none() || step.gradient_norm.is_none());
    if let Some(step) = step {
        let what = if step.loss.is_none() { "loss" } else { "gradient" };
        let stopped = training
            .stopped_early
            .as_ref()
            .filter(|stopped| stopped.step == step.step);
        return Some(Origin {
            headline: format!("the {what} is not finite at step {}", step.step),
            found: match stopped {
                Some(stopped) => format!("{}, with {}", stopped.reason, supervised(step)),
                None => format!("a {what} that is not finite, with {}", supervised(step)),
            },
            location: stopped.map_or_else(
                || training.gradients.non_finite.clone(),
                |stopped| stopped.found_in.clone(),
            ),
            step: Some(step),
        });
    }
    if !training.gradients.non_finite.is_empty() {
        return Some(Origin {
            headline: "gradients are not finite".to_owned(),
            found: format!(
                "{} with a gradient of NaN or infinity",
                counted(training.gradients.non_finite.total, "tensor")
            ),
            location: training.gradients.non_finite.clone(),
            step: None,
        });
    }
    let lost = evidence
        .fit
        .ran()
        .is_some_and(|fit| fit.loss_before().is_some() && fit.loss_after().is_none());
    (lost && training.stopped_early.is_none()).then(|| Origin {
        headline: "the loss is not finite after training".to_owned(),
        found: "a finite loss of the first batch before training, none after it".to_owned(),
        location: evidence
            .parameters
            .ran()
            .map_or_else(no_place, |parameters| parameters.non_finite.clone()),
        step: None,
    })
}

fn in_parameters(evidence: &Evidence) -> Option<Origin<'_>> {
    let parameters = evidence.parameters.ran()?;
    (!parameters.non_finite.is_empty()).then(|| Origin {
        headline: "trained parameters are not finite".to_owned(),
        found: format!(
            "{} with NaN or infinity",
            counted(parameters.non_finite.total, "tensor")
        ),
        location: parameters.non_finite.clone(),
        step: None,
    })
}

fn in_answers(evidence: &Evidence) -> Option<Origin<'_>> {
    let (name, generation) = [("base", &evidence.baseline), ("trained", &evidence.generation)]
        .into_iter()
        .filter_map(|(name, slot)| slot.ran().map(|generation| (name, generation)))
        .find(|(_, generation)| generation.summary().non_finite > 0)?;
    let total = generation.answers.len();
    Some(Origin {
        headline: format!("the {name} model's logits are not finite"),
        found: format!(
            "{} of {} ended on logits that are not finite",
            grouped(generation.summary().non_finite as u64),
            counted(total, "answer")
        ),
        location: generation
            .answers
            .iter()
            .filter(|answer| answer.finish == FinishReason::NonFinite)
            .map(|answer| format!("`{}`", answer.prompt))
            .collect(),
        step: None,
    })
}

fn no_place() -> Listing {
    std::iter::empty::<String>().collect()
}

fn supervised(step: &StepRecord) -> String {
    format!("{} in the batch", counted(step.supervised_tokens, "supervised token"))
}

fn fix(evidence: &Evidence, origin: &Origin<'_>) -> Fix {
    let base_is_broken = evidence.model.ran().is_some_and(|model| !model.non_finite.is_empty());
    if base_is_broken {
        return Fix::by_hand(format!(
            "fetch the checkpoint `{}` again, or convert it again from its source",
            evidence.settings.model
        ));
    }
    if origin.step.is_some_and(|step| step.supervised_tokens == 0) {
        return Fix::by_hand("leave out the rows of this batch, or give them answers: its loss is 0/0");
    }
    if evidence.environment.dtype == "float16" {
        return Fix::by_hand("compute in bfloat16 or float32: float16 ends at 65504");
    }
    match evidence.settings.clip_norm {
        None => Fix::by_hand("clip gradients at a norm of 1 and skip steps that are not finite"),
        Some(_) => Fix::by_hand(
            "skip steps that are not finite, and look at the rows of the step that is named: clipping cannot repair \
             a gradient that is already infinite",
        ),
    }
}
