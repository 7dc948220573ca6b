use super::base::TinyModel;
use super::corpus::Rows;
use crate::adapter::LoraSettings;
use crate::device::PrecisionChoice;
use crate::diagnosis::{DataSource, DiagnosisOptions};
use crate::evidence::FineTuneKind;
use crate::faults::{Needs, RunFiles};
use crate::model::{ModelSource, TemplateChoice};

/// Places of a base, each with settings and rows of its own.
pub const SLOTS: usize = 6;

/// The slot whose packed runs compute on the packed weights, which takes four times as long on a CPU.
const KEPT_PACKED_SLOT: usize = 3;

/// Processes of a trial at most, as many as it has rows in a step at least.
const PROCESSES_AT_MOST: usize = 4;

/// Rows to train on.
const TRAINING_ROWS: usize = 16;
/// Rows to validate with.
const VALIDATION_ROWS: usize = 6;
/// Longest answer in tokens: more than twice the rows', so that an answer without end is seen to be one.
const MAX_TOKENS: usize = 64;
/// Longest row in tokens, above all rows of the corpus.
const MAX_SEQUENCE_LENGTH: usize = 128;
/// The rate for all weights.
const FULL_LEARNING_RATE: f64 = 1e-4;

/// A legal choice of settings.
#[derive(Debug, Clone, Copy, PartialEq)]
struct HyperParameters {
    rank: usize,
    scale: f32,
    learning_rate: f64,
    steps: usize,
    batch_size: usize,
}

const HYPER_PARAMETERS: [HyperParameters; SLOTS] = [
    HyperParameters {
        rank: 8,
        scale: 20.0,
        learning_rate: 1e-4,
        steps: 10,
        batch_size: 4,
    },
    HyperParameters {
        rank: 16,
        scale: 10.0,
        learning_rate: 2e-4,
        steps: 8,
        batch_size: 2,
    },
    HyperParameters {
        rank: 4,
        scale: 20.0,
        learning_rate: 5e-5,
        steps: 12,
        batch_size: 4,
    },
    HyperParameters {
        rank: 32,
        scale: 2.0,
        learning_rate: 3e-4,
        steps: 10,
        batch_size: 3,
    },
    HyperParameters {
        rank: 8,
        scale: 20.0,
        learning_rate: 1e-4,
        steps: 6,
        batch_size: 8,
    },
    HyperParameters {
        rank: 64,
        scale: 5.0,
        learning_rate: 1e-4,
        steps: 12,
        batch_size: 2,
    },
];

/// What a run must have for a fault or a control to be possible in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Weights that are plain in their files.
    DenseFiles,
    /// Weights that are packed in their files.
    PackedFiles,
    /// All weights are trained.
    FullFineTuning,
    /// Several processes.
    Processes,
}

impl Need {
    /// What an operator needs.
    pub fn of(needs: Needs) -> Vec<Self> {
        match needs {
            Needs::Adapters => Vec::new(),
            Needs::DenseFiles => vec![Self::DenseFiles],
            Needs::PackedFiles => vec![Self::PackedFiles],
            Needs::Processes => vec![Self::Processes],
        }
    }
}

/// Where a run takes place: a base, and a slot that decides settings and rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// The architecture.
    pub model: TinyModel,
    /// Whether its weights are packed to 4 bits.
    pub packed: bool,
    /// Below [`SLOTS`].
    pub slot: usize,
}

impl Cell {
    /// Every cell: architectures in turn, then packing, then slots, so that any prefix is spread over all of them.
    pub fn all() -> Vec<Self> {
        let mut cells = Vec::new();
        for slot in 0..SLOTS {
            for packed in [false, true] {
                for model in TinyModel::ALL {
                    cells.push(Self { model, packed, slot });
                }
            }
        }
        cells
    }

    /// The name in reports, for example `qwen2-4bit-3`.
    pub fn name(self) -> String {
        format!("{}-{}-{}", self.model.name(), self.form(), self.slot)
    }

    fn form(self) -> &'static str {
        if self.packed { "4bit" } else { "dense" }
    }

    /// The seed of everything random in it, for a seed of the whole self-test.
    pub fn seed(self, seed: u64) -> u64 {
        let base = self.model as usize;
        seed.wrapping_mul(1000)
            .wrapping_add((self.slot * 6 + base * 2 + usize::from(self.packed)) as u64)
    }

    fn hyper_parameters(self) -> HyperParameters {
        // Another order for every base, so that no setting belongs to one of them.
        HYPER_PARAMETERS[(self.slot + 2 * self.model as usize + usize::from(self.packed)) % SLOTS]
    }

    /// Whether a run here has all that a fault or a control needs.
    pub fn has(self, needs: &[Need]) -> bool {
        needs.iter().all(|need| match need {
            Need::DenseFiles | Need::FullFineTuning => !self.packed,
            Need::PackedFiles => self.packed,
            // Rows are shared: each process needs some in every step.
            Need::Processes => self.hyper_parameters().batch_size >= PROCESSES_AT_MOST,
        })
    }

    /// The rows of this cell.
    pub fn rows(self, seed: u64) -> Rows {
        Rows::spoken(self.seed(seed), TRAINING_ROWS, VALIDATION_ROWS)
    }

    /// What a run here is asked to do with `files`.
    pub fn options(self, seed: u64, files: &RunFiles, rows: &Rows, needs: &[Need]) -> DiagnosisOptions {
        let hyper_parameters = self.hyper_parameters();
        let full = needs.contains(&Need::FullFineTuning);
        DiagnosisOptions {
            source: ModelSource::Folder(files.model.clone()),
            // Names without the folders of this run, so that its evidence is that of any other.
            model_name: format!("{}-{}", self.model.name(), self.form()),
            data: DataSource::Path(files.data.clone()),
            data_name: "drawn rows".to_owned(),
            adapter: None,
            trainer: None,
            generator: None,
            prompts: rows.questions(),
            prompts_file: None,
            check_only: false,
            max_tokens: MAX_TOKENS,
            fine_tune: if full { FineTuneKind::Full } else { FineTuneKind::Lora },
            lora: LoraSettings {
                rank: hyper_parameters.rank,
                scale: hyper_parameters.scale,
                ..LoraSettings::default()
            },
            steps: hyper_parameters.steps,
            batch_size: hyper_parameters.batch_size,
            learning_rate: if full {
                FULL_LEARNING_RATE
            } else {
                hyper_parameters.learning_rate
            },
            warmup_steps: 0,
            clip_norm: None,
            bias_correction: false,
            mask_prompt: true,
            template: TemplateChoice::Own,
            max_sequence_length: MAX_SEQUENCE_LENGTH,
            seed: self.seed(seed),
            cross_check: None,
            backend: None,
            precision: PrecisionChoice {
                dtype: None,
                keep_packed: self.packed && self.slot == KEPT_PACKED_SLOT,
            },
            adapter_folder: None,
        }
    }
}
