use serde::Serialize;
use serde_json::{Value, json};

use crate::evidence::{Evidence, RunSettings};

/// What one run has and the other has not.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// For example `learning_rate`.
    pub what: String,
    /// In the stored run.
    pub stored: Value,
    /// In this run.
    pub now: Value,
}

/// The stored run was made with other settings, another model, other data or other prompts.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "the baseline was stored by another run\n  found: {}\n  expected: {}, as stored\n  hint: run with what was stored, or store a new baseline with `--save-baseline`",
    self.list(|difference| &difference.now),
    self.list(|difference| &difference.stored)
)]
pub struct OtherRun {
    /// Everything that differs, in the order of the evidence; never empty.
    pub differences: Vec<Difference>,
}

impl OtherRun {
    fn list(&self, side: fn(&Difference) -> &Value) -> String {
        self.differences
            .iter()
            .map(|difference| format!("{} {}", difference.what, side(difference)))
            .collect::<Vec<_>>()
            .join(", ")
    }

    fn unless_empty(differences: Vec<Difference>) -> Result<(), Self> {
        if differences.is_empty() {
            Ok(())
        } else {
            Err(Self { differences })
        }
    }
}

/// Whether both runs were asked to do the same; the paths of model, data and prompts do not count.
///
/// Known before the run, so that a wrong baseline costs nothing.
pub fn check_settings(stored: &RunSettings, now: &RunSettings) -> Result<(), OtherRun> {
    OtherRun::unless_empty(settings(stored, now))
}

/// Whether both runs were asked to do the same with the same model, data and prompts, as far as evidence tells.
pub(super) fn check(stored: &Evidence, now: &Evidence) -> Result<(), OtherRun> {
    let mut differences = settings(&stored.settings, &now.settings);
    differences.extend(named(model(stored), model(now)));
    differences.extend(named(data(stored), data(now)));
    differences.extend(named(prompts(stored), prompts(now)));
    OtherRun::unless_empty(differences)
}

fn settings(stored: &RunSettings, now: &RunSettings) -> Vec<Difference> {
    let identity = |settings: &RunSettings| {
        // Taken apart, so that a new setting cannot be forgotten.
        let RunSettings {
            model: _,
            data: _,
            prompts: _,
            adapter,
            trained,
            trainer,
            generator,
            log: _,
            dtype,
            backend,
            cross_check,
            keep_packed,
            check_only,
            fine_tune,
            steps,
            batch_size,
            learning_rate,
            bias_correction,
            warmup_steps,
            clip_norm,
            rank,
            scale,
            dropout,
            layers,
            keys,
            mask_prompt,
            max_sequence_length,
            max_tokens,
            seed,
        } = settings;
        json!({
            "finished_adapter": adapter.is_some(),
            "finished_model": trained.is_some(),
            "trainer": trainer,
            "generator": generator,
            "dtype": dtype,
            "backend": backend,
            "cross_check": cross_check,
            "keep_packed": keep_packed,
            "check_only": check_only,
            "fine_tune": fine_tune,
            "steps": steps,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "bias_correction": bias_correction,
            "warmup_steps": warmup_steps,
            "clip_norm": clip_norm,
            "rank": rank,
            "scale": scale,
            "dropout": dropout,
            "layers": layers,
            "keys": keys,
            "mask_prompt": mask_prompt,
            "max_sequence_length": max_sequence_length,
            "max_tokens": max_tokens,
            "seed": seed,
        })
    };
    named(Some(identity(stored)), Some(identity(now)))
}

fn model(evidence: &Evidence) -> Option<Value> {
    let model = evidence.model.ran()?;
    Some(json!({
        "architecture": model.architecture,
        "layers of the model": model.layers,
        "vocabulary": model.vocabulary_size,
        "parameters": model.predicted_values,
        "tensors": model.predicted_tensors,
        "packing": model.quantization,
        "element type of the files": model.stored_dtype,
    }))
}

fn data(evidence: &Evidence) -> Option<Value> {
    let data = evidence.data.ran()?;
    Some(json!({
        "format of the data": data.format,
        "rows of the data": data.rows,
        "rows for validation": data.validation.ran().map(|validation| validation.rows),
    }))
}

fn prompts(evidence: &Evidence) -> Option<Value> {
    let answers = &evidence.baseline.ran()?.answers;
    let prompts: Vec<&str> = answers.iter().map(|answer| answer.prompt.as_str()).collect();
    Some(json!({ "prompts": prompts }))
}

/// The fields in which two objects differ; none when one of them was not measured.
fn named(stored: Option<Value>, now: Option<Value>) -> Vec<Difference> {
    let (Some(Value::Object(stored)), Some(Value::Object(now))) = (stored, now) else {
        return Vec::new();
    };
    stored
        .into_iter()
        .zip(now)
        .filter(|((_, stored), (_, now))| stored != now)
        .map(|((what, stored), (_, now))| Difference { what, stored, now })
        .collect()
}
