use super::logged_losses::{self, log};
use super::rule::declare_rule;
use super::wording::{nats, shortest};
use super::{Applicability, Finding, Fix, Outcome, Rerun};
use crate::evidence::{Evidence, FineTuneKind, FitComparison, RunSettings, Slot, StepRecord, TrainingEvidence};
use crate::thresholds::{
    ADAPTER_LEARNING_RATE, DIVERGED_RISE, FULL_LEARNING_RATE, KNOWS_SOMETHING, LEARNING_RATE_CUT, PINNED_TO_UNIFORM,
};

declare_rule! {
    /// ## What it finds
    ///
    /// Training made the model far worse on the very text it was trained on.
    ///
    /// ## Why it matters
    ///
    /// No error is raised and no NaN appears. Each loss may even be below the one before, because after the first
    /// steps the model is so bad that it can only recover: it ends as a uniform guess and answers every prompt with
    /// one token, often the end of text.
    ///
    /// ## Evidence
    ///
    /// The loss of one batch before and after training; without it, the loss of the first step and the mean of the
    /// last finite ones. Either of two marks: the loss rose by more than `DIVERGED_RISE`, or it ended within
    /// `PINNED_TO_UNIFORM` of the natural logarithm of the vocabulary size, the loss of a uniform guess, or above it.
    /// The second counts only if the loss began clearly below: a fresh initialisation begins there and is healthy.
    ///
    /// ## How to fix
    ///
    /// Lower the learning rate. What counts for adapters is the product of learning rate and scale: with mlx-lm's
    /// default scale of 20, rates above 1e-3 rarely work. Adam without bias correction, MLX's default, makes a first
    /// step of 3.16 times the learning rate; a warm-up of a few steps or bias correction removes that.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-examples/issues/620>
    /// - <https://github.com/Blaizzy/mlx-vlm/issues/841>
    /// - <https://github.com/ml-explore/mlx/issues/1640>
    pub static TRAINING_DIVERGED = {
        name: "training-diverged",
        code: "OPT003",
        summary: "training made the model far worse on the text it was trained on",
        phase: Training,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[
            "overfit",
            "loss-not-finite",
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
    let settings = &evidence.settings;
    let uniform = match &evidence.model {
        Slot::Ran(model) => Some(model.uniform_loss()),
        // A log alone says nothing of the vocabulary.
        _ if settings.is_log_alone() => None,
        absent => return Outcome::not_measured("the model", absent),
    };
    let (courses, curve) = match &evidence.training {
        Slot::Ran(training) => {
            let ends = evidence.loss_before().zip(loss_after(evidence, training));
            (vec![ends], format!("losses by step: {}", curve(training)))
        }
        _ if settings.is_trained_elsewhere() || settings.is_log_alone() => finished(evidence),
        absent => return Outcome::not_measured("training", absent),
    };
    let courses: Vec<(f64, f64)> = courses.into_iter().flatten().collect();
    if courses.is_empty() {
        return Outcome::not_applicable("no finite loss before and after an update");
    }
    let diverged = |&&(before, after): &&(f64, f64)| {
        let worse_than_uniform = uniform.is_some_and(|uniform| {
            after > before && before < KNOWS_SOMETHING * uniform && after >= uniform * (1.0 - PINNED_TO_UNIFORM)
        });
        after - before > DIVERGED_RISE || worse_than_uniform
    };
    let Some(&(before, after)) = courses.iter().find(diverged) else {
        return Outcome::Pass;
    };
    let pinned = uniform.is_some_and(|uniform| (after / uniform - 1.0).abs() <= PINNED_TO_UNIFORM);
    let headline = if pinned {
        format!("training drove the loss from {before:.3} up to {after:.3}, as bad as a uniform guess")
    } else {
        format!("training drove the loss from {before:.3} up to {after:.3}")
    };
    let guess = uniform.map_or_else(String::new, |uniform| format!("; a uniform guess has {uniform:.3}"));
    let finding = Finding::new(
        headline,
        format!("{curve}{guess}"),
        format!("a loss after training below the {before:.3} before it"),
    )
    .with("loss_before", before)
    .with("loss_after", after)
    .with("uniform_loss", uniform)
    .with("losses", of_steps(evidence, |step| step.loss))
    .with("gradient_norms", of_steps(evidence, |step| step.gradient_norm))
    .with("learning_rate", settings.learning_rate)
    .with("scale", settings.scale);
    let fixes = if settings.is_trained_elsewhere() || settings.is_log_alone() {
        fixes_elsewhere(evidence)
    } else {
        fixes(settings)
    };
    fixes.into_iter().fold(finding, Finding::fix).into()
}

/// The loss of the rows without a finished adapter and with it, and those of the log, each before and after.
fn finished(evidence: &Evidence) -> (Vec<Option<(f64, f64)>>, String) {
    let fit = evidence.fit.ran();
    let of_rows = fit.and_then(|fit| fit.loss_before().zip(fit.loss_after()));
    let log = log(evidence);
    let in_words = log.map_or_else(
        || "the loss of the rows, without the adapter and with it".to_owned(),
        |log| format!("losses in the log: {}", logged_losses::curve(&log.losses())),
    );
    let of_log = log.and_then(logged_losses::ends);
    // Whatever the training counted, prompts or answers, the base was at least this good at it.
    let of_base = fit.and_then(|fit| fit.before.ran()).and_then(|base| {
        let answers = base.supervised?;
        Some(base.unsupervised.map_or(answers, |prompts| prompts.max(answers)))
    });
    let from_base = of_base.zip(of_log.map(|(_, after)| after));
    (vec![of_rows, of_log, from_base], in_words)
}

/// One number of every step that was made here.
fn of_steps(evidence: &Evidence, number: fn(&StepRecord) -> Option<f64>) -> Vec<Option<f64>> {
    let steps = evidence.training.ran().map(|training| training.steps.as_slice());
    steps.unwrap_or_default().iter().map(number).collect()
}

/// Loss of the first batch after training, or the mean of the last finite losses of steps that followed an update.
fn loss_after(evidence: &Evidence, training: &TrainingEvidence) -> Option<f64> {
    const AVERAGED_STEPS: usize = 3;
    let measured = evidence.fit.ran().and_then(FitComparison::loss_after);
    if measured.is_some() {
        return measured;
    }
    let last: Vec<f64> = training
        .steps
        .iter()
        .skip(1)
        .rev()
        .filter_map(|step| step.loss)
        .take(AVERAGED_STEPS)
        .collect();
    (!last.is_empty()).then(|| last.iter().sum::<f64>() / last.len() as f64)
}

/// The losses in order, the middle left out of a long run.
fn curve(training: &TrainingEvidence) -> String {
    const SHOWN_AT_EACH_END: usize = 4;
    let losses: Vec<String> = training.steps.iter().map(|step| nats(step.loss)).collect();
    if losses.len() <= SHOWN_AT_EACH_END + SHOWN_AT_EACH_END {
        return losses.join(", ");
    }
    format!(
        "{}, ..., {}",
        losses[..SHOWN_AT_EACH_END].join(", "),
        losses[losses.len() - SHOWN_AT_EACH_END..].join(", ")
    )
}

/// Of a training that this program did not make, only what its files state is known.
fn fixes_elsewhere(evidence: &Evidence) -> Vec<Fix> {
    let stated = evidence.adapter_files.ran().and_then(|files| files.learning_rate);
    let rate = stated.map_or_else(String::new, |rate| format!(" than the stated {}", shortest(rate)));
    let mut fixes = vec![Fix::by_hand(format!(
        "train again with a lower learning rate{rate}, or clip gradients"
    ))];
    if !evidence.settings.is_log_alone() {
        fixes.push(Fix::by_hand(format!(
            "see that the adapter is loaded with the scale it was trained with: here it is {}",
            shortest(evidence.settings.scale)
        )));
    }
    fixes
}

fn fixes(settings: &RunSettings) -> Vec<Fix> {
    let usual = match settings.fine_tune {
        FineTuneKind::Lora => ADAPTER_LEARNING_RATE,
        FineTuneKind::Full => FULL_LEARNING_RATE,
    };
    let lower = if settings.learning_rate > usual {
        usual
    } else {
        settings.learning_rate * LEARNING_RATE_CUT
    };
    let mut fixes = vec![Fix::command(
        format!(
            "lower the learning rate from {} to {}",
            shortest(settings.learning_rate),
            shortest(lower)
        ),
        Rerun::of(settings).learning_rate(lower),
        Applicability::MachineApplicable,
    )];
    if settings.fine_tune == FineTuneKind::Lora && settings.scale > 1.0 {
        fixes.push(Fix::by_hand(format!(
            "or lower the adapters' scale: {} multiplies every update of the model, and is not divided by the rank",
            shortest(settings.scale)
        )));
    }
    if !settings.bias_correction && settings.warmup_steps == 0 {
        fixes.push(Fix::by_hand(
            "turn on bias correction or warm up: without them the first step of Adam is 3.16 times the learning rate",
        ));
    }
    fixes
}
