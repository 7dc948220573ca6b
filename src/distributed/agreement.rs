//! What the processes of a run have to have in common, and what they decide together.

use std::collections::BTreeMap;

use flate2::Crc;
use mlx_rs::error::Exception;
use mlx_rs::ops::zeros_like;
use mlx_rs::{Array, Dtype};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::Ranks;
use crate::readback::{scalar, vector};

/// Processes that were to do the same do not.
#[derive(Debug, Error)]
pub enum AgreementError {
    /// A checksum differs.
    #[error(
        "the processes of the run do not train the same\n  found: other {what} at {} than at rank 0\n  hint: start all of them with the same arguments, on the same files and the same version of this program",
        ranks(others)
    )]
    Differs {
        /// What it is the checksum of.
        what: &'static str,
        /// The ranks where it is another than at the first.
        others: Vec<usize>,
    },
    /// The processes could not ask each other.
    #[error("the processes of the run cannot reach each other: {}", .0.what())]
    Mlx(#[from] Exception),
}

fn ranks(numbers: &[usize]) -> String {
    let numbers: Vec<String> = numbers.iter().map(usize::to_string).collect();
    format!("rank {}", numbers.join(", "))
}

impl Ranks {
    /// Whether any process says so.
    ///
    /// # Errors
    /// A process is lost.
    pub fn any(&self, own: bool) -> Result<bool, Exception> {
        let said = self.group().all_max(&Array::from_int(own.into()));
        Ok(scalar::<i32>(&self.settled(said)?)? > 0)
    }

    /// The sums over all processes of a few numbers, in f32.
    ///
    /// # Errors
    /// A process is lost.
    pub fn sum(&self, own: &[f32]) -> Result<Vec<f32>, Exception> {
        let summed = self.group().all_sum(&Array::from_slice(own, &[own.len() as i32]));
        vector(&self.settled(summed)?)
    }

    /// Refuses processes whose `checksum` of `what` is another than that of the first.
    ///
    /// # Errors
    /// [`AgreementError`]; every process gets the same one.
    pub fn agree(&self, what: &'static str, checksum: u32) -> Result<(), AgreementError> {
        // Signed integers of this size are what every transport sends.
        let own = Array::from_slice(&[checksum.cast_signed()], &[1]);
        let all: Vec<i32> = vector(&self.settled(self.group().all_gather(&own))?)?;
        let differs = |rank: &usize| all[*rank] != all[0];
        let others: Vec<usize> = (0..all.len()).filter(differs).collect();
        if others.is_empty() {
            return Ok(());
        }
        self.all_end();
        Err(AgreementError::Differs { what, others })
    }

    /// Refuses processes whose `text` of `what` is another one than that of the first.
    ///
    /// # Errors
    /// [`AgreementError`].
    pub fn agree_on_text(&self, what: &'static str, text: &str) -> Result<(), AgreementError> {
        let mut checksum = Crc::new();
        checksum.update(text.as_bytes());
        self.agree(what, checksum.sum())
    }

    /// The first process's values of `arrays`, whose names and shapes are the same in all of them.
    ///
    /// # Errors
    /// A process is lost.
    pub fn of_first(&self, arrays: &BTreeMap<String, Array>) -> Result<BTreeMap<String, Array>, Exception> {
        let sent = |(name, array): (&String, &Array)| {
            // What is added to nothing is itself.
            let own = if self.is_first() {
                array.clone()
            } else {
                zeros_like(array)?
            };
            Ok((name.clone(), self.settled(self.group().all_sum(&own))?))
        };
        arrays.iter().map(sent).collect()
    }

    /// What each process has, by rank.
    ///
    /// # Errors
    /// A process is lost, or has something else than this one.
    pub fn gather<T: Serialize + DeserializeOwned>(&self, own: &T) -> Result<Vec<T>, Exception> {
        let foreign = |error: serde_json::Error| Exception::custom(format!("a message between processes: {error}"));
        let text = serde_json::to_vec(own).map_err(foreign)?;
        // Every process has to send as much: spaces behind a value are nothing.
        let longest = self.group().all_max(&Array::from_int(text.len() as i32));
        let longest = scalar::<i32>(&self.settled(longest)?)?;
        let mut sent: Vec<i32> = text.into_iter().map(i32::from).collect();
        sent.resize(longest as usize, i32::from(b' '));
        let gathered = self.group().all_gather(&Array::from_slice(&sent, &[longest]));
        let gathered: Vec<i32> = vector(&self.settled(gathered)?)?;
        gathered
            .chunks(longest as usize)
            .map(|sent| {
                let text: Vec<u8> = sent.iter().map(|&byte| byte as u8).collect();
                serde_json::from_slice(&text).map_err(foreign)
            })
            .collect()
    }

    /// Refuses processes whose `arrays` differ in a bit.
    ///
    /// # Errors
    /// [`AgreementError`].
    pub fn agree_on_bits(&self, what: &'static str, arrays: &BTreeMap<String, Array>) -> Result<(), AgreementError> {
        self.agree(what, checksum(arrays)?)
    }
}

/// A checksum of the bits of `arrays` and of their names.
pub(super) fn checksum(arrays: &BTreeMap<String, Array>) -> Result<u32, Exception> {
    let mut checksum = Crc::new();
    for (name, array) in arrays {
        checksum.update(name.as_bytes());
        let bits = array.reshape(&[-1])?.view_dtype(Dtype::Uint8)?;
        checksum.update(&vector::<u8>(&bits)?);
    }
    Ok(checksum.sum())
}
