//! This program as a contestant.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::os::unix::process::parent_id;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use mlx_rs::Array;
use mlx_rs::module::update_parameters;
use serde_json::{Value, json};

use super::protocol::{
    Answered, Asked, Decoded, Greeting, Job, Loaded, Memory, PROTOCOL, Prefilled, Purpose, Refusal, Trained,
};
use crate::adapter::{LoraSettings, attach};
use crate::data::{Batch, Example};
use crate::device::{Backend, PrecisionChoice, dtype_named};
use crate::engine::{EngineSettings, Request};
use crate::interrupt::Interrupt;
use crate::memory::{MlxMemory, process_memory};
use crate::model::{CausalModel, HubSettings, LoadedModel, ModelSource, TemplateChoice};
use crate::param_snapshot::ParameterSnapshot;
use crate::serving::ServedModel;
use crate::train::{AdamW, AdamWSettings, Schedule, TrainSettings, Trainer, UpdateOutcome, loss_and_gradients};

/// How often the parent is looked for.
const LOOK: Duration = Duration::from_secs(1);

/// The model, as the job needs it.
enum Held {
    Nothing,
    Trainable(Box<LoadedModel>),
    Served(ServedModel),
}

/// Answers jobs until the input ends.
///
/// # Errors
/// Input or output are broken.
pub fn serve_jobs(input: impl BufRead, mut output: impl Write) -> Result<()> {
    let backend = Backend::select();
    let greeting = Greeting {
        protocol: PROTOCOL,
        versions: BTreeMap::from([
            ("mlx-diagnose".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            (
                "mlx".to_owned(),
                mlx_sys::backend::version().unwrap_or_else(|| "unknown".to_owned()),
            ),
        ]),
        devices: vec![backend.name().to_owned()],
        libraries: Vec::new(),
    };
    let mut say = |line: &Value| writeln!(output, "{line}").and_then(|()| output.flush());
    say(&json!(greeting))?;
    let mut held = Held::Nothing;
    for line in input.lines() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let answered = match serde_json::from_str::<Asked>(&line) {
            Ok(Asked { id, job }) => match held.does(backend, job) {
                Ok(result) => answer(Some(id), Some(result), None),
                Err(error) => answer(Some(id), None, Some(("failed", format!("{error:#}")))),
            },
            Err(error) => answer(None, None, Some(("request", format!("no job: {error}")))),
        };
        say(&json!(answered))?;
    }
    Ok(())
}

/// Ends the process when its parent does, whatever it computes.
pub fn end_with_parent(exit: fn()) {
    let parent = parent_id();
    std::thread::spawn(move || {
        while parent_id() == parent {
            std::thread::sleep(LOOK);
        }
        exit();
    });
}

fn answer(id: Option<u64>, result: Option<Value>, error: Option<(&str, String)>) -> Answered {
    Answered {
        id,
        result,
        error: error.map(|(kind, message)| Refusal {
            kind: kind.to_owned(),
            message,
        }),
    }
}

impl Held {
    fn does(&mut self, backend: Backend, job: Job) -> Result<Value> {
        Ok(match job {
            Job::Load {
                model, dtype, purpose, ..
            } => {
                *self = Self::load(&model, &dtype, purpose, backend)?;
                json!(Loaded {})
            }
            Job::Training {
                rows,
                rank,
                scale,
                learning_rate,
                steps,
                slow,
            } => {
                let settings = LoraSettings {
                    rank,
                    scale,
                    ..LoraSettings::default()
                };
                let limits = Limits {
                    learning_rate,
                    steps,
                    slow,
                };
                json!(train(&mut self.trainable()?.model, &rows, &settings, &limits, backend)?)
            }
            Job::Prefill { prompt } => {
                let (decoded, _) = decode(self.served()?, vec![prompt], 1)?;
                let token = decoded.tokens.first().and_then(|tokens| tokens.first());
                json!(Prefilled {
                    seconds: decoded.to_first,
                    token: *token.ok_or_else(|| anyhow!("there was no token"))?,
                })
            }
            Job::Decode { prompts, new } => {
                let (decoded, reused) = decode(self.served()?, prompts, new)?;
                if reused > 0 {
                    return Err(anyhow!("{reused} tokens of the prompts were known from before"));
                }
                json!(decoded)
            }
            Job::Memory => json!(Memory {
                resident: process_memory()
                    .peak
                    .ok_or_else(|| anyhow!("the system does not tell the memory of a process"))?,
                framework: Some(MlxMemory::read()?.peak),
            }),
        })
    }

    fn load(model: &Path, dtype: &str, purpose: Purpose, backend: Backend) -> Result<Self> {
        let shown = model.to_string_lossy();
        let source = ModelSource::resolve(&shown, &HubSettings::from_environment(), &mut |_| {})?;
        let files = source.open()?;
        if purpose == Purpose::Generation {
            let settings = EngineSettings::default();
            let served = ServedModel::start(files, &BTreeMap::new(), TemplateChoice::Own, backend, settings)?;
            decode(&served, vec![vec![0]], 1)?;
            return Ok(Self::Served(served));
        }
        let dtype = dtype_named(dtype).ok_or_else(|| anyhow!("there is no element type `{dtype}`"))?;
        let configuration = files.configuration()?;
        let choice = PrecisionChoice {
            dtype: Some(dtype),
            keep_packed: false,
        };
        let precision = backend.precision(&configuration, choice);
        let loaded = files.load(configuration, precision)?;
        loaded.model.logits(&Array::from_slice(&[0], &[1, 1]))?.eval()?;
        Ok(Self::Trainable(Box::new(loaded)))
    }

    fn trainable(&mut self) -> Result<&mut LoadedModel> {
        match self {
            Self::Trainable(loaded) => Ok(loaded),
            Self::Nothing | Self::Served(_) => Err(anyhow!("no model was loaded for training")),
        }
    }

    fn served(&self) -> Result<&ServedModel> {
        match self {
            Self::Served(served) => Ok(served),
            Self::Nothing | Self::Trainable(_) => Err(anyhow!("no model was loaded for answers")),
        }
    }
}

struct Limits {
    learning_rate: f64,
    steps: usize,
    slow: f64,
}

fn train(
    model: &mut CausalModel,
    rows: &[Vec<u32>],
    settings: &LoraSettings,
    limits: &Limits,
    backend: Backend,
) -> Result<Trained> {
    attach(model, settings, 0)?;
    begin_alike(model)?;
    let examples: Vec<Example> = rows.iter().map(|row| Example::of_tokens(row.clone())).collect();
    let places: Vec<usize> = (0..examples.len()).collect();
    let batch = Batch::new(&examples, &places);
    let mut optimizer = AdamW::new(AdamWSettings {
        bias_correction: true,
        ..AdamWSettings::MLX
    });
    let mut trainer = Trainer {
        optimizer: &mut optimizer,
        loss: &loss_and_gradients,
        lanes: backend.lanes(),
        others: None,
        settings: TrainSettings {
            steps: limits.steps,
            schedule: Schedule::constant(limits.learning_rate),
            clip_norm: None,
        },
        interrupt: &Interrupt::default(),
    };
    let mut taken = Trained {
        losses: Vec::new(),
        seconds: Vec::new(),
        tokens: 0,
    };
    model.set_training(true);
    for step in 1..=limits.steps {
        match trainer.update(model, std::slice::from_ref(&batch), step)? {
            UpdateOutcome::Updated(done) => {
                taken.losses.push(f64::from(done.loss));
                taken.seconds.push(done.seconds);
                taken.tokens = done.supervised_tokens;
                if done.seconds >= limits.slow {
                    break;
                }
            }
            UpdateOutcome::NotFinite { .. } => return Err(anyhow!("step {step} is not finite")),
        }
    }
    Ok(taken)
}

/// Gives every adapter the start that the other contestants give theirs, of `lora_a` in `bench_worker.py`.
fn begin_alike(model: &mut CausalModel) -> Result<()> {
    let trained = ParameterSnapshot::capture_trainable(model).into_parameters();
    let starts = trained
        .into_iter()
        .filter(|(name, _)| name.ends_with(".lora_a"))
        .map(|(name, value)| {
            let &[inputs, rank] = value.shape() else {
                return Err(anyhow!("`{name}` is no matrix"));
            };
            let values: Vec<f32> = (0..inputs as u64 * rank as u64)
                .map(|place| start(place, inputs as u64))
                .collect();
            let start = Array::from_slice(&values, &[inputs, rank]).as_dtype(value.dtype())?;
            Ok((Rc::from(name), start))
        })
        .collect::<Result<Vec<_>>>()?;
    update_parameters(model, starts);
    Ok(())
}

/// A number within one over the root of `inputs` that looks random and is the same in every language.
fn start(place: u64, inputs: u64) -> f32 {
    const RANGE: u64 = 1 << 32;
    let mut mixed = place * 2_654_435_761 % RANGE;
    mixed = (mixed ^ (mixed >> 16)) * 0x45D_9F3B % RANGE;
    mixed ^= mixed >> 16;
    ((mixed as f64 / RANGE as f64 * 2.0 - 1.0) / (inputs as f64).sqrt()) as f32
}

/// Answers prompts at one time; also says how many of their tokens were not read anew.
fn decode(served: &ServedModel, prompts: Vec<Vec<u32>>, new: usize) -> Result<(Decoded, usize)> {
    let begun = Instant::now();
    let asked = prompts
        .into_iter()
        .map(|prompt| served.engine.submit(Request::greedy(prompt, new)));
    let mut decoded = Decoded {
        seconds: 0.0,
        to_first: 0.0,
        tokens: Vec::new(),
    };
    let mut reused = 0;
    for answer in asked.collect::<Result<Vec<_>, _>>()? {
        let answer = answer.complete().context("an answer broke off")?;
        let usage = answer.finished.usage;
        decoded.to_first = decoded.to_first.max(usage.to_first_token.as_secs_f64());
        decoded.tokens.push(answer.tokens);
        reused += usage.reused_tokens;
    }
    decoded.seconds = begun.elapsed().as_secs_f64();
    Ok((decoded, reused))
}

#[cfg(test)]
mod tests {
    use super::start;

    /// The numbers are those of `lora_a(576, 8)` in `scripts/peers/bench_worker.py`.
    #[test]
    fn adapters_begin_as_in_python() {
        let found: Vec<f32> = [0, 1, 2, 4607].map(|place| start(place, 576)).to_vec();
        assert_eq!(found, PYTHON);
    }

    const PYTHON: [f32; 4] = [-0.041_666_668, -0.009_321_894_5, -0.028_811_073, 0.031_392_4];
}
