//! Repetition within one answer.

use std::collections::HashSet;

use crate::evidence::Repetition;

/// Longest span, in tokens, that is looked for as the unit of a loop.
const LONGEST_SPAN: usize = 32;
/// Times a span must come in a row to count as a loop.
const FEWEST_REPEATS: usize = 3;

/// Measures `tokens`; the looped span is returned as tokens for the caller to show as text.
pub fn measure(tokens: &[u32], to_text: impl Fn(&[u32]) -> String) -> Repetition {
    let (span, covered) = loop_at_end(tokens);
    Repetition {
        distinct_1: distinct(tokens, 1),
        distinct_2: distinct(tokens, 2),
        distinct_4: distinct(tokens, 4),
        looped_share: if tokens.is_empty() {
            0.0
        } else {
            covered as f64 / tokens.len() as f64
        },
        compression: 1.0,
        looped_span: if span.is_empty() { String::new() } else { to_text(span) },
    }
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
    use super::measure;
    use approx::assert_relative_eq;

    fn text(tokens: &[u32]) -> String {
        format!("{tokens:?}")
    }

    #[test]
    fn one_token_for_ever_is_a_loop_over_the_whole_answer() {
        let repetition = measure(&[7; 20], text);
        assert_relative_eq!(repetition.looped_share, 1.0);
        assert_eq!(repetition.looped_span, "[7]");
        assert_relative_eq!(repetition.distinct_1, 1.0 / 20.0);
        assert_relative_eq!(repetition.distinct_2, 1.0 / 19.0);
    }

    #[test]
    fn a_phrase_that_comes_three_times_at_the_end_is_found_behind_a_healthy_start() {
        let repetition = measure(&[1, 2, 3, 8, 9, 8, 9, 8, 9], text);
        assert_relative_eq!(repetition.looped_share, 6.0 / 9.0);
        assert_eq!(repetition.looped_span, "[8, 9]");
    }

    #[test]
    fn a_phrase_that_comes_twice_is_no_loop() {
        let repetition = measure(&[1, 2, 3, 4, 3, 4], text);
        assert_relative_eq!(repetition.looped_share, 0.0);
        assert_eq!(repetition.looped_span, "");
    }

    #[test]
    fn an_empty_answer_repeats_nothing() {
        let repetition = measure(&[], text);
        assert_relative_eq!(repetition.distinct_1, 1.0);
        assert_relative_eq!(repetition.looped_share, 0.0);
    }
}
