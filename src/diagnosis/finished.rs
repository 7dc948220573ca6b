use std::path::Path;

use mlx_rs::error::Exception;

use super::costs::Costs;
use super::phases::{Run, Subject};
use super::row_fit::RowFit;
use super::validation_course::ValidationCourse;
use super::{DiagnosisOptions, FinishedAdapter};
use crate::adapter::{AdapterFileError, Places, StoredAdapter};
use crate::data::Batches;
use crate::device::{Backend, PrecisionChoice};
use crate::evidence::{Evidence, FineTuneKind, FitComparison, Slot};
use crate::model::{
    CausalModel, ForeignPacking, LoadError, ModelFiles, ModelSource, Precision, Tokenizer, TokenizerError,
};
use crate::param_snapshot::ParameterSnapshot;
use crate::probes::{adapter_files, fit};
use crate::rules::Phase;

/// The file by which a folder is known to hold a tokenizer.
const TOKENIZER: &str = "tokenizer.json";
/// Why nothing of the training itself is known.
pub(super) const TRAINED_ELSEWHERE: &str = "it was trained elsewhere, and nothing is trained here";

/// The finished adapter that was given, as far as its files can be read.
pub(super) struct GivenAdapter<'run> {
    finished: &'run FinishedAdapter,
    stored: Result<StoredAdapter, AdapterFileError>,
}

impl<'run> GivenAdapter<'run> {
    /// Reads it; that its files cannot be read is a finding, and no reason to stop.
    pub(super) fn read(finished: &'run FinishedAdapter, backend: Backend, choice: PrecisionChoice) -> Self {
        let stored = if finished.is_whole_model {
            whole_model(&finished.folder, backend, choice).map_err(AdapterFileError::from)
        } else {
            StoredAdapter::read(&finished.folder)
        };
        Self { finished, stored }
    }

    /// The tokenizer that is asked with: of a whole model its own, where it has one.
    pub(super) fn tokenizer(&mut self) -> Option<Result<Tokenizer, TokenizerError>> {
        if !self.finished.is_whole_model {
            return None;
        }
        let stored = self.stored.as_mut().ok()?;
        if !self.finished.folder.join(TOKENIZER).exists() {
            stored
                .problems
                .push(format!("the folder has no `{TOKENIZER}`, and the base's is asked with"));
            return None;
        }
        Some(ModelFiles::Folder(self.finished.folder.clone()).tokenizer())
    }

    /// How another library packed what the folder holds; `None` when none did.
    pub(super) fn foreign_packing(&self) -> Option<ForeignPacking> {
        ForeignPacking::of_folder(&self.finished.folder)
    }

    /// The adapter, when it could be read.
    pub(super) fn stored(&self) -> Option<&StoredAdapter> {
        self.stored.as_ref().ok()
    }

    /// `options` with what the adapter says of its training.
    pub(super) fn adopted_by(&self, options: &DiagnosisOptions) -> DiagnosisOptions {
        match &self.stored {
            Ok(stored) => options.of_finished(self.finished, stored),
            Err(_) => options.clone(),
        }
    }

    /// Compares its files with the base, which changes nothing.
    pub(super) fn check(&self, base: &CausalModel, evidence: &mut Evidence) {
        let places = Places::of(base);
        evidence.resumed = adapter_files::resumed(&self.finished.folder, &places);
        evidence.adapter_files = match &self.stored {
            Ok(stored) => Slot::Ran(adapter_files::measure(stored, &stored.application_to(&places))),
            Err(error) => Slot::crashed(error),
        };
    }

    /// The folder that it lies in.
    pub(super) fn folder(&self) -> &Path {
        &self.finished.folder
    }

    /// Why its files could not be read, in the place of what they hold.
    pub(super) fn unread<T>(&self) -> Slot<T> {
        match &self.stored {
            Ok(_) => Slot::skipped("the adapter was not examined"),
            Err(error) => Slot::crashed(error),
        }
    }
}

/// Loads a model of whole weights; what is packed is unpacked, so that it can be compared with the base.
fn whole_model(folder: &Path, backend: Backend, choice: PrecisionChoice) -> Result<StoredAdapter, LoadError> {
    let source = ModelSource::Folder(folder.to_owned());
    let files = source.open()?;
    let configuration = files.configuration()?;
    files.check_weights()?;
    let precision = plain(backend.precision(&configuration, choice));
    Ok(StoredAdapter::of_model(&files.load(configuration, precision)?.model))
}

/// The same with packed weights unpacked.
pub(super) fn plain(precision: Precision) -> Precision {
    Precision {
        keep_packed: false,
        ..precision
    }
}

impl Run<'_> {
    /// Puts a finished adapter in the place of training; `None` when it cannot be used.
    pub(super) fn adopt(&mut self, stored: &StoredAdapter, evidence: &mut Evidence) -> Option<Subject> {
        self.progress.phase(Phase::Training, None);
        evidence.memory = Slot::skipped(TRAINED_ELSEWHERE);
        evidence.training = Slot::skipped(TRAINED_ELSEWHERE);
        let subject = match self.with_adapter(stored, evidence) {
            Ok(subject) => subject,
            Err(error) => {
                evidence.adapter_files = Slot::crashed(error);
                return None;
            }
        };
        let mut costs = Costs::default();
        evidence.fit = match self.unusable_rows() {
            Some(reason) => Slot::skipped(reason),
            None => Slot::of(self.fit(&subject.model, evidence, &mut costs)),
        };
        evidence.costs.extend(costs.into_list());
        self.progress.finish("the adapter is applied");
        Some(subject)
    }

    fn with_adapter(&self, stored: &StoredAdapter, evidence: &mut Evidence) -> Result<Subject, Exception> {
        let compared = self.compared_row();
        let base_logits = self.loaded.model.logits(&compared)?;
        let mut model = self.loaded.model.clone();
        let application = stored.apply(&mut model)?;
        evidence.adapter_files = Slot::Ran(adapter_files::measure(stored, &application));
        Ok(Subject {
            base: ParameterSnapshot::capture(&self.loaded.model),
            untrained: self.loaded.model.clone(),
            model,
            optimizer: None,
            compared,
            base_logits,
            identity_difference: None,
            expected_adapters: match self.options.fine_tune {
                FineTuneKind::Lora => Some(application.expected),
                FineTuneKind::Full => None,
            },
        })
    }

    /// How well the rows are predicted without the adapter and with it.
    fn fit(
        &self,
        adapted: &CausalModel,
        evidence: &mut Evidence,
        costs: &mut Costs,
    ) -> Result<FitComparison, Exception> {
        let lanes = self.backend.lanes();
        let batch = Batches::new(&self.dataset.examples, self.options.batch_size, self.options.seed).next();
        let rows = RowFit {
            dataset: self.dataset,
            batch: batch.as_ref(),
            stop_ids: &self.stop_set.ids(),
            lanes: &lanes,
        };
        let base = &self.loaded.model;
        let (before, after) = costs.of("fit", || (rows.before(base).0, rows.after(adapted)));
        if let (Slot::Ran(files), Some(batch)) = (&mut evidence.adapter_files, &batch) {
            files.scaled_losses = costs.of("scaled-losses", || {
                adapter_files::scaled_losses(adapted, &fit::first_rows(batch), &lanes)
            })?;
        }
        let mut validation = ValidationCourse::new(self.validation, self.options.steps);
        let validation_before = validation.loss(base, &lanes)?;
        let validation_after = validation.loss(adapted, &lanes)?;
        let (validation_between, seconds) = validation.finish();
        costs.add("validation", seconds);
        Ok(FitComparison {
            before,
            after,
            validation_before,
            validation_between,
            validation_after,
        })
    }
}
