use std::time::Instant;

use super::DiagnosisOptions;
use super::prompts;
use super::run::DiagnosisError;
use crate::data::{Dataset, ExampleSettings, Supervision};
use crate::evidence::{Evidence, ProbeCost, Slot};
use crate::model::{StopSet, Tokenizer};
use crate::probes::data::DataProbe;
use crate::probes::generation::Prompt;
use crate::workflow::Workflow;

/// What is known of a model before its weights are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct ModelSizes {
    /// Rows of the embedding table.
    pub(super) vocabulary: usize,
    /// Longest context in tokens; `None` when nobody says.
    pub(super) context: Option<usize>,
}

/// Tokenizer, data and prompts, ready to be used.
#[derive(Debug)]
pub(super) struct Inputs {
    pub(super) tokenizer: Tokenizer,
    pub(super) stop_set: StopSet,
    pub(super) dataset: Dataset,
    pub(super) validation: Option<Dataset>,
    pub(super) prompts: Vec<Prompt>,
}

impl Inputs {
    /// Reads the data, then the prompts.
    pub(super) fn read(
        options: &DiagnosisOptions,
        tokenizer: Tokenizer,
        sizes: ModelSizes,
        workflow: &dyn Workflow,
    ) -> Result<Self, DiagnosisError> {
        let records = options.data.read()?;
        let stop_set = StopSet::of(&tokenizer)?;
        let longest = options.max_sequence_length;
        let settings = ExampleSettings {
            supervision: Supervision::of_mask_prompt(options.mask_prompt),
            max_sequence_length: sizes.context.map_or(longest, |context| longest.min(context)),
        };
        let prepared =
            |records| Dataset::new(records, &tokenizer, settings).map(|rows| workflow.prepare(rows, &stop_set));
        let dataset = prepared(&records.train)?;
        let validation = records.valid.as_ref().map(prepared).transpose()?;
        let context = sizes.context.unwrap_or(usize::MAX);
        let mut prompts = prompts::prepare(&options.prompts, &dataset, &tokenizer, context)?;
        check_ids(&mut prompts, sizes.vocabulary)?;
        Ok(Self {
            tokenizer,
            stop_set,
            dataset,
            validation,
            prompts,
        })
    }

    /// Measures the data.
    pub(super) fn audit(&self, options: &DiagnosisOptions, sizes: ModelSizes, evidence: &mut Evidence) {
        let started = Instant::now();
        let audit = DataProbe {
            dataset: &self.dataset,
            validation: self.validation.as_ref(),
            tokenizer: &self.tokenizer,
            stop_set: &self.stop_set,
            vocabulary_size: sizes.vocabulary,
            mask_prompt: options.mask_prompt,
        };
        evidence.data = Slot::of(audit.measure());
        evidence.costs.push(ProbeCost {
            probe: "data-audit".to_owned(),
            seconds: started.elapsed().as_secs_f64(),
        });
    }

    /// The answers of the data.
    pub(super) fn reference_answers(&self) -> Vec<&str> {
        reference_answers(&self.dataset)
    }
}

/// The answers of the rows that have one.
pub(super) fn reference_answers(dataset: &Dataset) -> Vec<&str> {
    dataset
        .examples
        .iter()
        .filter_map(|example| example.reference.as_ref().map(|reference| reference.answer.as_str()))
        .collect()
}

/// Why the rows cannot be computed with: MLX reads beyond the embedding table without a word.
pub(super) fn unusable_rows(dataset: &Dataset, validation: Option<&Dataset>, vocabulary: usize) -> Option<String> {
    let largest = [Some(dataset), validation]
        .into_iter()
        .flatten()
        .flat_map(|dataset| &dataset.examples)
        .flat_map(|example| &example.tokens)
        .max()?;
    (*largest as usize >= vocabulary)
        .then(|| format!("the rows hold token id {largest}, and the embedding table has {vocabulary} rows"))
}

/// Refuses prompts with ids beyond the embedding table, and leaves out references with such ids: rows of the data are
/// evidence.
fn check_ids(prompts: &mut [Prompt], vocabulary: usize) -> Result<(), DiagnosisError> {
    for prompt in prompts {
        if let Some(&found) = prompt.tokens.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(DiagnosisError::TokenOutOfRange { found, vocabulary });
        }
        prompt
            .reference
            .take_if(|row| row.tokens.iter().any(|&id| id as usize >= vocabulary));
    }
    Ok(())
}
