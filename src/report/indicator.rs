use serde::Serialize;

use crate::evidence::{Evidence, FineTuneKind, GenerationEvidence, GenerationSummary, ParameterEvidence};
use crate::rules::wording::{counted, grouped};
use crate::thresholds::VOICE_FALL;

/// How an indicator stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum IndicatorStatus {
    /// Within its expected range.
    Ok,
    /// Outside its expected range.
    Attention,
    /// Not measured, or not asked for.
    NotMeasured,
}

/// One figure that tells at a glance how the run stands; the findings say what it means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Indicator {
    /// For example `adapter attached`.
    pub name: &'static str,
    /// What was measured.
    pub value: String,
    /// The expected range.
    pub expected: String,
    /// How the two compare.
    pub status: IndicatorStatus,
}

impl Indicator {
    fn new(name: &'static str, value: String, expected: impl Into<String>, ok: bool) -> Self {
        Self {
            name,
            value,
            expected: expected.into(),
            status: if ok {
                IndicatorStatus::Ok
            } else {
                IndicatorStatus::Attention
            },
        }
    }

    fn not_measured(name: &'static str, value: &str, expected: &str) -> Self {
        Self {
            name,
            value: value.to_owned(),
            expected: expected.to_owned(),
            status: IndicatorStatus::NotMeasured,
        }
    }
}

/// The block of indicators, always the same five in the same order.
pub(super) fn indicators(evidence: &Evidence) -> Vec<Indicator> {
    let parameters = evidence.parameters.ran();
    let before = evidence.baseline.ran().map(GenerationEvidence::summary);
    let after = evidence.generation.ran().map(GenerationEvidence::summary);
    vec![
        adapter_attached(evidence, parameters),
        adapter_groups(evidence, parameters),
        parameters_changed(evidence, parameters),
        end_of_text(before.as_ref(), after.as_ref()),
        voice(before.as_ref(), after.as_ref()),
    ]
}

fn adapter_attached(evidence: &Evidence, parameters: Option<&ParameterEvidence>) -> Indicator {
    const NAME: &str = "adapter attached";
    if evidence.settings.fine_tune == FineTuneKind::Full {
        return Indicator::not_measured(NAME, "not asked for", "none, all weights are trained");
    }
    let Some(adapter) = parameters.and_then(|parameters| parameters.adapter.as_ref()) else {
        return Indicator::not_measured(NAME, "not measured", "yes");
    };
    let (attached, expected) = (adapter.attached.total, adapter.expected.total);
    let answer = if attached == 0 { "no" } else { "yes" };
    Indicator::new(
        NAME,
        format!(
            "{answer}, {} of {}",
            grouped(attached as u64),
            counted(expected, "module")
        ),
        "yes, all",
        attached > 0 && attached >= expected,
    )
}

fn adapter_groups(evidence: &Evidence, parameters: Option<&ParameterEvidence>) -> Indicator {
    const NAME: &str = "LoRA groups";
    if evidence.settings.fine_tune == FineTuneKind::Full {
        return Indicator::not_measured(NAME, "not asked for", "none");
    }
    if evidence.settings.is_trained_elsewhere() {
        return Indicator::not_measured(NAME, "trained before", "at least 1");
    }
    let Some(parameters) = parameters else {
        return Indicator::not_measured(NAME, "not measured", "at least 1");
    };
    let groups = parameters
        .groups
        .iter()
        .filter(|group| group.name.ends_with(".lora_a") || group.name.ends_with(".lora_b"))
        .count();
    let tensors = parameters.adapter.as_ref().map_or(0, |adapter| adapter.tensors.total);
    Indicator::new(
        NAME,
        format!("{}, {}", counted(groups, "group"), counted(tensors, "tensor")),
        "at least 1",
        groups > 0 && tensors > 0,
    )
}

fn parameters_changed(evidence: &Evidence, parameters: Option<&ParameterEvidence>) -> Indicator {
    const NAME: &str = "changed";
    if evidence.settings.is_trained_elsewhere() {
        return Indicator::not_measured(NAME, "trained before", "all trainable, 0 base");
    }
    let Some(parameters) = parameters else {
        return Indicator::not_measured(NAME, "not measured", "all trainable, 0 base");
    };
    let base = match evidence.settings.fine_tune {
        FineTuneKind::Lora => format!(", {} base", grouped(parameters.changed_base.total as u64)),
        FineTuneKind::Full => String::new(),
    };
    let complete = parameters.changed_trainable > 0 && parameters.changed_trainable == parameters.trainable_tensors;
    let clean = evidence.settings.fine_tune == FineTuneKind::Full || parameters.changed_base.is_empty();
    Indicator::new(
        NAME,
        format!(
            "{} of {} trainable{base}",
            grouped(parameters.changed_trainable as u64),
            grouped(parameters.trainable_tensors as u64)
        ),
        "all trainable, 0 base",
        complete && clean,
    )
}

fn end_of_text(before: Option<&GenerationSummary>, after: Option<&GenerationSummary>) -> Indicator {
    const NAME: &str = "end-of-text";
    let (Some(before), Some(after)) = (before, after) else {
        return Indicator::not_measured(
            NAME,
            &one_sided(before, after, |summary| Some(summary.leading_end_of_text.to_string())),
            "no more than before",
        );
    };
    Indicator::new(
        NAME,
        format!(
            "{} leading before, {} after",
            before.leading_end_of_text, after.leading_end_of_text
        ),
        "no more than before",
        after.leading_end_of_text <= before.leading_end_of_text && after.start_with_stop <= before.start_with_stop,
    )
}

fn voice(before: Option<&GenerationSummary>, after: Option<&GenerationSummary>) -> Indicator {
    const NAME: &str = "voice";
    let scores = (
        before.and_then(|summary| summary.voice),
        after.and_then(|summary| summary.voice),
    );
    let (Some(before_score), Some(after_score)) = scores else {
        let value = one_sided(before, after, |summary| {
            summary.voice.map(|score| format!("{score:.2}"))
        });
        return Indicator::not_measured(NAME, &value, "not far below before");
    };
    Indicator::new(
        NAME,
        format!("{before_score:.2} of 1 before, {after_score:.2} after"),
        "not far below before",
        after_score >= before_score - VOICE_FALL,
    )
}

/// What is known when one of the two sides is missing.
fn one_sided(
    before: Option<&GenerationSummary>,
    after: Option<&GenerationSummary>,
    value: fn(&GenerationSummary) -> Option<String>,
) -> String {
    match (before.and_then(value), after.and_then(value)) {
        (Some(before), _) => format!("{before} before"),
        (None, Some(after)) => format!("{after} after"),
        (None, None) => "not measured".to_owned(),
    }
}
