use std::cmp::Reverse;
use std::path::{Path, PathBuf};
use std::time::Instant;

use thiserror::Error;

use super::costs::Costs;
use super::phases::{Run, Subject};
use super::run::nothing_measured;
use crate::adapter::{AdapterFileError, AdapterFormat, ConvertError, StoredAdapter, TargetFormat, convert};
use crate::evidence::{
    AdapterEvidence, CellAnswer, CellState, Evidence, FitComparison, GenerationEvidence, Party, ReferenceRun, Slot,
    SwapCell, SwapEvidence, alike,
};
use crate::external::{ExternalGenerator, GeneratorError, Question};
use crate::model::CausalModel;
use crate::probes::generator_readings::ReadingProbe;
use crate::probes::repetition;
use crate::rules::Phase;
use crate::temporary_folder::TemporaryFolder;

/// Tokens by which a text that was cut may be shorter when it is counted anew: its last word can be half a token.
const RECOUNT_SLACK: usize = 2;
/// Why another program's generator was not asked.
const LEFT_NOTHING: &str = "the other trainer left no adapter that can be used";

/// A trainer's row of the two-by-two.
struct Row {
    trainer: Party,
    model: Option<CausalModel>,
    /// Where its adapter lies; the reason when there is none.
    adapter: Result<PathBuf, String>,
    /// The engine's answers.
    answers: Slot<Vec<CellAnswer>>,
}

impl Row {
    fn cell(&self, generator: Party, answers: Slot<Vec<CellAnswer>>) -> SwapCell {
        SwapCell {
            trainer: self.trainer,
            generator,
            answers,
        }
    }
}

#[derive(Debug, Error)]
enum SwapError {
    #[error(transparent)]
    Generator(#[from] GeneratorError),
    #[error(transparent)]
    File(#[from] AdapterFileError),
    #[error(transparent)]
    Convert(#[from] ConvertError),
    #[error("an answer could not be made into tokens: {0}")]
    Tokenizer(#[from] crate::model::TokenizerError),
    #[error("cannot make a folder for the reference's adapter: {0}")]
    Folder(#[from] std::io::Error),
}

impl Run<'_> {
    /// Puts the user's trainer and generator in the place of the reference's, one at a time and both.
    pub(super) fn swap(&mut self, subject: Option<&Subject>, evidence: &mut Evidence) {
        let generator = self.options.generator.clone();
        if generator.is_none() && self.options.trainer.is_none() {
            return;
        }
        let Rows { mut rows, reference } = self.rows(subject, evidence);
        let mut swap = SwapEvidence {
            cells: Vec::new(),
            readings: Vec::new(),
            repeatable: None,
            reference,
        };
        let of_engine = |row: &Row| row.cell(Party::Reference, row.answers.clone());
        swap.cells.extend(rows.iter().map(of_engine));
        if let Some(generator) = generator {
            // Held until their generator has read the adapter from it.
            let _folder = match self.save_reference(&mut rows) {
                Ok(folder) => folder,
                Err(error) => {
                    evidence.swap = Slot::crashed(error);
                    return;
                }
            };
            for row in &rows {
                let answers = self.ask(&generator, row);
                swap.cells.push(row.cell(Party::Theirs, answers));
            }
            // Row by row, the engine first.
            swap.cells.sort_by_key(|cell| (cell.trainer, Reverse(cell.generator)));
            if let Some(baseline) = evidence.baseline.ran() {
                self.read(&generator, &rows, &mut swap, baseline);
            }
        }
        evidence.swap = Slot::Ran(swap);
    }

    fn rows(&mut self, subject: Option<&Subject>, evidence: &Evidence) -> Rows {
        let mut row = Row {
            trainer: Party::Theirs,
            model: subject.map(|subject| subject.model.clone()),
            adapter: Err(LEFT_NOTHING.to_owned()),
            answers: evidence.generation.clone().map(|generation| cell_answers(&generation)),
        };
        if let Some(finished) = &self.options.adapter {
            if subject.is_some() {
                row.adapter = Ok(finished.folder.clone());
            }
            return Rows {
                rows: vec![row],
                reference: Slot::skipped("a finished adapter is judged, and nothing is trained"),
            };
        }
        if self.options.trainer.is_none() {
            row.trainer = Party::Reference;
            return Rows {
                rows: vec![row],
                reference: Slot::skipped("the reference is the trainer of this run"),
            };
        }
        if subject.is_some()
            && let Some(folder) = &self.left
        {
            row.adapter = Ok(folder.adapter.clone());
        }
        let (reference, run) = self.reference_row(evidence);
        Rows {
            rows: vec![row, reference],
            reference: run,
        }
    }

    /// Trains the reference on the same rows with the same settings.
    fn reference_row(&mut self, evidence: &Evidence) -> (Row, Slot<ReferenceRun>) {
        let absent = |reason: String| Row {
            trainer: Party::Reference,
            model: None,
            adapter: Err(reason.clone()),
            answers: Slot::skipped(reason),
        };
        if self.interrupt.is_requested() {
            let reason = "interrupted".to_owned();
            return (absent(reason.clone()), Slot::skipped(reason));
        }
        let started = Instant::now();
        let mut beside = nothing_measured(
            self.options.settings(),
            evidence.environment.clone(),
            "the reference did not come so far",
        );
        self.progress.beside("the reference trainer", Some(self.options.steps));
        let subject = self.train(&mut beside);
        let (Some(subject), Some(training)) = (subject, beside.training.ran()) else {
            let reason = beside
                .training
                .absence()
                .unwrap_or_else(|| "it did not begin".to_owned());
            return (
                absent(format!("the reference did not train: {reason}")),
                Slot::skipped(reason),
            );
        };
        let mut costs = Costs::default();
        let parameters = self.compare_parameters(&subject, &mut costs).ok();
        let fit = beside.fit.ran();
        let run = ReferenceRun {
            losses: training.steps.iter().map(|step| step.loss).collect(),
            gradient_norms: training.steps.iter().map(|step| step.gradient_norm).collect(),
            loss_before: fit.and_then(FitComparison::loss_before),
            loss_after: fit.and_then(FitComparison::loss_after),
            median_update: parameters
                .and_then(|parameters| parameters.adapter)
                .and_then(|adapter| AdapterEvidence::median_update(&adapter)),
            seconds: started.elapsed().as_secs_f64(),
        };
        self.progress.beside("the reference engine", Some(self.prompts.len()));
        let answers = self
            .answers_of(Phase::Generation, &mut &subject.model)
            .map(|generation| cell_answers(&generation));
        let row = Row {
            trainer: Party::Reference,
            model: Some(subject.model),
            adapter: Err("not saved yet".to_owned()),
            answers,
        };
        (row, Slot::Ran(run))
    }

    /// Saves the reference's adapter in the format of theirs, for their generator to read.
    fn save_reference(&self, rows: &mut [Row]) -> Result<TemporaryFolder, SwapError> {
        let folder = TemporaryFolder::new()?;
        if rows.iter().all(|row| row.trainer == Party::Theirs) {
            return Ok(folder);
        }
        let theirs = rows.iter().find(|row| row.trainer == Party::Theirs);
        let format = match theirs.and_then(|row| row.adapter.as_ref().ok()) {
            Some(adapter) => StoredAdapter::read(adapter)?.format,
            None => AdapterFormat::MlxLm,
        };
        let Some(row) = rows.iter_mut().find(|row| row.trainer == Party::Reference) else {
            return Ok(folder);
        };
        let Some(model) = &row.model else {
            return Ok(folder);
        };
        let saved = folder.path().join("mlx-lm");
        self.workflow
            .save_adapter(model, &self.options.lora, &self.options.model_name, &saved)?;
        row.adapter = Ok(if format == AdapterFormat::Peft {
            let converted = folder.path().join("peft");
            convert(
                &StoredAdapter::read(&saved)?,
                TargetFormat::Peft,
                Some(self.loaded.configuration.num_hidden_layers),
                &converted,
            )?;
            converted
        } else {
            saved
        });
        Ok(folder)
    }

    /// Every prompt, answered by their generator.
    fn ask(&mut self, generator: &ExternalGenerator, row: &Row) -> Slot<Vec<CellAnswer>> {
        let adapter = match &row.adapter {
            Ok(adapter) => adapter.clone(),
            Err(reason) => return Slot::skipped(reason.clone()),
        };
        let name = match row.trainer {
            Party::Theirs => "their generator, their adapter",
            Party::Reference => "their generator, the reference's adapter",
        };
        self.progress.beside(name, Some(self.prompts.len()));
        let started = Instant::now();
        let mut answers = Vec::with_capacity(self.prompts.len());
        for index in 0..self.prompts.len() {
            match self.ask_one(generator, &adapter, index) {
                Ok(answer) => answers.push(answer),
                Err(SwapError::Generator(GeneratorError::Interrupted)) => return Slot::skipped("interrupted"),
                Err(error) => return Slot::crashed(error),
            }
        }
        self.progress.finish(&format!(
            "{} answers in {:.0} s",
            answers.len(),
            started.elapsed().as_secs_f64()
        ));
        Slot::Ran(answers)
    }

    fn ask_one(
        &mut self,
        generator: &ExternalGenerator,
        adapter: &Path,
        index: usize,
    ) -> Result<CellAnswer, SwapError> {
        let prompts = self.prompts;
        let total = prompts.len();
        let is_whole_model = self.options.is_whole_model();
        let question = Question {
            model: if is_whole_model {
                adapter
            } else {
                self.options.source.path()
            },
            adapter: (!is_whole_model).then_some(adapter),
            prompt: &prompts[index].text,
            max_tokens: self.options.max_tokens,
        };
        self.progress
            .advance(index, &format!("prompt {} of {total}", index + 1));
        let progress = &mut *self.progress;
        let reply = generator.answer(&question, self.interrupt, &mut |line| progress.advance(index, line))?;
        let tokens = self.tokenizer.encode(&reply.text, false)?;
        let is_empty = reply.text.trim().is_empty();
        let counted = (!is_empty).then_some(tokens.len() + RECOUNT_SLACK < self.options.max_tokens);
        let repetition = repetition::measure(&tokens, &reply.text, |_| String::new())?;
        Ok(CellAnswer {
            ended: reply.ended.or(counted),
            looping: repetition.is_looping(),
            reference_nll: None,
            text: reply.text,
        })
    }

    /// Finds out what their generator did instead, where it did not do as it should.
    fn read(
        &mut self,
        generator: &ExternalGenerator,
        rows: &[Row],
        swap: &mut SwapEvidence,
        baseline: &GenerationEvidence,
    ) {
        let Some(trainer) = swap.judged_trainer() else {
            return;
        };
        let Some(cell) = swap.cell(trainer, Party::Theirs) else {
            return;
        };
        if swap.state(cell, baseline) == CellState::Works {
            return;
        }
        let first = match &cell.answers {
            Slot::Ran(answers) => answers.first().map(|answer| answer.text.clone()),
            Slot::Skipped { .. } | Slot::Crashed { .. } => None,
        };
        let Some(row) = rows.iter().find(|row| row.trainer == trainer) else {
            return;
        };
        let (Some(model), Ok(adapter)) = (&row.model, &row.adapter) else {
            return;
        };
        self.progress.beside("what their generator does instead", None);
        let probe = ReadingProbe {
            base: &self.loaded.model,
            adapted: model,
            tokenizer: self.tokenizer,
            stop_set: self.stop_set,
            prompts: self.prompts,
            max_tokens: self.options.max_tokens,
        };
        // Without them the difference itself is still told.
        if let Ok(readings) = probe.measure(self.interrupt) {
            swap.readings = readings;
        }
        if let Some(first) = first {
            swap.repeatable = self
                .ask_one(generator, adapter, 0)
                .ok()
                .map(|again| alike(&again.text, &first) >= 1.0);
        }
        self.progress.finish("asked the engine in other ways");
    }
}

struct Rows {
    rows: Vec<Row>,
    reference: Slot<ReferenceRun>,
}

fn cell_answers(generation: &GenerationEvidence) -> Vec<CellAnswer> {
    generation.answers.iter().map(CellAnswer::from).collect()
}
