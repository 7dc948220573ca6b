//! One healthy run, and what faults make of it.
//!
//! Each situation changes only measurements that the fault changes in a real run; no rule is mentioned here.

#![allow(dead_code, reason = "each test binary uses its own part")]

use mlx_diagnose::evidence::{
    AdapterEvidence, Answer, CellAnswer, DataEvidence, Evidence, FinishReason, FitComparison, FitEvidence,
    GenerationBinding, GenerationEvidence, GeneratorReading, Listing, ModelEvidence, ParameterEvidence, Party,
    ReadAnswers, ReferenceRun, ReloadEvidence, Slot, StateEvidence, SwapCell, SwapEvidence, TrainingEvidence,
};

/// A healthy run of six adapter steps on a model of two layers.
pub fn healthy() -> Evidence {
    serde_json::from_str(include_str!("../../../../fixtures/evidence/healthy.json")).expect("the fixture is evidence")
}

pub fn changed(change: impl FnOnce(&mut Evidence)) -> Evidence {
    let mut evidence = healthy();
    change(&mut evidence);
    evidence
}

/// Two processes whose gradients were not averaged.
pub fn gradients_kept() -> Evidence {
    let cases: serde_json::Value =
        serde_json::from_str(include_str!("../../../../fixtures/rules/gradients-not-averaged.json")).expect("JSON");
    changed(|evidence| {
        evidence.ranks = serde_json::from_value(cases["fires"][0]["set"]["/ranks"].clone()).expect("ranks");
    })
}

/// A run that stopped before anything was measured.
pub fn nothing_measured() -> Evidence {
    changed(|evidence| {
        evidence.model = Slot::skipped("no model");
        evidence.data = Slot::skipped("no model");
        evidence.memory = Slot::skipped("no model");
        evidence.baseline = Slot::skipped("no model");
        evidence.training = Slot::skipped("no model");
        evidence.fit = Slot::skipped("no model");
        evidence.parameters = Slot::skipped("no model");
        evidence.generation = Slot::skipped("no model");
        evidence.state = Slot::skipped("no model");
    })
}

fn measured<T>(slot: &mut Slot<T>) -> &mut T {
    match slot {
        Slot::Ran(value) => value,
        Slot::Skipped { reason } => panic!("skipped: {reason}"),
        Slot::Crashed { error } => panic!("crashed: {error}"),
    }
}

pub fn model(evidence: &mut Evidence) -> &mut ModelEvidence {
    measured(&mut evidence.model)
}

pub fn data(evidence: &mut Evidence) -> &mut DataEvidence {
    measured(&mut evidence.data)
}

pub fn training(evidence: &mut Evidence) -> &mut TrainingEvidence {
    measured(&mut evidence.training)
}

pub fn fit(evidence: &mut Evidence) -> &mut FitComparison {
    measured(&mut evidence.fit)
}

pub fn fit_before(evidence: &mut Evidence) -> &mut FitEvidence {
    measured(&mut fit(evidence).before)
}

pub fn fit_after(evidence: &mut Evidence) -> &mut FitEvidence {
    measured(&mut fit(evidence).after)
}

pub fn parameters(evidence: &mut Evidence) -> &mut ParameterEvidence {
    measured(&mut evidence.parameters)
}

pub fn adapter(evidence: &mut Evidence) -> &mut AdapterEvidence {
    parameters(evidence).adapter.as_mut().expect("the fixture has adapters")
}

pub fn baseline(evidence: &mut Evidence) -> &mut GenerationEvidence {
    measured(&mut evidence.baseline)
}

pub fn generation(evidence: &mut Evidence) -> &mut GenerationEvidence {
    measured(&mut evidence.generation)
}

pub fn state(evidence: &mut Evidence) -> &mut StateEvidence {
    measured(&mut evidence.state)
}

pub fn binding(evidence: &mut Evidence) -> &mut GenerationBinding {
    measured(&mut state(evidence).generation)
}

pub fn reload(evidence: &mut Evidence) -> &mut ReloadEvidence {
    measured(&mut state(evidence).reload)
}

pub fn none() -> Listing {
    names([])
}

pub fn names<const N: usize>(names: [&str; N]) -> Listing {
    names.into_iter().collect()
}

/// An answer whose first token is the end of text.
pub fn spams(answer: &mut Answer) {
    answer.text = String::new();
    answer.tokens = 0;
    answer.finish = FinishReason::Stop;
    answer.starts_with_stop = true;
    answer.repetition.distinct_1 = 1.0;
    answer.free_run.leading_end_of_text = answer.free_run.tokens;
    answer.free_run.end_of_text = answer.free_run.tokens;
    answer.free_run.text = "<|endoftext|>".repeat(answer.free_run.tokens);
}

/// An answer of one word, over and over, to the limit.
pub fn loops(answer: &mut Answer) {
    answer.text = String::from("the ".repeat(64).trim_end());
    answer.tokens = 64;
    answer.finish = FinishReason::Length;
    answer.starts_with_stop = false;
    answer.repetition.distinct_1 = 1.0 / 64.0;
    answer.repetition.distinct_2 = 1.0 / 63.0;
    answer.repetition.distinct_4 = 1.0 / 61.0;
    answer.repetition.looped_share = 1.0;
    answer.repetition.looped_span = String::from(" the");
    answer.free_run.leading_end_of_text = 0;
    answer.free_run.end_of_text = 0;
    answer.free_run.text = answer.text.clone();
}

/// An answer that says one thing after another to the limit.
pub fn rambles(answer: &mut Answer) {
    answer.text = String::from("Lima is the capital of Peru. It lies on the coast. Its port is Callao, and from there");
    answer.tokens = 64;
    answer.finish = FinishReason::Length;
    answer.free_run.end_of_text = 0;
    answer.free_run.text = answer.text.clone();
}

/// Training that leaves everything as it was, answers included.
pub fn change_nothing(evidence: &mut Evidence) {
    fit_after(evidence).supervised = fit_before(evidence).supervised;
    let parameters = parameters(evidence);
    parameters.changed = 0;
    parameters.unchanged = parameters.tensors;
    parameters.changed_trainable = 0;
    parameters.unchanged_trainable = parameters.changes.iter().map(|tensor| tensor.name.as_str()).collect();
    for tensor in &mut parameters.changes {
        tensor.changed_values = 0;
        tensor.norm_after = Some(tensor.norm_before);
        tensor.norm_difference = Some(0.0);
    }
    for group in &mut parameters.groups {
        group.changed = 0;
        group.norm_difference = Some(0.0);
    }
    adapter(evidence).nonzero_b = 0;
    answer_like_the_base(evidence);
    let binding = binding(evidence);
    binding.difference_from_base = Some(0.0);
    binding.trained_from_base = Some(0.0);
    reload(evidence).live_from_base = Some(0.0);
}

fn answer_like_the_base(evidence: &mut Evidence) {
    let before = baseline(evidence).answers.clone();
    generation(evidence).answers = before;
}

/// The code that adds adapters only sets a flag: nothing is attached, nothing frozen, all weights train.
pub fn stub_adapter() -> Evidence {
    changed(|evidence| {
        let base = [
            "model.embed_tokens.weight",
            "model.layers.0.mlp.down_proj.weight",
            "model.layers.0.self_attn.q_proj.weight",
            "model.layers.1.mlp.down_proj.weight",
            "model.layers.1.self_attn.q_proj.weight",
            "model.norm.weight",
        ];
        let parameters = parameters(evidence);
        parameters.tensors = 20;
        parameters.values = 786_944;
        parameters.trainable_tensors = 20;
        parameters.trainable_values = 786_944;
        parameters.changed = 20;
        parameters.unchanged = 0;
        parameters.changed_trainable = 20;
        parameters.changed_base = Listing {
            total: 20,
            first: base.map(str::to_owned).to_vec(),
        };
        parameters.groups.clear();
        parameters.changes.clear();
        let adapter = adapter(evidence);
        adapter.attached = none();
        adapter.tensors = none();
        adapter.nonzero_a = 0;
        adapter.nonzero_b = 0;
        training(evidence).trainable_values = 786_944;
        training(evidence).gradients.tensors = 20;
        let reload = reload(evidence);
        reload.saved = 0;
        reload.loaded = 0;
        reload.difference_from_live = reload.live_from_base;
    })
}

/// The optimizer is called and counts, but its result is thrown away.
pub fn frozen_optimizer() -> Evidence {
    changed(|evidence| {
        change_nothing(evidence);
        // Without updates `lora_b` stays zero, and with it every gradient of `lora_a`.
        let names = parameters(evidence).changes.iter().map(|tensor| tensor.name.clone());
        let starved: Listing = names.filter(|name| name.ends_with(".lora_a")).collect();
        training(evidence).gradients.always_zero = starved;
    })
}

/// Answers come from a copy of the model that was made before training.
pub fn stale_generation() -> Evidence {
    changed(|evidence| {
        answer_like_the_base(evidence);
        let adapter_tensors = adapter(evidence).tensors.clone();
        let binding = binding(evidence);
        binding.same_object = 0;
        binding.stale = adapter_tensors;
        binding.difference_from_trained = binding.trained_from_base;
        binding.difference_from_base = Some(0.0);
    })
}

/// Every row of the data has an empty answer.
pub fn eos_only_labels() -> Evidence {
    changed(|evidence| {
        let data = data(evidence);
        data.supervised_tokens = 12;
        data.supervised_stop_tokens = 12;
        data.rows_only_stop_tokens = (0..12).map(|row| format!("row {row:02}")).collect();
        let training = training(evidence);
        let losses = [5.113, 4.012, 2.377, 0.981, 0.214, 0.043];
        for (step, loss) in training.steps.iter_mut().zip(losses) {
            step.loss = Some(loss);
            step.supervised_tokens = 2;
        }
        fit_before(evidence).supervised = Some(5.113);
        fit_after(evidence).supervised = Some(0.012);
        for answer in &mut generation(evidence).answers {
            spams(answer);
            answer.voice = None;
            answer.reference_nll = Some(6.2);
        }
    })
}

/// A learning rate of 1 with scale 20, as measured on a real model: no NaN, a uniform guess, only end-of-text.
pub fn learning_rate_one() -> Evidence {
    changed(|evidence| {
        evidence.settings.learning_rate = 1.0;
        let training = training(evidence);
        let losses = [2.914, 28.413, 16.802, 9.114, 7.631, 7.627];
        for (step, loss) in training.steps.iter_mut().zip(losses) {
            step.learning_rate = 1.0;
            step.loss = Some(loss);
        }
        training.optimizer.learning_rate_sum = 6.0;
        fit_after(evidence).supervised = Some(7.626);
        for answer in &mut generation(evidence).answers {
            spams(answer);
            answer.voice = None;
            answer.reference_nll = Some(7.63);
        }
    })
}

/// The user pressed Ctrl-C during training.
pub fn interrupted_in_training() -> Evidence {
    changed(|evidence| {
        evidence.interrupted = Some("interrupted in phase 2, training".to_owned());
        evidence.training = Slot::crashed("interrupted at step 3");
        evidence.fit = Slot::skipped("training was interrupted");
        evidence.parameters = Slot::skipped("training was interrupted");
        evidence.generation = Slot::skipped("training was interrupted");
        evidence.state = Slot::skipped("training was interrupted");
    })
}

/// Another trainer that works, and another generator that leaves the adapter out.
pub fn swapped_generator() -> Evidence {
    changed(|evidence| {
        evidence.settings.trainer = Some("mlx-lm".to_owned());
        evidence.settings.generator = Some("python answer.py {model} {prompt}".to_owned());
        let from = |generation: &Slot<GenerationEvidence>| -> Vec<CellAnswer> {
            generation
                .ran()
                .expect("answers")
                .answers
                .iter()
                .map(CellAnswer::from)
                .collect()
        };
        let (base, tuned) = (from(&evidence.baseline), from(&evidence.generation));
        let texts = |answers: &[CellAnswer]| answers.iter().map(|answer| answer.text.clone()).collect();
        let cell = |trainer, generator, answers: &[CellAnswer]| SwapCell {
            trainer,
            generator,
            answers: Slot::Ran(answers.to_vec()),
        };
        evidence.swap = Slot::Ran(SwapEvidence {
            cells: vec![
                cell(Party::Theirs, Party::Reference, &tuned),
                cell(Party::Theirs, Party::Theirs, &base),
                cell(Party::Reference, Party::Reference, &tuned),
                cell(Party::Reference, Party::Theirs, &base),
            ],
            readings: vec![ReadAnswers {
                reading: GeneratorReading::WithoutAdapter,
                texts: texts(&base),
            }],
            repeatable: Some(true),
            reference: Slot::Ran(ReferenceRun {
                losses: vec![Some(3.021), Some(2.4)],
                gradient_norms: vec![Some(1.7), Some(1.1)],
                loss_before: Some(3.021),
                loss_after: Some(1.9),
                median_update: Some(0.013),
                seconds: 2.5,
            }),
        });
    })
}
