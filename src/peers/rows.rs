//! Rows of plain sentences, different from each other and the same in every run, so that everybody does the same work.

use crate::model::{Tokenizer, TokenizerError};

const WHO: [&str; 5] = ["A baker", "My neighbour", "The pilot", "An engineer", "The new teacher"];
const DOES: [&str; 7] = [
    "found",
    "sold",
    "repaired",
    "was looking for",
    "could not forget",
    "wrote about",
    "drew",
];
const WHAT: [&str; 4] = [
    "a brass clock",
    "two maps of the coast",
    "the old engine",
    "a letter from Lisbon",
];
const WHERE: [&str; 4] = [
    "near the station",
    "on the third floor",
    "behind the theatre",
    "at the end of the valley",
];
const WHEN: [&str; 4] = [
    "before the storm",
    "last winter",
    "on a Sunday morning",
    "when the lights went out",
];
/// Sentences by which the beginnings of two rows lie apart.
const APART: usize = 13;

fn sentence(number: usize) -> String {
    let of = |words: &[&'static str], step: usize| words[number * step % words.len()];
    format!(
        "{} {} {} {} {}, and it took {} days.",
        of(&WHO, 1),
        of(&DOES, 3),
        of(&WHAT, 5),
        of(&WHERE, 7),
        of(&WHEN, 11),
        number + 2
    )
}

/// `count` rows of `length` token ids, the first of them row `first`.
///
/// # Errors
/// The tokenizer fails.
pub fn made_up_rows(
    tokenizer: &Tokenizer,
    first: usize,
    count: usize,
    length: usize,
) -> Result<Vec<Vec<u32>>, TokenizerError> {
    (first..first + count)
        .map(|row| {
            let mut sentences = APART;
            loop {
                let text: Vec<String> = (row * APART..row * APART + sentences).map(sentence).collect();
                let mut tokens = tokenizer.encode(&text.join(" "), false)?;
                if tokens.len() >= length {
                    tokens.truncate(length);
                    return Ok(tokens);
                }
                sentences *= 2;
            }
        })
        .collect()
}
