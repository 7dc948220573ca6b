//! Groups examples into padded batches, in an order that the seed alone decides.

use super::example::Example;

/// Id in padded positions. Nothing depends on it: attention is causal, padding comes last, and it is never a target.
const PADDING_ID: i32 = 0;

/// Rows that are trained on together, as arrays of `rows` x `columns` in row-major order.
///
/// Column `i` of the inputs is predicted from columns `0..i`, so a loss over shifted arrays takes inputs `..columns - 1`,
/// targets `1..` and the mask `1..`.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Indices of the examples in their dataset, one per row.
    pub rows: Vec<usize>,
    /// Tokens of the longest row.
    pub columns: usize,
    /// Token ids, shorter rows padded on the right.
    pub tokens: Vec<i32>,
    /// 1 where the token is a target of the loss, otherwise 0; padding is always 0.
    pub mask: Vec<f32>,
    /// Tokens of each row without padding.
    pub lengths: Vec<usize>,
}

impl Batch {
    /// The batch of the given examples, padded to the longest of them.
    ///
    /// Indices must be those of `examples`; others are left out.
    pub fn new(examples: &[Example], rows: &[usize]) -> Self {
        let chosen: Vec<(usize, &Example)> = rows
            .iter()
            .filter_map(|&row| examples.get(row).map(|example| (row, example)))
            .collect();
        let columns = chosen
            .iter()
            .map(|(_, example)| example.tokens.len())
            .max()
            .unwrap_or(0);
        let mut tokens = Vec::with_capacity(chosen.len() * columns);
        let mut mask = Vec::with_capacity(chosen.len() * columns);
        for (_, example) in &chosen {
            let padding = columns - example.tokens.len();
            tokens.extend(example.tokens.iter().map(|&token| token.cast_signed()));
            tokens.extend(std::iter::repeat_n(PADDING_ID, padding));
            mask.extend(
                example
                    .supervised
                    .iter()
                    .map(|&supervised| f32::from(u8::from(supervised))),
            );
            mask.extend(std::iter::repeat_n(0.0, padding));
        }
        Self {
            columns,
            tokens,
            mask,
            lengths: chosen.iter().map(|(_, example)| example.tokens.len()).collect(),
            rows: chosen.into_iter().map(|(row, _)| row).collect(),
        }
    }

    /// The rows at `positions` of this batch, padded to the longest of them.
    #[must_use]
    pub fn select(&self, positions: &[usize]) -> Self {
        let lengths: Vec<usize> = positions.iter().map(|&position| self.lengths[position]).collect();
        let columns = lengths.iter().copied().max().unwrap_or(0);
        let cut = |position: &usize| position * self.columns..position * self.columns + columns;
        Self {
            rows: positions.iter().map(|&position| self.rows[position]).collect(),
            columns,
            tokens: positions
                .iter()
                .flat_map(|position| &self.tokens[cut(position)])
                .copied()
                .collect(),
            mask: positions
                .iter()
                .flat_map(|position| &self.mask[cut(position)])
                .copied()
                .collect(),
            lengths,
        }
    }

    /// The shape of the arrays: rows, columns.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows.len(), self.columns]
    }

    /// Tokens without padding.
    pub fn token_count(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// Tokens that the loss counts as targets.
    pub fn supervised_tokens(&self) -> usize {
        self.mask.iter().filter(|&&weight| weight > 0.0).count()
    }
}

/// An endless series of batches: each epoch takes every example once, in an order of its own.
///
/// The last batch of an epoch holds what is left, so no row is ever dropped; with fewer examples than a batch takes,
/// every batch is the whole dataset.
#[derive(Debug, Clone)]
pub struct Batches<'dataset> {
    examples: &'dataset [Example],
    batch_size: usize,
    /// `None` keeps the order of the dataset.
    random: Option<SplitMix64>,
    /// What is left of the current epoch, in reverse.
    remaining: Vec<usize>,
}

impl<'dataset> Batches<'dataset> {
    /// Batches of `batch_size` rows (at least 1) in the order that `seed` decides.
    pub fn new(examples: &'dataset [Example], batch_size: usize, seed: u64) -> Self {
        Self {
            examples,
            batch_size: batch_size.max(1),
            random: Some(SplitMix64 { state: seed }),
            remaining: Vec::new(),
        }
    }

    /// Batches of `batch_size` rows (at least 1) in the order of the dataset, every epoch the same.
    pub fn in_order(examples: &'dataset [Example], batch_size: usize) -> Self {
        Self {
            random: None,
            ..Self::new(examples, batch_size, 0)
        }
    }

    /// Batches in one epoch.
    pub fn per_epoch(&self) -> usize {
        self.examples.len().div_ceil(self.batch_size)
    }
}

impl Iterator for Batches<'_> {
    type Item = Batch;

    /// The next batch; `None` only for an empty dataset.
    fn next(&mut self) -> Option<Batch> {
        if self.remaining.is_empty() {
            self.remaining = (0..self.examples.len()).collect();
            match &mut self.random {
                Some(random) => random.shuffle(&mut self.remaining),
                None => self.remaining.reverse(),
            }
        }
        if self.remaining.is_empty() {
            return None;
        }
        let kept = self.remaining.len().saturating_sub(self.batch_size);
        let mut rows = self.remaining.split_off(kept);
        rows.reverse();
        Some(Batch::new(self.examples, &rows))
    }
}

/// Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators": small, seeded by any number, and the
/// same on every platform and in every version, which saved runs rely on.
#[derive(Debug, Clone)]
struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Fisher and Yates's shuffle. The high bits of a product map a draw to its range; the bias is below 2^-40 for any
    /// dataset that fits in memory.
    fn shuffle(&mut self, values: &mut [usize]) {
        for last in (1..values.len()).rev() {
            let draw = u128::from(self.next()) * (last as u128 + 1);
            values.swap(last, (draw >> 64) as usize);
        }
    }
}
