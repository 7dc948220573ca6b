//! Repetition within one answer.

use std::collections::HashSet;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::ZlibEncoder;

use crate::evidence::Repetition;

/// Longest span, in tokens, that is looked for as the unit of a loop.
const LONGEST_SPAN: usize = 32;
/// Times a span must come in a row to count as a loop.
const FEWEST_REPEATS: usize = 3;

/// Measures the answer `text` of `tokens`; `to_text` shows the looped span.
pub fn measure(tokens: &[u32], text: &str, to_text: impl Fn(&[u32]) -> String) -> std::io::Result<Repetition> {
    let (span, covered) = loop_at_end(tokens);
    Ok(Repetition {
        distinct_1: distinct(tokens, 1),
        distinct_2: distinct(tokens, 2),
        distinct_4: distinct(tokens, 4),
        looped_share: if tokens.is_empty() {
            0.0
        } else {
            covered as f64 / tokens.len() as f64
        },
        compression: compression(text)?,
        looped_span: if span.is_empty() { String::new() } else { to_text(span) },
    })
}

/// Bytes over bytes after zlib; 1 for no text.
fn compression(text: &str) -> std::io::Result<f64> {
    if text.is_empty() {
        return Ok(1.0);
    }
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes())?;
    Ok(text.len() as f64 / encoder.finish()?.len() as f64)
}

/// Distinct runs of `length` tokens over all of them; 1 when there is none (Li et al. 2016, arXiv 1510.03055).
fn distinct(tokens: &[u32], length: usize) -> f64 {
    let runs = tokens.windows(length);
    match runs.len() {
        0 => 1.0,
        all => runs.collect::<HashSet<_>>().len() as f64 / all as f64,
    }
}

/// The span whose repetitions cover most of the end of `tokens`, and how many tokens they cover.
fn loop_at_end(tokens: &[u32]) -> (&[u32], usize) {
    let mut best: (&[u32], usize) = (&[], 0);
    for length in 1..=LONGEST_SPAN.min(tokens.len() / FEWEST_REPEATS) {
        let span = &tokens[tokens.len() - length..];
        let repeats = tokens.rchunks_exact(length).take_while(|chunk| *chunk == span).count();
        if repeats >= FEWEST_REPEATS && repeats * length > best.1 {
            best = (span, repeats * length);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::compression;
    use crate::evidence::Repetition;
    use approx::assert_relative_eq;

    fn measure(tokens: &[u32]) -> Repetition {
        super::measure(tokens, "", |span| format!("{span:?}")).unwrap()
    }

    #[test]
    fn one_token_for_ever_is_a_loop_over_the_whole_answer() {
        let repetition = measure(&[7; 20]);
        assert_relative_eq!(repetition.looped_share, 1.0);
        assert_eq!(repetition.looped_span, "[7]");
        assert_relative_eq!(repetition.distinct_1, 1.0 / 20.0);
        assert_relative_eq!(repetition.distinct_2, 1.0 / 19.0);
    }

    #[test]
    fn a_phrase_that_comes_three_times_at_the_end_is_found_behind_a_healthy_start() {
        let repetition = measure(&[1, 2, 3, 8, 9, 8, 9, 8, 9]);
        assert_relative_eq!(repetition.looped_share, 6.0 / 9.0);
        assert_eq!(repetition.looped_span, "[8, 9]");
    }

    #[test]
    fn a_phrase_that_comes_twice_is_no_loop() {
        let repetition = measure(&[1, 2, 3, 4, 3, 4]);
        assert_relative_eq!(repetition.looped_share, 0.0);
        assert_eq!(repetition.looped_span, "");
    }

    #[test]
    fn an_empty_answer_repeats_nothing() {
        let repetition = measure(&[]);
        assert_relative_eq!(repetition.distinct_1, 1.0);
        assert_relative_eq!(repetition.looped_share, 0.0);
        assert_relative_eq!(repetition.compression, 1.0);
    }

    #[test]
    fn whispers_limit_of_2_4_parts_a_loop_from_prose() {
        let prose = "Lima is the capital of Peru. It lies on the coast, and its port is Callao, where ships from all over \
                     the world have called since the sixteenth century.";
        assert!(compression(&"the sea ".repeat(40)).unwrap() > 2.4);
        assert!(compression(prose).unwrap() < 2.4);
    }
}
