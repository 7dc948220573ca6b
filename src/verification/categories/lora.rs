use mlx_rs::module::FlattenedModuleParam;

use super::super::check::{Check, CheckResult, Deviations, NotPassed, failed, passed};
use super::super::session::{Session, row};
use super::super::tolerance::FUSED;
use crate::adapter::{LoraSettings, attach, load_adapter, merge, save_adapter};
use crate::checks::{adapter_is_identity, finite, gradients_reach, only_changed};
use crate::data::{Batch, Example};
use crate::double_precision::doubles;
use crate::model::CausalModel;
use crate::param_snapshot::ParameterSnapshot;
use crate::readback::vector;
use crate::train::{
    AdamW, AdamWSettings, Lanes, Schedule, TrainSettings, Trainer, TrainingOutcome, loss_and_gradients, mean_loss,
};

pub(in super::super) const CHECKS: &[Check] = &[
    Check::once("fresh adapters change no answer", identity),
    Check::once("gradients reach every adapter", reach),
    Check::once("the adapters learn, and nothing else does", learns),
    Check::once("the adapters load again with their answers", reloads),
    Check::once("fused adapters answer as beside the weights", fuses),
];

/// What helps where a fine-tune goes wrong.
const HINT: &str = "see what the gradient and arithmetic checks say; if they pass, report it with this output";

/// Steps of the fine-tune.
const STEPS: usize = 30;
/// Its learning rate.
const LEARNING_RATE: f64 = 2e-3;
/// What it has to learn by heart, in words that the carried model knows.
const TEXTS: [&str; 2] = [
    "The harbour keeper counts blue lanterns before the storm.",
    "Every Friday the sea gives back one old wooden boat.",
];
/// Share of the first loss that may be left: two sentences are learnt by heart in as many steps.
const LEFT: f64 = 0.2;
/// The adapters' tensors.
const ADAPTERS: [&str; 2] = ["*.lora_a", "*.lora_b"];

/// The carried model after its fine-tune.
#[derive(Debug)]
pub(in super::super) struct FineTune {
    trained: CausalModel,
    /// The carried model with its fresh adapters.
    before: ParameterSnapshot,
    losses: [f64; 2],
}

fn settings() -> LoraSettings {
    LoraSettings {
        scale: 2.0,
        ..LoraSettings::default()
    }
}

fn attached(session: &Session<'_>) -> Result<CausalModel, NotPassed> {
    let mut model = session.embedded()?.model.clone();
    attach(&mut model, &settings(), 11)?;
    Ok(model)
}

fn batch(session: &Session<'_>) -> Result<Batch, NotPassed> {
    let tokenizer = &session.embedded()?.tokenizer;
    let mut examples = Vec::new();
    for text in TEXTS {
        examples.push(Example::of_tokens(tokenizer.encode(text, true)?));
    }
    Ok(Batch::new(&examples, &[0, 1]))
}

/// Logits after the first of the texts.
fn logits(session: &Session<'_>, model: &CausalModel) -> Result<Vec<f32>, NotPassed> {
    let tokens = session.embedded()?.tokenizer.encode(TEXTS[0], true)?;
    Ok(vector(&model.logits(&row(&tokens))?)?)
}

/// Trains once, whichever check is the first to ask.
fn fine_tune<'session>(session: &'session Session<'_>) -> Result<&'session FineTune, NotPassed> {
    if let Some(done) = session.fine_tune.get() {
        return Ok(done);
    }
    let mut model = attached(session)?;
    let before = ParameterSnapshot::capture(&model);
    let batch = batch(session)?;
    let lanes = session.backend().lanes();
    let first = mean_loss(&model, &batch, &lanes)?;
    let outcome = Trainer {
        optimizer: &mut AdamW::new(AdamWSettings {
            bias_correction: true,
            ..AdamWSettings::default()
        }),
        loss: &loss_and_gradients,
        lanes: session.backend().lanes(),
        others: None,
        settings: TrainSettings {
            steps: STEPS,
            schedule: Schedule::constant(LEARNING_RATE),
            clip_norm: None,
        },
        interrupt: session.interrupt,
    }
    .train(
        &mut model,
        &mut std::iter::repeat_n(batch.clone(), STEPS),
        &mut |_, _| Ok(()),
    )?;
    match outcome {
        TrainingOutcome::Completed => {}
        TrainingOutcome::Interrupted => return Err(NotPassed::Skipped("interrupted before it ended".to_owned())),
        TrainingOutcome::NotFinite { step, .. } | TrainingOutcome::OutOfData { step } => {
            return Err(failed(
                "the fine-tune broke off",
                format!("step {step} of {STEPS}"),
                "every step with finite numbers",
                HINT,
            ));
        }
    }
    let last = mean_loss(&model, &batch, &lanes)?;
    Ok(session.fine_tune.get_or_init(|| FineTune {
        trained: model,
        before,
        losses: [first, last],
    }))
}

fn identity(session: &Session<'_>) -> CheckResult {
    let (base, adapted) = (&session.embedded()?.model, attached(session)?);
    let tokens = row(&session.embedded()?.tokenizer.encode(TEXTS[0], true)?);
    adapter_is_identity(
        &adapted,
        &base.logits(&tokens)?,
        &adapted.logits(&tokens)?,
        &["*.lora_b"],
    )?;
    passed("the same logits, bit for bit")
}

fn reach(session: &Session<'_>) -> CheckResult {
    let model = attached(session)?;
    let gradients = loss_and_gradients(&model, &batch(session)?, &Lanes::single())?.gradients;
    let count = gradients.len();
    let gradients: FlattenedModuleParam = gradients
        .into_iter()
        .map(|(name, value)| (name.into(), value))
        .collect();
    gradients_reach(&model, &gradients, &["*.lora_a"])?;
    passed(format!("{count} tensors"))
}

fn learns(session: &Session<'_>) -> CheckResult {
    let FineTune {
        trained,
        before,
        losses,
    } = fine_tune(session)?;
    finite(trained)?;
    only_changed(before, &ParameterSnapshot::capture(trained), &ADAPTERS)?;
    let [first, last] = *losses;
    // Not a number is no success.
    if last <= LEFT * first {
        return passed(format!("loss from {first:.3} to {last:.3} in {STEPS} steps"));
    }
    Err(failed(
        "the adapters do not learn two sentences by heart",
        format!("loss from {first:.3} to {last:.3} in {STEPS} steps"),
        format!("{:.3} at most", LEFT * first),
        HINT,
    ))
}

fn reloads(session: &Session<'_>) -> CheckResult {
    let trained = &fine_tune(session)?.trained;
    let folder = session.folder("fine-tuned");
    let tensors = save_adapter(trained, &settings(), "embedded", &folder)?;
    let mut loaded = session.embedded()?.model.clone();
    load_adapter(&mut loaded, &folder)?;
    if logits(session, &loaded)? == logits(session, trained)? {
        return passed(format!("{tensors} tensors, the same logits, bit for bit"));
    }
    Err(failed(
        "the adapters answer otherwise after loading",
        "other logits",
        "the same, bit for bit",
        "see what the checkpoint checks say",
    ))
}

fn fuses(session: &Session<'_>) -> CheckResult {
    let trained = &fine_tune(session)?.trained;
    let expected = doubles(&logits(session, trained)?);
    let mut fused = trained.clone();
    let unmerged = merge(&mut fused)?;
    let mut deviations = Deviations::within(FUSED, session);
    let place = format!("{} layers", unmerged.layers());
    deviations.compare(place, &logits(session, &fused)?, &expected);
    let back = doubles(&logits(session, &unmerged.unmerge())?);
    if back != expected {
        return Err(failed(
            "the adapters are others after they were fused and taken out",
            "other logits",
            "the same, bit for bit",
            HINT,
        ));
    }
    deviations.judge("logits of fused adapters", HINT)
}
