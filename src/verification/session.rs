use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use mlx_rs::{Array, Dtype};

use super::check::NotPassed;
use super::golden_files::{GoldenModel, TransformersNumbers};
use crate::data::{Batch, Example};
use crate::device::{Backend, BackendError, Selection};
use crate::embedded;
use crate::interrupt::Interrupt;
use crate::model::{CausalModel, ModelSource, Precision, Tokenizer};
use crate::temporary_folder::TemporaryFolder;

/// Everything in f32, as the goldens were computed.
pub(super) const EXACT: Precision = Precision {
    dtype: Dtype::Float32,
    keep_packed: false,
};

/// What the checks of one verification share: the device, and models that are laid out and loaded once.
#[derive(Debug)]
pub(super) struct Session<'run> {
    pub(super) selection: &'run Selection,
    /// Devices that are there and compute wrongly.
    pub(super) faults: &'run [BackendError],
    pub(super) interrupt: &'run Interrupt,
    folder: TemporaryFolder,
    goldens: RefCell<BTreeMap<&'static str, Rc<Golden>>>,
    embedded: OnceCell<Rc<Embedded>>,
    /// What the fine-tune made, for the checks after it.
    pub(super) fine_tune: OnceCell<super::categories::lora::FineTune>,
}

/// A model beside what another program computes from it.
#[derive(Debug)]
pub(super) struct Golden {
    pub(super) folder: PathBuf,
    pub(super) model: CausalModel,
    pub(super) numbers: TransformersNumbers,
}

impl Golden {
    /// The golden's row of tokens `[1, tokens]`.
    pub(super) fn row(&self) -> Array {
        row(&self.numbers.input_ids)
    }

    /// The same as a batch in which every token but the first is supervised.
    pub(super) fn batch(&self) -> Batch {
        Batch::new(&[Example::of_tokens(self.numbers.input_ids.clone())], &[0])
    }
}

/// The chat model that the program carries.
#[derive(Debug)]
pub(super) struct Embedded {
    pub(super) folder: PathBuf,
    pub(super) model: CausalModel,
    pub(super) tokenizer: Arc<Tokenizer>,
    /// Tokens of a prompt and its answer.
    pub(super) context: usize,
}

impl<'run> Session<'run> {
    pub(super) fn new(
        selection: &'run Selection,
        faults: &'run [BackendError],
        interrupt: &'run Interrupt,
    ) -> std::io::Result<Self> {
        Ok(Self {
            selection,
            faults,
            interrupt,
            folder: TemporaryFolder::new()?,
            goldens: RefCell::default(),
            embedded: OnceCell::new(),
            fine_tune: OnceCell::new(),
        })
    }

    /// Where MLX computes.
    pub(super) fn backend(&self) -> Backend {
        self.selection.backend
    }

    /// A folder for what a check writes, which is gone after the verification.
    pub(super) fn folder(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The files of a golden model.
    pub(super) fn unpacked(&self, model: &GoldenModel) -> std::io::Result<PathBuf> {
        let folder = self.folder(&format!("golden-{}", model.name));
        if !folder.exists() {
            model.unpack(&folder)?;
        }
        Ok(folder)
    }

    /// A golden model in f32.
    pub(super) fn golden(&self, model: &GoldenModel) -> Result<Rc<Golden>, NotPassed> {
        if let Some(golden) = self.goldens.borrow().get(model.name) {
            return Ok(Rc::clone(golden));
        }
        let folder = self.unpacked(model)?;
        let golden = Rc::new(Golden {
            model: load(&folder)?,
            folder,
            numbers: model.numbers()?,
        });
        self.goldens.borrow_mut().insert(model.name, Rc::clone(&golden));
        Ok(golden)
    }

    /// The chat model that the program carries, in f32.
    pub(super) fn embedded(&self) -> Result<Rc<Embedded>, NotPassed> {
        if let Some(embedded) = self.embedded.get() {
            return Ok(Rc::clone(embedded));
        }
        let folder = self.folder("embedded");
        embedded::write_model(&folder)?;
        let files = ModelSource::Folder(folder.clone()).open()?;
        let configuration = files.configuration()?;
        let context = configuration.max_position_embeddings;
        let embedded = Rc::new(Embedded {
            model: files.load(configuration, EXACT)?.model,
            tokenizer: Arc::new(files.tokenizer()?),
            context,
            folder,
        });
        Ok(Rc::clone(self.embedded.get_or_init(|| embedded)))
    }
}

/// Loads the model in a folder in f32.
pub(super) fn load(folder: &Path) -> Result<CausalModel, NotPassed> {
    Ok(ModelSource::Folder(folder.to_owned()).load(EXACT)?.model)
}

/// Token ids as one row `[1, tokens]`.
pub(super) fn row(ids: &[u32]) -> Array {
    let ids: Vec<i32> = ids.iter().map(|&id| id.cast_signed()).collect();
    Array::from_slice(&ids, &[1, ids.len() as i32])
}
