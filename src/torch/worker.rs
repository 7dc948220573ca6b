use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mlx_rs::Array;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tempfile::TempDir;

use super::replies::{Done, Logits, Loss, Memory, Reply, Saved, Stepped};
use super::{Attached, Decoded, Gradients, Greeting, LoadedThere, WorkerError};
use crate::data::Batch;
use crate::interrupt::Interrupt;
use crate::line_process::LineProcess;
use crate::model::{load_safetensors, save_safetensors};
use crate::python::Python;

/// The program that answers.
const PROGRAM: &str = include_str!("worker.py");
/// Version of the protocol that it speaks.
const PROTOCOL: u64 = 1;
/// Longest time until it greets: importing torch from a cold disk takes a minute.
const START: Duration = Duration::from_mins(5);
/// Longest time for one request: a large model on a CPU takes minutes for a backward pass.
const REQUEST: Duration = Duration::from_hours(1);

/// A running PyTorch; it ends when this value is dropped.
#[derive(Debug)]
pub struct Worker {
    process: LineProcess,
    python: Python,
    greeting: Greeting,
    requests: u64,
    timeout: Duration,
    folder: TempDir,
}

/// A model to load.
#[derive(Debug, Clone, Serialize)]
pub struct LoadRequest<'request> {
    /// A folder in Hugging Face's layout with plain weights.
    pub folder: &'request Path,
    /// Element type to compute in: `float32`, `bfloat16` or `float16`.
    pub dtype: &'request str,
    /// One of [`Greeting::devices`].
    pub device: &'request str,
}

/// Rows of one length with what is supervised in them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rows {
    /// Token ids, padded on the right.
    pub tokens: Vec<Vec<u32>>,
    /// 1 where the token is a target of the loss, otherwise 0.
    pub mask: Vec<Vec<u8>>,
}

impl Rows {
    /// The rows of a batch.
    pub fn of(batch: &Batch) -> Self {
        let columns = batch.columns.max(1);
        let ids = |row: &[i32]| row.iter().map(|&token| token.cast_unsigned()).collect();
        let targets = |row: &[f32]| row.iter().map(|&weight| u8::from(weight > 0.0)).collect();
        Self {
            tokens: batch.tokens.chunks(columns).map(ids).collect(),
            mask: batch.mask.chunks(columns).map(targets).collect(),
        }
    }
}

/// What the optimizer is made with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWSettings {
    /// Decay of the mean of the gradients.
    pub beta1: f64,
    /// Decay of the mean of their squares.
    pub beta2: f64,
    /// Added to the denominator.
    pub epsilon: f64,
    /// Decoupled weight decay, per unit of learning rate.
    pub weight_decay: f64,
    /// Whether the means are corrected for their start at zero.
    pub bias_correction: bool,
}

/// A prompt to go on with.
#[derive(Debug, Clone, Serialize)]
pub struct GenerateRequest<'request> {
    /// The prompt, at least one token.
    pub tokens: &'request [u32],
    /// Tokens that end an answer.
    pub stop_ids: Vec<u32>,
    /// Tokens of an answer at most.
    pub answer: usize,
    /// Tokens that are decoded in any case.
    pub at_least: usize,
}

/// What the worker says first.
#[derive(Deserialize)]
#[serde(untagged)]
enum First {
    Ready(Greeting),
    Absent { error: Absence },
}

#[derive(Deserialize)]
struct Absence {
    message: String,
}

impl Worker {
    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// There is no python, torch or transformers are not installed, or it does not come up.
    pub fn start(python: &Python, interrupt: &Interrupt) -> Result<Self, WorkerError> {
        Self::start_within(python, interrupt, START, REQUEST)
    }

    /// As [`Self::start`], with other time limits for the greeting and for each request.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_within(
        python: &Python,
        interrupt: &Interrupt,
        start: Duration,
        timeout: Duration,
    ) -> Result<Self, WorkerError> {
        let folder = tempfile::tempdir()?;
        let script = folder.path().join("torch_worker.py");
        std::fs::write(&script, PROGRAM)?;
        let failed = |error| WorkerError::of_process(error, "start", python);
        let mut process = LineProcess::start(Command::new(&python.0).arg(&script), interrupt).map_err(failed)?;
        let line = process.next_line(start).map_err(failed)?;
        let greeting = match serde_json::from_str(&line) {
            Ok(First::Ready(greeting)) => greeting,
            Ok(First::Absent { error }) => {
                return Err(WorkerError::NotInstalled {
                    python: python.name(),
                    found: error.message,
                });
            }
            Err(_) => {
                return Err(WorkerError::Garbled {
                    request: "start",
                    found: line,
                });
            }
        };
        if greeting.protocol != PROTOCOL {
            return Err(WorkerError::OtherProtocol {
                python: python.name(),
                found: greeting.protocol,
                expected: PROTOCOL,
            });
        }
        Ok(Self {
            process,
            python: python.clone(),
            greeting,
            requests: 0,
            timeout,
            folder,
        })
    }

    /// Versions and devices.
    pub fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// Loads a model, in the place of the one there is.
    ///
    /// # Errors
    /// Weights are missing or do not fit, or transformers does not know the model.
    pub fn load(&mut self, request: &LoadRequest) -> Result<LoadedThere, WorkerError> {
        self.call("load", request)
    }

    /// Moves the model to another device; its optimizer begins anew.
    ///
    /// # Errors
    /// There is no such device.
    pub fn to_device(&mut self, device: &str) -> Result<(), WorkerError> {
        #[derive(Deserialize)]
        struct Moved {
            #[serde(rename = "device")]
            _device: String,
        }
        self.call("to_device", &json!({ "device": device })).map(|_: Moved| ())
    }

    /// Puts adapters on the model, in the place of those there are; `tensors` has mlx-lm's names and shapes.
    ///
    /// # Errors
    /// One of them does not fit.
    pub fn attach(
        &mut self,
        tensors: &BTreeMap<String, Array>,
        scale: f32,
        dropout: f32,
    ) -> Result<Attached, WorkerError> {
        let path = self.path("adapters.safetensors");
        save_safetensors(tensors, None, &path)?;
        self.call(
            "attach",
            &json!({ "tensors": path, "scale": scale, "dropout": dropout }),
        )
    }

    /// Takes all adapters off.
    ///
    /// # Errors
    /// The worker failed.
    pub fn detach(&mut self) -> Result<(), WorkerError> {
        self.call("detach", &json!({})).map(|Done {}| ())
    }

    /// The logits of rows of one length, `[rows, length, vocabulary]` in f32.
    ///
    /// # Errors
    /// The worker failed.
    pub fn logits(&mut self, tokens: &[Vec<u32>]) -> Result<Array, WorkerError> {
        let path = self.path("logits.safetensors");
        let written: Logits = self.call("logits", &json!({ "tokens": tokens, "out": path }))?;
        let mut tensors = load_safetensors(&path)?;
        std::fs::remove_file(&path)?;
        tensors.remove("logits").ok_or_else(|| WorkerError::Garbled {
            request: "logits",
            found: format!("no logits {:?}", written.shape),
        })
    }

    /// The mean loss per supervised token in nats; `None` when it is not finite.
    ///
    /// # Errors
    /// The worker failed.
    pub fn loss(&mut self, rows: &Rows) -> Result<Option<f64>, WorkerError> {
        self.call("loss", rows).map(|reply: Loss| reply.loss)
    }

    /// The same loss with its gradient for every adapter tensor in f32, by name.
    ///
    /// # Errors
    /// The worker failed.
    pub fn gradients(&mut self, rows: &Rows) -> Result<(Gradients, BTreeMap<String, Array>), WorkerError> {
        let path = self.path("gradients.safetensors");
        let reply = self.call(
            "gradients",
            &json!({ "tokens": rows.tokens, "mask": rows.mask, "out": path }),
        )?;
        let tensors = load_safetensors(&path)?;
        std::fs::remove_file(&path)?;
        Ok((reply, tensors))
    }

    /// The same as a training step wants it: with dropout, and the gradients kept for [`Self::step`].
    ///
    /// # Errors
    /// The worker failed.
    pub fn training_gradients(&mut self, rows: &Rows) -> Result<Gradients, WorkerError> {
        self.call(
            "gradients",
            &json!({ "tokens": rows.tokens, "mask": rows.mask, "training": true }),
        )
    }

    /// Makes an optimizer for the adapters, with fresh moments.
    ///
    /// # Errors
    /// There are no adapters.
    pub fn create_optimizer(&mut self, settings: &AdamWSettings) -> Result<(), WorkerError> {
        let parameters = json!({
            "beta1": settings.beta1,
            "beta2": settings.beta2,
            "epsilon": settings.epsilon,
            "weight_decay": settings.weight_decay,
            "bias_correction": settings.bias_correction,
        });
        self.call("create_optimizer", &parameters).map(|Done {}| ())
    }

    /// Makes one update with the gradients that were computed last; returns how many there were.
    ///
    /// # Errors
    /// There is no optimizer, or there are no gradients.
    pub fn step(&mut self, learning_rate: f64, clip_norm: Option<f32>) -> Result<u64, WorkerError> {
        self.call(
            "step",
            &json!({ "learning_rate": learning_rate, "clip_norm": clip_norm }),
        )
        .map(|reply: Stepped| reply.updates)
    }

    /// Decodes greedily after a prompt.
    ///
    /// # Errors
    /// The worker failed.
    pub fn generate(&mut self, request: &GenerateRequest) -> Result<Decoded, WorkerError> {
        self.call("generate", request)
    }

    /// The most memory that its process held so far, in bytes; that of a GPU is not counted.
    ///
    /// # Errors
    /// The worker failed.
    pub fn peak_memory(&mut self) -> Result<u64, WorkerError> {
        self.call("memory", &json!({})).map(|reply: Memory| reply.peak)
    }

    /// The adapters as they are now, under mlx-lm's names.
    ///
    /// # Errors
    /// There are none.
    pub fn adapters(&mut self) -> Result<BTreeMap<String, Array>, WorkerError> {
        self.saved("save")
    }

    /// The weights below the adapters as they are now, under their names in the folder that was loaded.
    ///
    /// # Errors
    /// There is no model.
    pub fn base(&mut self) -> Result<BTreeMap<String, Array>, WorkerError> {
        self.saved("save_base")
    }

    fn saved(&mut self, request: &'static str) -> Result<BTreeMap<String, Array>, WorkerError> {
        let path = self.path("saved.safetensors");
        let written: Saved = self.call(request, &json!({ "out": path }))?;
        let tensors = load_safetensors(&path)?;
        std::fs::remove_file(&path)?;
        if tensors.len() == written.tensors {
            Ok(tensors)
        } else {
            Err(WorkerError::Garbled {
                request,
                found: format!("{} of {} tensors", tensors.len(), written.tensors),
            })
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn call<T: DeserializeOwned>(
        &mut self,
        request: &'static str,
        parameters: &impl Serialize,
    ) -> Result<T, WorkerError> {
        self.requests += 1;
        let line = json!({ "id": self.requests, "method": request, "parameters": parameters }).to_string();
        self.process.send(&line);
        let answer = self
            .process
            .next_line(self.timeout)
            .map_err(|error| WorkerError::of_process(error, request, &self.python))?;
        let garbled = || WorkerError::Garbled {
            request,
            found: answer.clone(),
        };
        let reply: Reply = serde_json::from_str(&answer).map_err(|_| garbled())?;
        match reply {
            Reply { id, .. } if id != Some(self.requests) => Err(garbled()),
            Reply {
                error: Some(refusal), ..
            } => Err(WorkerError::Refused {
                request,
                kind: refusal.kind,
                message: refusal.message,
            }),
            Reply {
                result: Some(result), ..
            } => serde_json::from_value(result).map_err(|_| garbled()),
            Reply { .. } => Err(garbled()),
        }
    }
}
