//! The loop of a run: updates, measurements, checkpoints, and the reasons to end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::module::update_parameters;
use mlx_rs::transforms::eval;

use super::checkpoint::{Progress, RunCheckpoint};
use super::error::FineTuningError;
use super::guards::{Guards, Verdict};
use super::metrics::{MetricsFile, MetricsLine, ValidationRecord};
use super::plan::Plan;
use super::run_folder::RunFolder;
use super::settings::Method;
use crate::adapter::{attached_modules, save_adapter};
use crate::atomic_write::replace_file;
use crate::data::{Batch, Batches};
use crate::diagnosis::StepRecorder;
use crate::distributed::{Ranks, RanksRecorder};
use crate::evidence::{Evidence, StepRecord};
use crate::interrupt::Interrupt;
use crate::model::{
    CausalModel, ConversionSettings, WeightType, folder_settings, load_safetensors, save_safetensors, try_folder,
    write_model_folder,
};
use crate::param_snapshot::ParameterSnapshot;
use crate::train::{
    CompiledLoss, DataParallel, Lanes, LossScale, Others, StoredOptimizer, TrainSettings, Trainer, TrainingOutcome,
    TrainingStep, UpdateOutcome, loss_and_gradients, mean_loss, recomputed_loss_and_gradients,
    scaled_loss_and_gradients,
};

/// Takes notice of a run.
pub trait Observer {
    /// An update was made.
    fn updated(&mut self, step: &StepRecord, progress: &Progress, plan: &Plan);
    /// Held-out rows were measured.
    fn validated(&mut self, record: &ValidationRecord, is_best: bool);
    /// A checkpoint was written.
    fn saved(&mut self, checkpoint: &Path);
    /// Something worth saying.
    fn note(&mut self, text: &str);
}

/// How a run ended.
#[derive(Debug)]
pub enum RunEnd {
    /// All updates were made.
    Completed,
    /// Held-out rows got no better; the best values were kept.
    StoppedEarly,
    /// The user ended it; it can be resumed.
    Interrupted,
    /// The rule book ended it.
    Diagnosed(Box<Evidence>),
    /// The first process of several ended it, and says why.
    EndedByFirst,
}

/// What a run came to.
#[derive(Debug)]
pub struct RunSummary {
    /// How it ended.
    pub end: RunEnd,
    /// Where it is.
    pub progress: Progress,
    /// Every line of figures, those of a resumed run's beginning among them.
    pub metrics: Vec<MetricsLine>,
    /// Highest memory that MLX held, in bytes; `None` where nothing was left to be trained.
    pub peak_memory: Option<u64>,
    /// The folder of the trained adapter or model.
    pub result: PathBuf,
}

/// Looks at several processes that are judged, the latest ones: what goes wrong late is not hidden by what went well before.
const LOOKS_JUDGED: usize = 100;
/// Updates at the beginning of a run after each of which several processes are looked at.
const FIRST_LOOKS: usize = 5;
/// Factor on the loss that 16-bit training begins with, as in PyTorch's `GradScaler`.
const FIRST_LOSS_SCALE: f64 = 65536.0;
/// Distance between the random seeds of two runs whose own seeds are neighbours: room for 256 processes.
const RANDOM_STRIDE: u64 = 1 << 40;
/// Distance between the random seeds of two processes of a run: more batches than any run draws.
const RANK_STRIDE: u64 = 1 << 32;

/// A run that is going on.
struct Run<'run> {
    plan: &'run Plan,
    folder: &'run RunFolder,
    model: CausalModel,
    optimizer: Box<dyn StoredOptimizer>,
    lanes: Lanes,
    compiled: Option<CompiledLoss>,
    loss_scale: Option<LossScale>,
    progress: Progress,
    /// `None` where another process writes.
    metrics_file: Option<MetricsFile>,
    metrics: Vec<MetricsLine>,
    guards: Option<Guards>,
    observer: &'run mut dyn Observer,
    interrupt: &'run Interrupt,
    ranks: Option<&'run Ranks>,
    recorder: Option<RanksRecorder<'run>>,
}

/// Runs `plan` in `folder`, from the beginning or from a checkpoint; `before` is what was known before training, for the
/// guards.
///
/// With `ranks`, several processes make the same updates from the same plan, each from rows of its own: the first of them
/// measures the rest, judges and writes, and all end when one does.
pub fn run(
    plan: &Plan,
    folder: &RunFolder,
    checkpoint: Option<RunCheckpoint>,
    before: Option<Evidence>,
    observer: &mut dyn Observer,
    interrupt: &Interrupt,
    ranks: Option<&Ranks>,
) -> Result<RunSummary, FineTuningError> {
    let mut model = plan.model.clone();
    let mut optimizer = plan.settings.optimizer.build(plan.settings.decay_scope);
    let guards = before.map(|evidence| {
        let adapted = (plan.settings.method != Method::Full).then(|| attached_modules(&model));
        Guards::new(evidence, &plan.loaded.model, &model, adapted)
    });
    let progress = match checkpoint {
        None => Progress::default(),
        Some(checkpoint) => restore(&mut model, &mut *optimizer, checkpoint)?,
    };
    let recorder = ranks
        .map(|ranks| begin_alike(ranks, &mut model, &*optimizer, progress.update))
        .transpose()?;
    let was_over = plan.is_over(&progress);
    let (metrics_file, metrics) = if Ranks::leads(ranks) {
        let (file, metrics) = MetricsFile::resume(&folder.metrics(), progress.update)?;
        (Some(file), metrics)
    } else {
        (None, Vec::new())
    };
    if metrics_file.is_some()
        && let Some(note) = missing_figures(&metrics, progress.update)
    {
        observer.note(&note);
    }
    let is_half = plan.environment.dtype == "float16";
    let loss_scale = is_half.then(|| {
        let factor = progress.loss_scale.unwrap_or(FIRST_LOSS_SCALE);
        LossScale::new(factor, progress.updates_at_loss_scale)
    });
    let mut run = Run {
        lanes: plan.backend.lanes(),
        compiled: plan.settings.compile.then(|| CompiledLoss::new(&model)),
        plan,
        folder,
        model,
        optimizer,
        loss_scale,
        progress,
        metrics_file,
        metrics,
        guards,
        observer,
        interrupt,
        ranks,
        recorder,
    };
    mlx_rs::memory::reset_peak_memory()?;
    let end = run.updates()?;
    let peak_memory = mlx_rs::memory::peak_memory()? as u64;
    run.finish(end, (!was_over).then_some(peak_memory))
}

/// Lets every process begin with the values of the first, and refuses those that go on from something else; records what each does
/// from then on.
fn begin_alike<'run>(
    ranks: &'run Ranks,
    model: &mut CausalModel,
    optimizer: &dyn StoredOptimizer,
    updates: usize,
) -> Result<RanksRecorder<'run>, FineTuningError> {
    ranks.agree("checkpoint", updates as u32)?;
    ranks.agree_on_bits("state of the optimizer", &optimizer.stored())?;
    let of_first = ranks.of_first(&ParameterSnapshot::capture_trainable(model).into_parameters())?;
    put(model, &of_first)?;
    ranks.agree_on_bits("values to be trained", &of_first)?;
    Ok(RanksRecorder::begin(
        ranks,
        &ParameterSnapshot::capture_trainable(model),
    )?)
}

/// What is said where the figures of updates that were made are lost.
fn missing_figures(metrics: &[MetricsLine], updates: usize) -> Option<String> {
    let known = metrics.iter().filter(|line| matches!(line, MetricsLine::Update(_)));
    let lost = updates.saturating_sub(known.count());
    (lost > 0).then(|| format!("metrics.jsonl lacks the figures of {lost} of the {updates} updates that were made"))
}

/// Whether it is looked at what every process does in an update: in the first ones, and then as often as figures are reported. All
/// gradients and trained values are read for it.
fn is_looked_at(update: usize, report_every: usize) -> bool {
    update <= FIRST_LOOKS || update.is_multiple_of(report_every)
}

/// Puts what a checkpoint holds in the place of fresh values.
fn restore(
    model: &mut CausalModel,
    optimizer: &mut dyn StoredOptimizer,
    checkpoint: RunCheckpoint,
) -> Result<Progress, FineTuningError> {
    put(model, &checkpoint.parameters)?;
    optimizer.restore(
        checkpoint.optimizer_updates,
        &checkpoint.parameters,
        checkpoint.optimizer_state,
    )?;
    Ok(checkpoint.progress)
}

/// Replaces exactly the trained values of `model`.
fn put(model: &mut CausalModel, parameters: &BTreeMap<String, Array>) -> Result<(), FineTuningError> {
    let own = ParameterSnapshot::capture_trainable(model).into_parameters();
    let differs = |name: &&String| match (own.get(*name), parameters.get(*name)) {
        (Some(own), Some(stored)) => own.shape() != stored.shape() || own.dtype() != stored.dtype(),
        _ => true,
    };
    if let Some(found) = own.keys().chain(parameters.keys()).find(differs) {
        return Err(FineTuningError::OtherParameters { found: found.clone() });
    }
    update_parameters(
        model,
        parameters
            .iter()
            .map(|(name, value)| (Rc::from(name.as_str()), value.clone())),
    );
    Ok(())
}

impl Run<'_> {
    fn updates(&mut self) -> Result<RunEnd, FineTuningError> {
        let settings = &self.plan.settings;
        let examples = &self.plan.train.examples;
        let mut batches = match &self.progress.data {
            None => Batches::with_settings(examples, settings.batches())?,
            Some(state) => Batches::from_state(examples, settings.batches(), state)?,
        };
        if self.progress.has_lost_patience(settings.early_stopping) {
            return Ok(RunEnd::StoppedEarly);
        }
        if self.progress.update == 0 {
            self.validate()?;
        }
        while self.progress.update < self.plan.updates {
            if self.is_interrupted()? {
                self.save(&batches)?;
                return Ok(RunEnd::Interrupted);
            }
            let update = self.progress.update + 1;
            let group: Vec<Batch> = batches.by_ref().take(self.plan.batches_of(update)).collect();
            let outcome = self.update(&group, update)?;
            self.progress.batches += group.len();
            match outcome {
                UpdateOutcome::Updated(step) => self.record(&step)?,
                UpdateOutcome::NotFinite { loss: false, .. } if self.lower_loss_scale() => continue,
                UpdateOutcome::NotFinite { loss, gradients } => {
                    let rows = group.iter().flat_map(Batch::examples).map(|row| row + 1).collect();
                    return self.not_finite(update, loss, gradients, rows);
                }
            }
            let is_last = update == self.plan.updates;
            if (update.is_multiple_of(settings.validation.every) || is_last) && self.validate()? {
                self.save(&batches)?;
                return Ok(RunEnd::StoppedEarly);
            }
            if (update.is_multiple_of(settings.report_every) || is_last)
                && let Some(end) = self.judge(None)?
            {
                return Ok(end);
            }
            if update.is_multiple_of(settings.save_every) || is_last {
                self.save(&batches)?;
            }
        }
        Ok(RunEnd::Completed)
    }

    /// Whether this process writes, alone or for all.
    fn writes(&self) -> bool {
        Ranks::leads(self.ranks)
    }

    /// Whether the user of any process wants to stop.
    fn is_interrupted(&self) -> Result<bool, Exception> {
        let own = self.interrupt.is_requested();
        self.ranks.map_or(Ok(own), |ranks| ranks.any(own))
    }

    fn update(&mut self, group: &[Batch], update: usize) -> Result<UpdateOutcome, FineTuningError> {
        let settings = &self.plan.settings;
        // What dropout drops follows from the seed and the batches drawn: a resumed run drops the same.
        let drawn = self.progress.batches as u64;
        let rank = self.ranks.map_or(0, Ranks::rank) as u64;
        let of_rank = settings
            .seed
            .wrapping_mul(RANDOM_STRIDE)
            .wrapping_add(rank * RANK_STRIDE);
        mlx_rs::random::seed(of_rank.wrapping_add(drawn))?;
        self.model.set_training(true);
        let scale = self.loss_scale.as_ref().map(LossScale::factor);
        // A raised loss is not compiled: 16 bits are for GPUs, where it gains little.
        let compiled = self.compiled.as_ref().filter(|_| scale.is_none());
        let mut trainer = Trainer {
            optimizer: &mut *self.optimizer,
            loss: &|model, batch, lanes| match (compiled, scale) {
                _ if settings.checkpoint_blocks => recomputed_loss_and_gradients(model, batch, scale.unwrap_or(1.0)),
                (Some(compiled), _) => compiled.loss_and_gradients(model, batch),
                (None, None) => loss_and_gradients(model, batch, lanes),
                (None, Some(scale)) => scaled_loss_and_gradients(model, batch, lanes, scale),
            },
            lanes: std::mem::replace(&mut self.lanes, Lanes::single()),
            others: self.ranks.map(|ranks| Others {
                processes: ranks,
                wants_share: is_looked_at(update, settings.report_every),
            }),
            settings: TrainSettings {
                steps: self.plan.updates,
                schedule: settings.schedule.of_run(settings.learning_rate, self.plan.updates),
                clip_norm: settings.clip_norm,
            },
            interrupt: self.interrupt,
        };
        let outcome = trainer.update(&mut self.model, group, update);
        self.lanes = trainer.lanes;
        self.model.set_training(false);
        Ok(outcome?)
    }

    /// Files an update that was made.
    fn record(&mut self, step: &TrainingStep) -> Result<(), FineTuningError> {
        self.progress.update = step.step;
        self.progress.tokens += step.tokens as u64;
        self.progress.seconds += step.seconds;
        if let Some(scale) = &mut self.loss_scale {
            scale.updated();
        }
        if let Some(guards) = &mut self.guards {
            guards.record(step);
        }
        let record = StepRecorder::record_of(step, 0);
        self.observer.updated(&record, &self.progress, self.plan);
        self.file(MetricsLine::Update(record))?;
        self.record_ranks(step)
    }

    /// Hears what every process did, in an update that is looked at.
    fn record_ranks(&mut self, step: &TrainingStep) -> Result<(), FineTuningError> {
        let Some(recorder) = self.recorder.as_ref().filter(|_| step.share.is_some()) else {
            return Ok(());
        };
        let Some(ranks) = recorder.record(step, &ParameterSnapshot::capture_trainable(&self.model))? else {
            return Ok(());
        };
        if let Some(guards) = &mut self.guards {
            guards.hear_of(recorder.latest(LOOKS_JUDGED));
        }
        self.file(MetricsLine::Ranks(ranks))
    }

    fn file(&mut self, line: MetricsLine) -> Result<(), FineTuningError> {
        if let Some(file) = &mut self.metrics_file {
            file.append(&line)?;
        }
        self.metrics.push(line);
        Ok(())
    }

    /// Whether an overflow of 16 bits was answered with a smaller loss scale.
    fn lower_loss_scale(&mut self) -> bool {
        let lowered = self.loss_scale.as_mut().is_some_and(LossScale::lower);
        if lowered {
            let factor = self.loss_scale.as_ref().map_or(1.0, LossScale::factor);
            let note =
                format!("a gradient overflowed 16 bits: the loss scale is now {factor}, and the batch is passed over");
            self.observer.note(&note);
        }
        lowered
    }

    /// Measures held-out rows; returns whether the run should end because they get no better.
    fn validate(&mut self) -> Result<bool, FineTuningError> {
        let Some(rows) = &self.plan.validation else {
            return Ok(false);
        };
        let started = Instant::now();
        let settings = &self.plan.settings;
        let limit = settings.validation.batches.unwrap_or(usize::MAX);
        let (mut total, mut tokens) = (0.0, 0);
        let batches = Batches::in_order(&rows.examples, settings.batch_size);
        let count = batches.per_epoch().min(limit);
        for batch in batches.take(count) {
            let batch = match self.ranks {
                Some(ranks) => ranks.own_rows(&batch),
                None => batch,
            };
            let supervised = batch.supervised_tokens();
            if supervised > 0 {
                total += mean_loss(&self.model, &batch, &self.lanes)? * supervised as f64;
                tokens += supervised;
            }
        }
        if let Some(ranks) = self.ranks {
            let sums = ranks.sum(&[total as f32, tokens as f32])?;
            (total, tokens) = (f64::from(sums[0]), sums[1] as usize);
        }
        if tokens == 0 {
            return Ok(false);
        }
        let record = ValidationRecord {
            update: self.progress.update,
            loss: total / tokens as f64,
            tokens,
            seconds: started.elapsed().as_secs_f64(),
        };
        let is_best = self.is_best(record.loss)?;
        self.observer.validated(&record, is_best);
        self.file(MetricsLine::Validation(record))?;
        Ok(self.progress.has_lost_patience(settings.early_stopping))
    }

    /// Compares a loss with the best one; keeps the values where the run may end early.
    fn is_best(&mut self, loss: f64) -> Result<bool, FineTuningError> {
        let stopping = self.plan.settings.early_stopping;
        let least = stopping.map_or(0.0, |stopping| stopping.least_improvement);
        let is_best = self.progress.best.is_none_or(|(_, best)| loss < best - least);
        if !is_best {
            self.progress.worse_in_a_row += 1;
            return Ok(false);
        }
        self.progress.best = Some((self.progress.update, loss));
        self.progress.worse_in_a_row = 0;
        if stopping.is_some() && self.writes() {
            let parameters = ParameterSnapshot::capture_trainable(&self.model).into_parameters();
            replace_file(&self.folder.best(), |path| save_safetensors(&parameters, None, path))?;
        }
        Ok(true)
    }

    fn judge(&mut self, outcome: Option<TrainingOutcome>) -> Result<Option<RunEnd>, FineTuningError> {
        let verdict = match &mut self.guards {
            None => Verdict::GoOn,
            Some(guards) => guards.judge(&self.model, &*self.optimizer, outcome)?,
        };
        let own = match verdict {
            Verdict::GoOn => None,
            Verdict::Stop(evidence) => Some(RunEnd::Diagnosed(evidence)),
        };
        let Some(ranks) = self.ranks else {
            return Ok(own);
        };
        let ends = ranks.any(own.is_some())?;
        Ok(ends.then(|| own.unwrap_or(RunEnd::EndedByFirst)))
    }

    /// Ends a run that met a number that is not finite; without guards it is an error.
    fn not_finite(
        &mut self,
        step: usize,
        loss: bool,
        gradients: Vec<String>,
        rows: Vec<usize>,
    ) -> Result<RunEnd, FineTuningError> {
        let what = if loss {
            "the loss is not finite"
        } else {
            "a gradient is not finite"
        };
        let outcome = TrainingOutcome::NotFinite {
            step,
            loss,
            gradients,
            rows,
        };
        match self.judge(Some(outcome))? {
            Some(end) => Ok(end),
            None => Err(FineTuningError::NotFinite { step, what }),
        }
    }

    /// Writes a checkpoint, and goes on with exactly what is in it.
    fn save(&mut self, batches: &Batches<'_>) -> Result<(), FineTuningError> {
        self.progress.data = Some(batches.state());
        if let Some(scale) = &self.loss_scale {
            self.progress.loss_scale = Some(scale.factor());
            self.progress.updates_at_loss_scale = scale.updates();
        }
        let contiguous = |arrays: BTreeMap<String, Array>| -> Result<BTreeMap<String, Array>, Exception> {
            let arrays = arrays.into_iter();
            arrays.map(|(name, array)| Ok((name, array.contiguous()?))).collect()
        };
        // A file knows no strides. Products may round otherwise over other strides, so the run goes on without them too.
        let checkpoint = RunCheckpoint {
            progress: self.progress.clone(),
            parameters: contiguous(ParameterSnapshot::capture_trainable(&self.model).into_parameters())?,
            optimizer: self.optimizer.name().to_owned(),
            optimizer_updates: self.optimizer.step_count(),
            optimizer_state: contiguous(self.optimizer.stored())?,
        };
        eval(
            checkpoint
                .parameters
                .values()
                .chain(checkpoint.optimizer_state.values()),
        )?;
        if let Some(ranks) = self.ranks {
            // Processes that have drifted apart keep nothing.
            ranks.agree_on_bits("trained values", &checkpoint.parameters)?;
        }
        let kept = self.plan.settings.keep_checkpoints;
        let written = self
            .writes()
            .then(|| checkpoint.write(&self.folder.checkpoints(), kept))
            .transpose()?;
        restore(&mut self.model, &mut *self.optimizer, checkpoint)?;
        if let Some(written) = written {
            self.observer.saved(&written);
        }
        Ok(())
    }

    /// Leaves the result where it is looked for.
    fn finish(mut self, end: RunEnd, peak_memory: Option<u64>) -> Result<RunSummary, FineTuningError> {
        for line in self.guards.as_ref().map_or_else(Vec::new, Guards::of_ranks) {
            self.observer.note(&line);
        }
        let result = if self.writes() {
            self.write_result()?
        } else {
            self.folder.path().to_owned()
        };
        Ok(RunSummary {
            end,
            progress: self.progress,
            metrics: self.metrics,
            peak_memory,
            result,
        })
    }

    fn write_result(&mut self) -> Result<PathBuf, FineTuningError> {
        let settings = &self.plan.settings;
        if settings.early_stopping.is_some() && self.folder.best().is_file() {
            put(&mut self.model, &load_safetensors(&self.folder.best())?)?;
        }
        match settings.method {
            Method::Lora | Method::Dora => {
                save_adapter(&self.model, &settings.lora, &settings.model, self.folder.path())?;
                Ok(self.folder.path().to_owned())
            }
            Method::Full => self.write_whole_model(),
        }
    }
}

impl Run<'_> {
    /// Writes the trained weights as a folder that other programs load, and returns it.
    fn write_whole_model(&self) -> Result<PathBuf, FineTuningError> {
        let folder = self.folder.model();
        if folder.exists() {
            // Of the same run, which was resumed after its end.
            std::fs::remove_dir_all(&folder).map_err(|source| FineTuningError::Write {
                path: folder.clone(),
                source,
            })?;
        }
        let Plan { files, loaded, .. } = self.plan;
        let dtype = [WeightType::Float32, WeightType::Bfloat16, WeightType::Float16]
            .into_iter()
            .find(|dtype| dtype.name() == self.plan.environment.dtype)
            .unwrap_or(WeightType::Float32);
        let settings = ConversionSettings {
            dtype: Some(dtype),
            packing: None,
            dequantize: true,
        };
        let fields = folder_settings(files, &loaded.configuration, &loaded.packings, &settings)?;
        let tensors = ParameterSnapshot::capture(&self.model).into_parameters();
        write_model_folder(files, fields, &tensors, &folder, |path| try_folder(path, dtype.dtype()))?;
        Ok(folder)
    }
}
