//! Faults in the user's data files.

use std::path::Path;

use serde_json::{Value, json};

use super::{Family, Fault, FaultError, Needs, Operator, RunFiles};
use crate::atomic_write::write_file;
use crate::diagnosis::DiagnosisOptions;
use crate::workflow::Workflow;

/// Data files that something changes.
struct Rewritten<F>(F);

impl<F> Workflow for Rewritten<F> {}

impl<F: Fn(&Path) -> Result<(), FaultError>> Fault for Rewritten<F> {
    fn alter(&self, _options: &mut DiagnosisOptions, files: &RunFiles) -> Result<(), FaultError> {
        (self.0)(&files.data)
    }
}

/// Changes the rows of `train.jsonl`.
fn with_rows(change: impl Fn(&mut Vec<Value>) + 'static) -> Box<dyn Fault> {
    Box::new(Rewritten(move |folder: &Path| {
        let path = folder.join("train.jsonl");
        let mut rows = read(&path)?;
        change(&mut rows);
        write(&path, &rows)
    }))
}

/// Leaves `count` rows in `train.jsonl`.
pub(super) fn keep_first_rows(files: &RunFiles, count: usize) -> Result<(), FaultError> {
    let path = files.data.join("train.jsonl");
    let mut rows = read(&path)?;
    rows.truncate(count);
    write(&path, &rows)
}

fn read(path: &Path) -> Result<Vec<Value>, FaultError> {
    let text = std::fs::read_to_string(path).map_err(|source| FaultError::Io {
        path: path.to_owned(),
        source,
    })?;
    text.lines()
        .map(|line| {
            serde_json::from_str(line).map_err(|source| FaultError::Json {
                path: path.to_owned(),
                source,
            })
        })
        .collect()
}

fn write(path: &Path, rows: &[Value]) -> Result<(), FaultError> {
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    write_text(path, &format!("{}\n", lines.join("\n")))
}

fn write_text(path: &Path, text: &str) -> Result<(), FaultError> {
    write_file(path, text.as_bytes()).map_err(|source| FaultError::Io {
        path: path.to_owned(),
        source,
    })
}

/// The content of the last message of a conversation.
fn answer(row: &mut Value) -> Option<&mut Value> {
    row.get_mut("messages")?.as_array_mut()?.last_mut()?.get_mut("content")
}

fn question(row: &Value) -> String {
    row.pointer("/messages/0/content")
        .and_then(Value::as_str)
        .map_or_else(String::new, str::to_owned)
}

/// The indices that make up `share` of `rows`, spread evenly.
fn share_of(rows: usize, share: f64) -> Vec<usize> {
    let reached = |rows: usize| (rows as f64 * share).floor();
    (0..rows).filter(|&row| reached(row + 1) > reached(row)).collect()
}

pub static PAIRS_PERMUTED: Operator = Operator {
    name: "pairs-permuted",
    family: Family::Data,
    summary: "answers stand behind other rows' questions, in this share of the rows",
    citation: "https://doi.org/10.1145/3460319.3464825",
    severities: &[0.5, 1.0],
    make: |share| {
        with_rows(move |rows| {
            let chosen = share_of(rows.len(), share);
            let answers: Vec<Value> = chosen
                .iter()
                .filter_map(|&row| answer(&mut rows[row]).cloned())
                .collect();
            for (position, &row) in chosen.iter().enumerate() {
                if let Some(content) = answer(&mut rows[row]) {
                    *content = answers[(position + 1) % answers.len()].clone();
                }
            }
        })
    },
    needs: Needs::Adapters,
};

pub static TARGETS_SHUFFLED: Operator = Operator {
    name: "targets-shuffled",
    family: Family::Data,
    summary: "the letters of answers are in a random order, in this share of the rows",
    citation: "https://github.com/ml-explore/mlx-examples/issues/323",
    severities: &[1.0],
    make: |share| {
        with_rows(move |rows| {
            for row in share_of(rows.len(), share) {
                if let Some(content) = answer(&mut rows[row]) {
                    let mut letters: Vec<char> = content.as_str().map_or_else(Vec::new, |text| text.chars().collect());
                    shuffle(&mut letters, row as u64);
                    *content = Value::String(letters.into_iter().collect());
                }
            }
        })
    },
    needs: Needs::Adapters,
};

/// Fisher and Yates's shuffle on Knuth's linear congruential generator (MMIX constants): the same everywhere.
fn shuffle<T>(values: &mut [T], seed: u64) {
    const MULTIPLIER: u64 = 6_364_136_223_846_793_005;
    const INCREMENT: u64 = 1_442_695_040_888_963_407;
    let mut state = seed;
    for last in (1..values.len()).rev() {
        state = state.wrapping_mul(MULTIPLIER).wrapping_add(INCREMENT);
        let draw = u128::from(state) * (last as u128 + 1);
        values.swap(last, (draw >> 64) as usize);
    }
}

pub static ROWS_DUPLICATED: Operator = Operator {
    name: "rows-duplicated",
    family: Family::Data,
    summary: "this share of the rows is a copy of the first one",
    citation: "https://github.com/OpenRLHF/OpenRLHF/issues/1089",
    severities: &[0.2, 0.5],
    make: |share| {
        with_rows(move |rows| {
            let first = rows.first().cloned();
            for row in share_of(rows.len(), share) {
                if let Some(first) = &first {
                    rows[row] = first.clone();
                }
            }
        })
    },
    needs: Needs::Adapters,
};

pub static FOREIGN_TEMPLATE: Operator = Operator {
    name: "foreign-template",
    family: Family::Data,
    summary: "rows are plain text with the turn markers of another model family, in this share of the rows",
    citation: "https://github.com/hiyouga/LlamaFactory/issues/6736",
    severities: &[0.5, 1.0],
    make: |share| {
        with_rows(move |rows| {
            let chosen = share_of(rows.len(), share);
            for (index, row) in rows.iter_mut().enumerate() {
                let asked = question(row);
                let Some(answered) = answer(row).and_then(|content| content.as_str().map(str::to_owned)) else {
                    continue;
                };
                *row = if chosen.contains(&index) {
                    json!({ "text": format!("[INST] {asked} [/INST] {answered}") })
                } else {
                    json!({ "text": format!("{asked} {answered}") })
                };
            }
        })
    },
    needs: Needs::Adapters,
};

pub static ANSWERS_MISSING: Operator = Operator {
    name: "answers-missing",
    family: Family::Data,
    summary: "conversations end with a question, in this share of the rows",
    citation: "https://github.com/ml-explore/mlx-lm/issues/57",
    severities: &[0.2, 1.0],
    make: |share| {
        with_rows(move |rows| {
            for row in share_of(rows.len(), share) {
                if let Some(messages) = rows[row].get_mut("messages").and_then(Value::as_array_mut) {
                    messages.pop();
                }
            }
        })
    },
    needs: Needs::Adapters,
};

pub static VALIDATION_ROWS_TRAINED: Operator = Operator {
    name: "validation-rows-trained",
    family: Family::Data,
    summary: "this share of the validation rows is taken from the training rows",
    citation: "https://github.com/ai-forever/ru-gpts/issues/23",
    severities: &[0.25, 1.0],
    make: |share| {
        Box::new(Rewritten(move |folder: &Path| {
            let trained = read(&folder.join("train.jsonl"))?;
            let path = folder.join("valid.jsonl");
            let mut valid = read(&path)?;
            for row in share_of(valid.len(), share) {
                valid[row] = trained[row % trained.len()].clone();
            }
            write(&path, &valid)
        }))
    },
    needs: Needs::Adapters,
};

pub static DATA_MALFORMED: Operator = Operator {
    name: "data-malformed",
    family: Family::Data,
    summary: "the data is one indented JSON text instead of one object on each line",
    citation: "https://github.com/ml-explore/mlx-examples/issues/458",
    severities: &[1.0],
    make: |_| {
        Box::new(Rewritten(|folder: &Path| {
            let path = folder.join("train.jsonl");
            let rows = Value::Array(read(&path)?);
            write_text(&path, &format!("{rows:#}\n"))
        }))
    },
    needs: Needs::Adapters,
};
