use serde::Serialize;
use serde_json::{Map, Value, json};

use super::signal::means_in_words;
use crate::evidence::{
    AdapterFilesEvidence, CrossCheckEvidence, DataEvidence, Evidence, FineTuneKind, FitComparison, GenerationEvidence,
    GenerationSummary, LogEvidence, ModelEvidence, ParameterEvidence, Slot, StateEvidence, TrainingEvidence,
};
use crate::rules::Phase;
use crate::rules::wording::{bytes, counted, difference, grouped, nats, shortest};

/// How a phase went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseStatus {
    /// It ran to its end.
    Ran,
    /// It was not run.
    Skipped,
    /// It was run and failed.
    Crashed,
}

/// One line of a phase's measurements.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// What was measured.
    pub label: &'static str,
    /// The measurement in words.
    pub text: String,
    /// The measurement in numbers.
    pub values: Map<String, Value>,
}

/// One of the five phases.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PhaseReport {
    /// Which one.
    pub name: Phase,
    /// How it went.
    pub status: PhaseStatus,
    /// Why it did not run to its end; `None` when it did.
    pub reason: Option<String>,
    /// Seconds it took; `None` when that was not measured.
    pub seconds: Option<f64>,
    /// Its measurements.
    pub figures: Vec<Figure>,
}

/// The five phases in order.
pub(super) fn phases(evidence: &Evidence) -> Vec<PhaseReport> {
    Phase::ALL
        .into_iter()
        .map(|phase| match phase {
            Phase::Baseline => baseline(evidence),
            Phase::Training => training(evidence),
            Phase::Parameters => report(
                phase,
                &[problem(&evidence.parameters)],
                evidence.parameters.ran().map(|measured| measured.seconds),
                parameters(evidence),
            ),
            Phase::Generation => generation(evidence),
            Phase::State => state(evidence),
        })
        .collect()
}

type Problem = Option<(PhaseStatus, String)>;

fn problem<T>(slot: &Slot<T>) -> Problem {
    match slot {
        Slot::Ran(_) => None,
        Slot::Skipped { reason } => Some((PhaseStatus::Skipped, reason.clone())),
        Slot::Crashed { error } => Some((PhaseStatus::Crashed, error.clone())),
    }
}

/// A failure outweighs a measurement that was skipped because of it.
fn report(name: Phase, problems: &[Problem], seconds: Option<f64>, figures: Vec<Figure>) -> PhaseReport {
    let crashed = problems
        .iter()
        .flatten()
        .find(|(status, _)| *status == PhaseStatus::Crashed);
    let (status, reason) = match crashed.or_else(|| problems.iter().flatten().next()) {
        Some((status, reason)) => (*status, Some(reason.clone())),
        None => (PhaseStatus::Ran, None),
    };
    PhaseReport {
        name,
        status,
        reason,
        seconds,
        figures,
    }
}

fn figure(label: &'static str, text: String, values: Value) -> Figure {
    let values = match values {
        Value::Object(values) => values,
        value => Map::from_iter([(label.to_owned(), value)]),
    };
    Figure { label, text, values }
}

fn baseline(evidence: &Evidence) -> PhaseReport {
    let mut figures = Vec::new();
    if let Slot::Ran(model) = &evidence.model {
        figures.extend(model_figures(model));
    }
    match &evidence.cross_check {
        Slot::Ran(check) => figures.push(cross_check_figure(check)),
        Slot::Crashed { .. } => figures.push(absent("cross-check", &evidence.cross_check)),
        Slot::Skipped { .. } => {}
    }
    if let Slot::Ran(generation) = &evidence.baseline {
        figures.extend(answer_figures(generation, None));
    }
    let seconds = match (&evidence.model, &evidence.baseline) {
        (Slot::Ran(model), Slot::Ran(generation)) => Some(model.load_seconds + generation.seconds),
        _ => None,
    };
    let problems = [problem(&evidence.model), problem(&evidence.baseline)];
    report(Phase::Baseline, &problems, seconds, figures)
}

fn generation(evidence: &Evidence) -> PhaseReport {
    let before = evidence.baseline.ran().map(GenerationEvidence::summary);
    let after = evidence.generation.ran();
    report(
        Phase::Generation,
        &[problem(&evidence.generation)],
        after.map(|generation| generation.seconds),
        after.map_or_else(Vec::new, |generation| answer_figures(generation, before.as_ref())),
    )
}

fn model_figures(model: &ModelEvidence) -> Vec<Figure> {
    let packing = match &model.quantization {
        Some(packing) => format!(", {} bit {}", packing.bits, packing.mode),
        None => String::new(),
    };
    let mut stop_tokens: Vec<&str> = model.stop_tokens.iter().map(|token| token.text.as_str()).collect();
    stop_tokens.sort_unstable();
    vec![
        figure(
            "model",
            format!(
                "{}, {}, {} parameters{packing}",
                model.architecture,
                counted(model.layers, "layer"),
                grouped(model.registered_values)
            ),
            json!({
                "architecture": model.architecture,
                "layers": model.layers,
                "parameters": model.registered_values,
                "parameters_predicted": model.predicted_values,
            }),
        ),
        figure(
            "stop set",
            if stop_tokens.is_empty() {
                "empty".to_owned()
            } else {
                stop_tokens.join(" ")
            },
            json!({ "stop_tokens": stop_tokens }),
        ),
    ]
}

fn cross_check_figure(check: &CrossCheckEvidence) -> Figure {
    figure(
        "cross-check",
        format!(
            "{} on {}: logits within {}, losses {} and {}, gradients within {} of their norm",
            check.versions,
            check.device,
            difference(check.logit_difference),
            nats(check.loss_here),
            nats(check.loss_there),
            difference(check.gradients.largest)
        ),
        json!({
            "backend": check.backend,
            "backend_versions": check.versions,
            "logit_difference": check.logit_difference,
            "loss_here": check.loss_here,
            "loss_there": check.loss_there,
            "gradient_difference": check.gradients.largest,
            "gradient_differs_most_in": check.gradients.worst,
        }),
    )
}

fn answer_figures(generation: &GenerationEvidence, before: Option<&GenerationSummary>) -> Vec<Figure> {
    let summary = generation.summary();
    let total = summary.answers;
    let compared = |value: fn(&GenerationSummary) -> usize| {
        let now = value(&summary);
        match before.map(value) {
            Some(was) if was != now => (grouped(now as u64), format!(" (was {})", grouped(was as u64))),
            Some(_) | None => (grouped(now as u64), String::new()),
        }
    };
    let [stopped, empty, looping, leading, anywhere] = [
        compared(|summary| summary.stopped),
        compared(|summary| summary.empty),
        compared(|summary| summary.looping),
        compared(|summary| summary.leading_end_of_text),
        compared(|summary| summary.end_of_text),
    ];
    let mut figures = vec![
        figure(
            "answers",
            format!(
                "{total} in all, {} stopped{}, {} empty{}, {} looping{}",
                stopped.0, stopped.1, empty.0, empty.1, looping.0, looping.1
            ),
            json!({
                "answers": total,
                "stopped": summary.stopped,
                "empty": summary.empty,
                "looping": summary.looping,
                "distinct_2": summary.distinct_2,
            }),
        ),
        figure(
            "end-of-text",
            format!(
                "{} leading{}, {} in all{}, of {} with the stop set off",
                leading.0,
                leading.1,
                anywhere.0,
                anywhere.1,
                counted(summary.free_run_tokens, "token")
            ),
            json!({
                "leading_end_of_text": summary.leading_end_of_text,
                "end_of_text": summary.end_of_text,
                "free_run_tokens": summary.free_run_tokens,
            }),
        ),
    ];
    if let Some(after) = summary.reference_nll {
        let was = before.and_then(|before| before.reference_nll);
        figures.push(figure(
            "references",
            match was {
                Some(was) => format!("{after:.3} nats per token (was {was:.3})"),
                None => format!("{after:.3} nats per token"),
            },
            json!({ "reference_nll": after }),
        ));
    }
    if let Some(after) = summary.voice {
        let was = before.and_then(|before| before.voice);
        figures.push(figure(
            "voice",
            match was {
                Some(was) => format!("{after:.2} of 1 (was {was:.2})"),
                None => format!("{after:.2} of 1"),
            },
            json!({ "voice": after }),
        ));
    }
    figures.push(figure(
        "speed",
        format!("{:.1} tokens/s", generation.tokens_per_second),
        json!({ "tokens_per_second": generation.tokens_per_second }),
    ));
    figures
}

fn training(evidence: &Evidence) -> PhaseReport {
    let mut figures = Vec::new();
    if let Slot::Ran(data) = &evidence.data {
        figures.push(data_figure(data));
    }
    figures.extend(evidence.adapter_files.ran().map(adapter_files_figure));
    figures.extend(evidence.log.ran().map(log_figure));
    let ran = evidence.training.ran();
    figures.extend(ran.map_or_else(Vec::new, step_figures));
    figures.extend(evidence.fit.ran().map(|fit| fit_figure(fit, evidence)));
    figures.extend(ran.map(speed_figure));
    let problems = [problem(&evidence.data), problem(&evidence.training)];
    report(
        Phase::Training,
        &problems,
        ran.map(|training| training.seconds),
        figures,
    )
}

fn adapter_files_figure(files: &AdapterFilesEvidence) -> Figure {
    let stated = match (files.steps, files.learning_rate) {
        (Some(steps), Some(learning_rate)) => format!(
            "; trained for {} at {}, as its configuration says",
            counted(steps, "step"),
            shortest(learning_rate)
        ),
        _ => String::new(),
    };
    figure(
        "adapter",
        format!(
            "{} of {}, {} applied{stated}",
            counted(files.tensors, "tensor"),
            files.format,
            grouped(files.applied as u64)
        ),
        json!({
            "format": files.format,
            "kind": files.kind,
            "tensors": files.tensors,
            "applied": files.applied,
            "missing": files.missing.total,
            "unused": files.unused.total,
            "other_shape": files.other_shape.total,
            "stated_steps": files.steps,
            "stated_learning_rate": files.learning_rate,
        }),
    )
}

fn log_figure(log: &LogEvidence) -> Figure {
    let numbers = |losses: Vec<(usize, f64)>| losses.into_iter().map(|(_, loss)| Some(loss)).collect::<Vec<_>>();
    let (losses, validation) = (numbers(log.losses()), numbers(log.validation_losses()));
    figure(
        "log",
        format!(
            "{} of {}{}, losses {}; of validation rows {}",
            counted(log.entries.len(), "line"),
            log.format,
            match log.lines_left_out.total {
                0 => String::new(),
                total => format!(" and {total} left out ({})", log.lines_left_out),
            },
            series(&losses),
            series(&validation)
        ),
        json!({
            "log_format": log.format,
            "logged_losses": losses,
            "logged_validation_losses": validation,
            "log_lines_left_out": log.lines_left_out.total,
        }),
    )
}

fn data_figure(data: &DataEvidence) -> Figure {
    let cut = match data.rows_truncated.total {
        0 => String::new(),
        rows => format!(", {} cut", grouped(rows as u64)),
    };
    figure(
        "data",
        format!(
            "{} ({}), {}, {} supervised{cut}",
            counted(data.rows, "row"),
            data.format,
            counted(data.tokens, "token"),
            grouped(data.supervised_tokens as u64)
        ),
        json!({
            "rows": data.rows,
            "tokens": data.tokens,
            "supervised_tokens": data.supervised_tokens,
            "rows_truncated": data.rows_truncated.total,
        }),
    )
}

/// What the steps showed.
fn step_figures(training: &TrainingEvidence) -> Vec<Figure> {
    let losses: Vec<Option<f64>> = training.steps.iter().map(|step| step.loss).collect();
    let norms: Vec<Option<f64>> = training.steps.iter().map(|step| step.gradient_norm).collect();
    let peak = training.steps.iter().map(|step| step.learning_rate).fold(0.0, f64::max);
    let mut figures = vec![figure(
        "steps",
        format!(
            "{} of {}, learning rate up to {}",
            counted(training.steps.len(), "step"),
            training.optimizer.name,
            shortest(peak)
        ),
        json!({
            "steps": training.steps.len(),
            "learning_rate_peak": peak,
            "optimizer_step_count": training.optimizer.step_count,
        }),
    )];
    if let Some(stopped) = &training.stopped_early {
        figures.push(figure(
            "stopped",
            format!("at step {}: {}", stopped.step, stopped.reason),
            json!({ "stopped_at_step": stopped.step }),
        ));
    }
    figures.push(figure(
        "loss",
        format!("by step {}", series(&losses)),
        json!({ "losses": losses }),
    ));
    figures.push(figure(
        "gradients",
        format!("norms {}", series(&norms)),
        json!({ "gradient_norms": norms }),
    ));
    figures
}

fn fit_figure(fit: &FitComparison, evidence: &Evidence) -> Figure {
    let (before, after) = (fit.loss_before(), fit.loss_after());
    let uniform = evidence.model.ran().map(ModelEvidence::uniform_loss);
    let guess = uniform.map_or_else(String::new, |uniform| format!("; a uniform guess has {uniform:.3}"));
    figure(
        "same batch",
        format!("{} before, {} after{guess}", nats(before), nats(after)),
        json!({
            "first_batch_loss_before": before,
            "first_batch_loss_after": after,
            "uniform_loss": uniform,
        }),
    )
}

fn speed_figure(training: &TrainingEvidence) -> Figure {
    figure(
        "speed",
        format!(
            "{:.1} tokens/s, {} at the peak",
            training.tokens_per_second,
            bytes(training.peak_memory)
        ),
        json!({
            "tokens_per_second": training.tokens_per_second,
            "peak_memory": training.peak_memory,
        }),
    )
}

/// Numbers in order, the middle left out of a long series.
fn series(values: &[Option<f64>]) -> String {
    const SHOWN_AT_EACH_END: usize = 4;
    let texts: Vec<String> = values.iter().map(|value| nats(*value)).collect();
    if texts.is_empty() {
        return "none".to_owned();
    }
    if texts.len() <= SHOWN_AT_EACH_END + SHOWN_AT_EACH_END {
        return texts.join(" ");
    }
    let (start, end) = (&texts[..SHOWN_AT_EACH_END], &texts[texts.len() - SHOWN_AT_EACH_END..]);
    format!("{} ... {}", start.join(" "), end.join(" "))
}

fn parameters(evidence: &Evidence) -> Vec<Figure> {
    let Slot::Ran(parameters) = &evidence.parameters else {
        return Vec::new();
    };
    let mut figures = vec![
        figure(
            "tensors",
            format!(
                "{}, {} values; {} trainable with {} values",
                grouped(parameters.tensors as u64),
                grouped(parameters.values),
                grouped(parameters.trainable_tensors as u64),
                grouped(parameters.trainable_values)
            ),
            json!({
                "tensors": parameters.tensors,
                "values": parameters.values,
                "trainable_tensors": parameters.trainable_tensors,
                "trainable_values": parameters.trainable_values,
            }),
        ),
        figure(
            "changed",
            changed(parameters, evidence.settings.fine_tune),
            json!({
                "changed": parameters.changed,
                "unchanged": parameters.unchanged,
                "changed_trainable": parameters.changed_trainable,
                "changed_base": parameters.changed_base.total,
            }),
        ),
    ];
    if let Some(adapter) = &parameters.adapter {
        figures.push(figure(
            "adapters",
            format!(
                "{}, `lora_b` other than zero in {}",
                counted(adapter.attached.total, "module"),
                grouped(adapter.nonzero_b as u64)
            ),
            json!({
                "modules_attached": adapter.attached.total,
                "modules_expected": adapter.expected.total,
                "adapter_tensors": adapter.tensors.total,
                "nonzero_a": adapter.nonzero_a,
                "nonzero_b": adapter.nonzero_b,
            }),
        ));
        if let Some(name) = adapter.tensors.first.first() {
            figures.push(figure(
                "for example",
                name.clone(),
                json!({ "first_adapter_tensor": name }),
            ));
        }
    }
    if !parameters.non_finite.is_empty() {
        figures.push(figure(
            "not finite",
            parameters.non_finite.to_string(),
            json!({ "non_finite": parameters.non_finite.total }),
        ));
    }
    figures
}

fn changed(parameters: &ParameterEvidence, fine_tune: FineTuneKind) -> String {
    let trainable = format!(
        "{} of {}",
        grouped(parameters.changed_trainable as u64),
        counted(parameters.trainable_tensors, "trainable tensor")
    );
    match fine_tune {
        FineTuneKind::Lora => format!(
            "{trainable}, {} of the base",
            grouped(parameters.changed_base.total as u64)
        ),
        FineTuneKind::Full => trainable,
    }
}

fn state(evidence: &Evidence) -> PhaseReport {
    let mut problems = vec![problem(&evidence.state)];
    let mut figures = Vec::new();
    if let Slot::Ran(state) = &evidence.state {
        let parts = [
            problem(&state.generation),
            problem(&state.evaluations),
            problem(&state.reload),
        ];
        problems.extend(
            parts
                .into_iter()
                .filter(|part| part.as_ref().is_some_and(|(status, _)| *status == PhaseStatus::Crashed)),
        );
        figures = state_figures(state);
    }
    report(
        Phase::State,
        &problems,
        evidence.state.ran().map(|measured| measured.seconds),
        figures,
    )
}

fn state_figures(state: &StateEvidence) -> Vec<Figure> {
    vec![generation_figure(state), evaluation_figure(state), reload_figure(state)]
}

fn absent<T>(label: &'static str, slot: &Slot<T>) -> Figure {
    figure(
        label,
        slot.absence().unwrap_or_else(|| "not measured".to_owned()),
        Value::Object(Map::new()),
    )
}

fn generation_figure(state: &StateEvidence) -> Figure {
    let Slot::Ran(binding) = &state.generation else {
        return absent("generation", &state.generation);
    };
    figure(
        "generation",
        format!(
            "{} of {} are the trained ones; logits {} from the trained, {} from the base",
            grouped(binding.same_object as u64),
            counted(binding.parameters, "parameter"),
            difference(binding.difference_from_trained),
            difference(binding.difference_from_base)
        ),
        json!({
            "parameters": binding.parameters,
            "same_object": binding.same_object,
            "difference_from_trained": binding.difference_from_trained,
            "difference_from_base": binding.difference_from_base,
            "trained_from_base": binding.trained_from_base,
        }),
    )
}

fn evaluation_figure(state: &StateEvidence) -> Figure {
    let Slot::Ran(evaluations) = &state.evaluations else {
        return absent("evaluation", &state.evaluations);
    };
    let changes: Vec<String> = evaluations
        .iter()
        .filter(|evaluation| !evaluation.changed.is_empty())
        .map(|evaluation| {
            format!(
                "{} changed {}",
                means_in_words(evaluation.means),
                counted(evaluation.changed.total, "parameter")
            )
        })
        .collect();
    figure(
        "evaluation",
        if changes.is_empty() {
            format!("{} tried, no parameter changed", counted(evaluations.len(), "way"))
        } else {
            changes.join("; ")
        },
        json!({ "evaluations": evaluations.len(), "evaluations_that_changed": changes.len() }),
    )
}

fn reload_figure(state: &StateEvidence) -> Figure {
    let Slot::Ran(reload) = &state.reload else {
        return absent("reload", &state.reload);
    };
    figure(
        "reload",
        format!(
            "{} of {} back; logits {} from the live model",
            grouped(reload.loaded as u64),
            counted(reload.saved, "tensor"),
            difference(reload.difference_from_live)
        ),
        json!({
            "saved": reload.saved,
            "loaded": reload.loaded,
            "lost": reload.lost.total,
            "difference_from_live": reload.difference_from_live,
        }),
    )
}
