use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

use crate::adapter::{AdapterFileError, AdapterSet, AdapterSetError, StoredAdapter};
use crate::device::{Backend, PrecisionChoice};
use crate::engine::{Engine, EngineModel, EngineSettings, SchedulerLimits, StartError};
use crate::model::{ConfigurationError, LoadError, ModelFiles, StopSet, TemplateChoice, Tokenizer, TokenizerError};

/// Why a model cannot be served.
#[derive(Debug, Error)]
pub enum ServedModelError {
    /// Its configuration or its weights cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Its tokenizer cannot be read.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// An adapter cannot be read.
    #[error(transparent)]
    Adapter(#[from] AdapterFileError),
    /// An adapter does not fit.
    #[error(transparent)]
    Set(#[from] AdapterSetError),
}

impl From<ConfigurationError> for ServedModelError {
    fn from(error: ConfigurationError) -> Self {
        Self::Load(error.into())
    }
}

/// A model with its adapters, and what is needed to ask it.
#[derive(Debug, Clone)]
pub struct ServedModel {
    /// The engine that answers with it.
    pub engine: Engine,
    /// Text to tokens and back, with the chat template.
    pub tokenizer: Arc<Tokenizer>,
    /// Tokens that end an answer.
    pub stop_ids: BTreeSet<u32>,
    /// What the engine may use.
    pub limits: SchedulerLimits,
    /// What of loading it is worth knowing, one sentence each.
    pub notes: Vec<String>,
}

impl ServedModel {
    /// Loads the model of `files` with the adapters in the folders of `adapters`, each under its name.
    ///
    /// # Errors
    /// [`StartError`] with a [`ServedModelError`].
    pub fn start(
        files: ModelFiles,
        adapters: &BTreeMap<String, PathBuf>,
        template: TemplateChoice,
        backend: Backend,
        settings: EngineSettings,
    ) -> Result<Self, StartError<ServedModelError>> {
        let failed = |error: ServedModelError| StartError::Load(error);
        let configuration = files.configuration().map_err(|error| failed(error.into()))?;
        let tokenizer = files.tokenizer().and_then(|tokenizer| template.apply(tokenizer));
        let tokenizer = Arc::new(tokenizer.map_err(|error| failed(error.into()))?);
        let stop_ids = StopSet::of(&tokenizer).map_err(|error| failed(error.into()))?.ids();
        let precision = backend.precision(&configuration, PrecisionChoice::default());
        let context = configuration.max_position_embeddings;
        let stored = adapters
            .iter()
            .map(|(name, folder)| Ok((name.clone(), StoredAdapter::read(folder)?)));
        let stored: Vec<_> = stored.collect::<Result<_, ServedModelError>>().map_err(failed)?;
        let (tell, notes) = std::sync::mpsc::channel();
        let of_engine = Arc::clone(&tokenizer);
        let settings = EngineSettings {
            lanes: backend.lanes().count(),
            ..settings
        };
        let engine = Engine::start(settings, move || {
            let loaded = files.load(configuration, precision)?;
            let _ = tell.send(loaded.notes());
            let mut set = AdapterSet::new(loaded.model);
            for (name, adapter) in &stored {
                set.add(name, adapter)?;
            }
            let (base, adapters) = set.into_models();
            let learned = base.learned_positions();
            Ok::<_, ServedModelError>(EngineModel {
                context: learned.map_or(context, |learned| learned.min(context)),
                base,
                adapters,
                tokenizer: of_engine,
            })
        })?;
        Ok(Self {
            engine,
            tokenizer,
            limits: settings.limits,
            stop_ids: stop_ids.into_iter().collect(),
            notes: notes.try_iter().flatten().collect(),
        })
    }
}
