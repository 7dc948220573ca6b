//! Keeps rows of a file back for validation.

use std::collections::HashMap;

use thiserror::Error;

use super::random::SplitMix64;
use super::record::Record;
use super::records::RecordFile;

/// How many rows are kept back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HeldOut {
    /// A share of the rows, between 0 and 1, rounded to whole rows and at least one.
    Fraction(f64),
    /// So many rows.
    Rows(usize),
}

/// Why no rows can be kept back.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HeldOutError {
    /// The amount leaves no row on one side.
    #[error(
        "rows cannot be held out for validation\n  found: {found} of {rows} rows\n  expected: {expected}\n  hint: ask for fewer rows, or give validation rows of their own"
    )]
    Amount {
        /// What was asked for.
        found: String,
        /// Rows in all.
        rows: usize,
        /// What can be asked for.
        expected: String,
    },
    /// There are no two rows that differ.
    #[error(
        "rows cannot be held out for validation\n  found: {rows} times the same row\n  expected: rows that differ\n  hint: give validation rows of their own"
    )]
    AllTheSame {
        /// Rows in all.
        rows: usize,
    },
}

impl RecordFile {
    /// The rows to train on and those kept back, both in the order of the file. `seed` alone decides which.
    ///
    /// Rows that are the same are never on both sides, so a few more or less may be kept back than asked for.
    ///
    /// # Errors
    /// See [`HeldOutError`].
    pub fn hold_out(&self, amount: HeldOut, seed: u64) -> Result<(Self, Self), HeldOutError> {
        let wanted = amount.rows_of(self.records.len())?;
        let mut groups = alike(&self.records);
        if groups.len() < 2 {
            return Err(HeldOutError::AllTheSame {
                rows: self.records.len(),
            });
        }
        SplitMix64 { state: seed }.shuffle(&mut groups);
        let mut kept_back = vec![false; self.records.len()];
        let mut count = 0;
        for group in &groups {
            if count + group.len() <= wanted {
                count += group.len();
                for &row in group {
                    kept_back[row] = true;
                }
            }
        }
        if count == 0 {
            let smallest = groups.iter().min_by_key(|group| group.len());
            for &row in smallest.into_iter().flatten() {
                kept_back[row] = true;
            }
        }
        Ok((self.only(&kept_back, false), self.only(&kept_back, true)))
    }

    /// The rows whose flag is `wanted`.
    fn only(&self, flags: &[bool], wanted: bool) -> Self {
        let chosen = || flags.iter().enumerate().filter(|(_, flag)| **flag == wanted);
        Self {
            path: self.path.clone(),
            format: self.format,
            records: chosen().map(|(row, _)| self.records[row].clone()).collect(),
            lines: chosen().map(|(row, _)| self.lines[row]).collect(),
            unread_keys: self.unread_keys.clone(),
        }
    }
}

impl HeldOut {
    /// The number of rows of `rows`, at least one and not all.
    fn rows_of(self, rows: usize) -> Result<usize, HeldOutError> {
        let refused = |found: String, expected: String| Err(HeldOutError::Amount { found, rows, expected });
        let most = rows.saturating_sub(1);
        match self {
            Self::Fraction(share) if !(share > 0.0 && share < 1.0) => {
                refused(format!("a share of {share}"), "a share between 0 and 1".to_owned())
            }
            Self::Fraction(share) => {
                let wanted = ((share * rows as f64).round() as usize).max(1);
                if wanted > most {
                    return refused(format!("a share of {share}"), "at least one row to train on".to_owned());
                }
                Ok(wanted)
            }
            Self::Rows(wanted) if wanted == 0 || wanted > most => {
                refused(wanted.to_string(), format!("from 1 to {most}"))
            }
            Self::Rows(wanted) => Ok(wanted),
        }
    }
}

/// The rows that are the same as each other, in the order of the first of them.
fn alike(records: &[Record]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut group_of: HashMap<String, usize> = HashMap::new();
    for (row, record) in records.iter().enumerate() {
        let group = *group_of.entry(identity(record)).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[group].push(row);
    }
    groups
}

/// A text that two records share only if they are the same, in whatever order their fields were written.
fn identity(record: &Record) -> String {
    let mut value = record.to_json();
    value.sort_all_objects();
    value.to_string()
}
