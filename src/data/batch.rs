//! Rows that are trained on together.

use std::cmp::Reverse;

use super::example::Example;

/// Id in padded positions. Nothing depends on it: attention is causal, padding comes last, and it is never a target.
const PADDING_ID: i32 = 0;

/// Document of padded positions: none.
const NO_DOCUMENT: i32 = -1;

/// Rows that are trained on together, as arrays of `rows` x `columns` in row-major order.
///
/// Column `i` of the inputs is predicted from columns `0..i`, so a loss over shifted arrays takes inputs
/// `..columns - 1`, targets `1..` and the mask `1..`.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Indices of the examples in their dataset, one per row; of a packed row the first of its examples.
    pub rows: Vec<usize>,
    /// Tokens of the longest row.
    pub columns: usize,
    /// Token ids, shorter rows padded on the right.
    pub tokens: Vec<i32>,
    /// 1 where the token is a target of the loss, otherwise 0; padding is always 0.
    pub mask: Vec<f32>,
    /// Tokens of each row without padding.
    pub lengths: Vec<usize>,
    /// What shares a row; `None` where every row is one example.
    pub documents: Option<Documents>,
}

/// The examples of packed rows. A token may attend to tokens of its own document only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Documents {
    /// For each position of the batch the place of its example in the row, counted from 0, and -1 in padding.
    pub of_tokens: Vec<i32>,
    /// For each row the indices of its examples, as they follow each other.
    pub examples: Vec<Vec<usize>>,
}

impl Batch {
    /// The batch of the given examples, one to a row, padded to the longest of them.
    ///
    /// Indices must be those of `examples`; others are left out.
    pub fn new(examples: &[Example], rows: &[usize]) -> Self {
        let packs: Vec<&[usize]> = rows.iter().map(std::slice::from_ref).collect();
        Self {
            documents: None,
            ..Self::packed(examples, &packs)
        }
    }

    /// The batch whose rows are the given examples laid end to end, padded to the longest row.
    ///
    /// The first token of an example is never a target, as the token before it belongs to another. Indices must be
    /// those of `examples`; others are left out, and so are rows without any.
    pub fn packed(examples: &[Example], packs: &[&[usize]]) -> Self {
        let rows: Vec<Vec<usize>> = packs
            .iter()
            .map(|pack| pack.iter().copied().filter(|&row| row < examples.len()).collect())
            .filter(|pack: &Vec<usize>| !pack.is_empty())
            .collect();
        let lengths: Vec<usize> = rows
            .iter()
            .map(|pack| pack.iter().map(|&row| examples[row].tokens.len()).sum())
            .collect();
        let columns = lengths.iter().copied().max().unwrap_or(0);
        let mut tokens = Vec::with_capacity(rows.len() * columns);
        let mut mask = Vec::with_capacity(rows.len() * columns);
        let mut of_tokens = Vec::with_capacity(rows.len() * columns);
        for (pack, length) in rows.iter().zip(&lengths) {
            for (place, &row) in pack.iter().enumerate() {
                let example = &examples[row];
                tokens.extend(example.tokens.iter().map(|&token| token.cast_signed()));
                let is_target = |(index, &supervised): (usize, &bool)| supervised && (place == 0 || index > 0);
                let targets = example.supervised.iter().enumerate().map(is_target);
                mask.extend(targets.map(|is_target| f32::from(u8::from(is_target))));
                of_tokens.extend(std::iter::repeat_n(place as i32, example.tokens.len()));
            }
            let padding = columns - length;
            tokens.extend(std::iter::repeat_n(PADDING_ID, padding));
            mask.extend(std::iter::repeat_n(0.0, padding));
            of_tokens.extend(std::iter::repeat_n(NO_DOCUMENT, padding));
        }
        Self {
            rows: rows.iter().map(|pack| pack[0]).collect(),
            columns,
            tokens,
            mask,
            lengths,
            documents: Some(Documents {
                of_tokens,
                examples: rows,
            }),
        }
    }

    /// The rows at `positions` of this batch, padded to the longest of them.
    #[must_use]
    pub fn select(&self, positions: &[usize]) -> Self {
        let lengths: Vec<usize> = positions.iter().map(|&position| self.lengths[position]).collect();
        let columns = lengths.iter().copied().max().unwrap_or(0);
        Self {
            rows: positions.iter().map(|&position| self.rows[position]).collect(),
            columns,
            tokens: self.cut(&self.tokens, positions, columns),
            mask: self.cut(&self.mask, positions, columns),
            lengths,
            documents: self.documents.as_ref().map(|documents| Documents {
                of_tokens: self.cut(&documents.of_tokens, positions, columns),
                examples: positions
                    .iter()
                    .map(|&position| documents.examples[position].clone())
                    .collect(),
            }),
        }
    }

    /// The rows dealt out into `count` batches that have about as many tokens each: longest first, to the emptiest. Every row is in
    /// exactly one of them; some have none where there are fewer rows.
    pub fn deal(&self, count: usize) -> Vec<Self> {
        let mut by_length: Vec<usize> = (0..self.rows.len()).collect();
        by_length.sort_by_key(|&position| Reverse(self.lengths[position]));
        let mut parts: Vec<(usize, Vec<usize>)> = vec![(0, Vec::new()); count];
        for position in by_length {
            if let Some((tokens, part)) = parts.iter_mut().min_by_key(|(tokens, _)| *tokens) {
                *tokens += self.lengths[position];
                part.push(position);
            }
        }
        parts
            .into_iter()
            .map(|(_, positions)| self.select(&positions))
            .collect()
    }

    /// The first `columns` of an array's rows at `positions`.
    fn cut<T: Copy>(&self, values: &[T], positions: &[usize], columns: usize) -> Vec<T> {
        positions
            .iter()
            .flat_map(|position| &values[position * self.columns..position * self.columns + columns])
            .copied()
            .collect()
    }

    /// The shape of the arrays: rows, columns.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows.len(), self.columns]
    }

    /// Tokens without padding.
    pub fn token_count(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// Positions that hold no token.
    pub fn padding(&self) -> usize {
        self.tokens.len() - self.token_count()
    }

    /// Tokens that the loss counts as targets.
    pub fn supervised_tokens(&self) -> usize {
        self.mask.iter().filter(|&&weight| weight > 0.0).count()
    }

    /// The indices of all examples, row by row.
    pub fn examples(&self) -> Vec<usize> {
        match &self.documents {
            Some(documents) => documents.examples.concat(),
            None => self.rows.clone(),
        }
    }

    /// For each position its place in its own document, counted from 0, as models with learned positions need it; 0 in
    /// padding.
    pub fn positions(&self) -> Vec<i32> {
        let document = |index: usize| match &self.documents {
            Some(documents) => documents.of_tokens[index],
            None if index % self.columns < self.lengths[index / self.columns] => 0,
            None => NO_DOCUMENT,
        };
        let mut positions: Vec<i32> = Vec::with_capacity(self.tokens.len());
        for index in 0..self.tokens.len() {
            let goes_on = !index.is_multiple_of(self.columns)
                && document(index) != NO_DOCUMENT
                && document(index) == document(index - 1);
            positions.push(if goes_on { positions[index - 1] + 1 } else { 0 });
        }
        positions
    }
}
