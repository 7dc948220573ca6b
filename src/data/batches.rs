//! Groups examples into batches, in an order that the seed alone decides and that a saved run can go on with.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::batch::Batch;
use super::example::Example;
use super::packing::pack;
use super::random::SplitMix64;

/// Batches whose rows are sorted by length together, at most: transformers' `LengthGroupedSampler` has the same.
const POOLED_BATCHES: usize = 50;

/// Pools of an epoch, at least, where there are enough rows: without chance in who is sorted with whom, every epoch
/// would have the same batches. Also from transformers.
const LEAST_POOLS: usize = 4;

/// The order in which rows are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RowOrder {
    /// As they come, every epoch the same.
    Given,
    /// Another order in each epoch.
    Shuffled,
    /// Another order in each epoch, with rows of like lengths in one batch, so that little is padded.
    ByLength,
}

/// How rows become batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchSettings {
    /// Rows of a batch; 0 is taken as 1.
    pub batch_size: usize,
    /// The order of the rows.
    pub order: RowOrder,
    /// Decides every order but that of the dataset.
    pub seed: u64,
    /// Tokens of a row that several examples share; `None` for rows of one example.
    pub pack_to: Option<usize>,
}

impl fmt::Display for BatchSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = match self.order {
            RowOrder::Given => "as given",
            RowOrder::Shuffled => "shuffled",
            RowOrder::ByLength => "by length",
        };
        write!(formatter, "batches of {}, {order}, seed {}", self.batch_size, self.seed)?;
        match self.pack_to {
            Some(tokens) => write!(formatter, ", packed to {tokens} tokens"),
            None => Ok(()),
        }
    }
}

/// Why there are no such batches.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BatchesError {
    /// An example is longer than a packed row.
    #[error(
        "row {row} is too long to be packed\n  found: {tokens} tokens\n  expected: at most {limit}\n  hint: cut rows to the length of a packed row, or pack to a longer one"
    )]
    TooLong {
        /// Position in the data, counted from 1.
        row: usize,
        /// Its tokens.
        tokens: usize,
        /// Tokens of a packed row.
        limit: usize,
    },
    /// A saved position is not one in this data.
    #[error(
        "the saved position in the data does not fit\n  found: {found}\n  expected: {expected}\n  hint: resume with the data and the settings of the saved run"
    )]
    OtherRun {
        /// What the position was saved with.
        found: String,
        /// What is here.
        expected: String,
    },
}

/// A position in a series of batches: all that is needed to go on with the same batches.
///
/// The rest of an epoch is not stored, since its beginning decides it; the size does not grow with the data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchState {
    /// How the rows became batches.
    pub settings: BatchSettings,
    /// Examples of the dataset.
    pub examples: usize,
    /// A number for their tokens and targets, in hexadecimal.
    pub fingerprint: String,
    /// The generator's state where the epoch began.
    pub generator: u64,
    /// Epochs that ended before.
    pub epoch: u64,
    /// Batches of the epoch that were taken.
    pub taken: usize,
}

/// An endless series of batches: each epoch takes every example once.
///
/// No row is ever dropped: one batch of an epoch holds what is left over, and with fewer rows than a batch takes, every
/// batch is the whole dataset. Steps that accumulate several batches take the next ones, across the end of an epoch
/// where they do not divide it; in the orders `Given` and `Shuffled`, k batches of n rows are the rows of one batch of
/// k n rows wherever that divides the epoch.
#[derive(Debug, Clone)]
pub struct Batches<'dataset> {
    examples: &'dataset [Example],
    settings: BatchSettings,
    /// The examples of each row; `None` where each row is one example.
    packs: Option<Vec<Vec<usize>>>,
    /// As it was before the current epoch.
    epoch_start: SplitMix64,
    random: SplitMix64,
    epoch: u64,
    /// The rows of each batch of the current epoch.
    plan: Vec<Vec<usize>>,
    taken: usize,
}

impl<'dataset> Batches<'dataset> {
    /// Batches of `batch_size` rows (at least 1) in the order that `seed` decides.
    pub fn new(examples: &'dataset [Example], batch_size: usize, seed: u64) -> Self {
        Self::of_rows(
            examples,
            BatchSettings {
                batch_size,
                order: RowOrder::Shuffled,
                seed,
                pack_to: None,
            },
            None,
        )
    }

    /// Batches of `batch_size` rows (at least 1) in the order of the dataset, every epoch the same.
    pub fn in_order(examples: &'dataset [Example], batch_size: usize) -> Self {
        Self::of_rows(
            examples,
            BatchSettings {
                batch_size,
                order: RowOrder::Given,
                seed: 0,
                pack_to: None,
            },
            None,
        )
    }

    /// Batches by the given settings.
    ///
    /// # Errors
    /// [`BatchesError::TooLong`] for the first example that is longer than a packed row.
    pub fn with_settings(examples: &'dataset [Example], settings: BatchSettings) -> Result<Self, BatchesError> {
        let Some(limit) = settings.pack_to else {
            return Ok(Self::of_rows(examples, settings, None));
        };
        let lengths: Vec<usize> = examples.iter().map(|example| example.tokens.len()).collect();
        if let Some(row) = lengths.iter().position(|&tokens| tokens > limit) {
            return Err(BatchesError::TooLong {
                row: row + 1,
                tokens: lengths[row],
                limit,
            });
        }
        Ok(Self::of_rows(examples, settings, Some(pack(&lengths, limit))))
    }

    /// Batches that go on from a saved position: the next one is bit for bit the one that would have come then.
    ///
    /// # Errors
    /// [`BatchesError::OtherRun`] when the position was saved with other examples or settings, or is beyond its epoch;
    /// otherwise as [`Self::with_settings`].
    pub fn from_state(
        examples: &'dataset [Example],
        settings: BatchSettings,
        state: &BatchState,
    ) -> Result<Self, BatchesError> {
        let mut batches = Self::with_settings(examples, settings)?;
        let here = batches.state();
        let batches_per_epoch = batches.per_epoch();
        let compared = [
            (state.settings.to_string(), here.settings.to_string()),
            (
                format!("{} examples", state.examples),
                format!("{} examples", here.examples),
            ),
            (
                format!("examples with fingerprint {}", state.fingerprint),
                format!("examples with fingerprint {}", here.fingerprint),
            ),
        ];
        for (found, expected) in compared {
            if found != expected {
                return Err(BatchesError::OtherRun { found, expected });
            }
        }
        if state.taken > batches_per_epoch {
            return Err(BatchesError::OtherRun {
                found: format!("{} batches of an epoch taken", state.taken),
                expected: format!("at most {batches_per_epoch}"),
            });
        }
        batches.random = SplitMix64 { state: state.generator };
        batches.begin_epoch();
        batches.epoch = state.epoch;
        batches.taken = state.taken;
        Ok(batches)
    }

    fn of_rows(examples: &'dataset [Example], settings: BatchSettings, packs: Option<Vec<Vec<usize>>>) -> Self {
        let random = SplitMix64 { state: settings.seed };
        let mut batches = Self {
            examples,
            settings: BatchSettings {
                batch_size: settings.batch_size.max(1),
                ..settings
            },
            packs,
            epoch_start: random.clone(),
            random,
            epoch: 0,
            plan: Vec::new(),
            taken: 0,
        };
        batches.begin_epoch();
        batches
    }

    /// The position before the next batch.
    pub fn state(&self) -> BatchState {
        BatchState {
            settings: self.settings,
            examples: self.examples.len(),
            fingerprint: fingerprint(self.examples),
            generator: self.epoch_start.state,
            epoch: self.epoch,
            taken: self.taken,
        }
    }

    /// Batches in one epoch.
    pub fn per_epoch(&self) -> usize {
        self.row_count().div_ceil(self.settings.batch_size)
    }

    /// Rows in one epoch: those of the dataset, or fewer where they are packed.
    pub fn row_count(&self) -> usize {
        self.packs.as_ref().map_or(self.examples.len(), Vec::len)
    }

    /// The share of this epoch's positions that hold padding, 0 to 1.
    pub fn padding_share(&self) -> f64 {
        let mut tokens = 0;
        let mut positions = 0;
        for rows in &self.plan {
            let longest = rows.iter().map(|&row| self.length(row)).max().unwrap_or(0);
            tokens += rows.iter().map(|&row| self.length(row)).sum::<usize>();
            positions += longest * rows.len();
        }
        (positions - tokens) as f64 / positions.max(1) as f64
    }

    fn length(&self, row: usize) -> usize {
        match &self.packs {
            Some(packs) => packs[row]
                .iter()
                .map(|&example| self.examples[example].tokens.len())
                .sum(),
            None => self.examples[row].tokens.len(),
        }
    }

    /// Plans the epoch that the generator's state decides.
    fn begin_epoch(&mut self) {
        self.epoch_start = self.random.clone();
        self.taken = 0;
        let batch_size = self.settings.batch_size;
        let mut rows: Vec<usize> = (0..self.row_count()).collect();
        if self.settings.order != RowOrder::Given {
            self.random.shuffle(&mut rows);
            rows.reverse();
        }
        if self.settings.order == RowOrder::ByLength {
            let pooled = (rows.len() / LEAST_POOLS.saturating_mul(batch_size)).clamp(1, POOLED_BATCHES);
            for pool in rows.chunks_mut(batch_size.saturating_mul(pooled)) {
                pool.sort_by_key(|&row| self.length(row));
            }
        }
        self.plan = rows.chunks(batch_size).map(<[usize]>::to_vec).collect();
        if self.settings.order == RowOrder::ByLength {
            self.random.shuffle(&mut self.plan);
        }
    }
}

impl Iterator for Batches<'_> {
    type Item = Batch;

    /// The next batch; `None` only for an empty dataset.
    fn next(&mut self) -> Option<Batch> {
        if self.taken == self.plan.len() {
            self.begin_epoch();
            self.epoch += 1;
        }
        let rows = self.plan.get(self.taken)?;
        let batch = match &self.packs {
            Some(packs) => {
                let packs: Vec<&[usize]> = rows.iter().map(|&row| packs[row].as_slice()).collect();
                Batch::packed(self.examples, &packs)
            }
            None => Batch::new(self.examples, rows),
        };
        self.taken += 1;
        Some(batch)
    }
}

/// Fowler, Noll and Vo's hash (FNV-1a, 64 bits) of all tokens and targets: tells a changed file from the one that a run
/// was saved with.
fn fingerprint(examples: &[Example]) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut take = |bytes: &[u8]| {
        for &byte in bytes {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for example in examples {
        take(&(example.tokens.len() as u64).to_le_bytes());
        for (token, &supervised) in example.tokens.iter().zip(&example.supervised) {
            take(&token.to_le_bytes());
            take(&[u8::from(supervised)]);
        }
    }
    format!("{hash:016x}")
}
