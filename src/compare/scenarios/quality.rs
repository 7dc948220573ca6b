//! How likely a model thinks the words of a text that people would write.

use super::thresholds::{CONTEXT_STEP, LEAST_CONTEXT, QUALITY_CANDIDATES, QUALITY_FIRST_WORD, QUALITY_POSITIONS};
use super::{Scenario, Stage, Stop};
use crate::compare::servers::{LoadRequest, NextTokens};
use crate::compare::{FailureKind, Plan, Unit};

/// Plain English, written for this program, in common words that are one token each for most tokenizers.
const TEXT: &str = "\
The old man opened the door of the small house and looked at the sea. It was early in the morning, and the sun had not come \
up yet. He put on his coat, took the lamp from the table, and walked down to the water. The boat was where he had left it the \
night before. He pushed it into the water, sat down, and began to row. There was no wind, and the only sound was that of the \
water against the side of the boat. After an hour he could see the island, and after two hours he could see the people who \
lived there. They stood on the shore and waited for him, as they did every week. He had brought them bread, milk, and the \
letters from the town. A young woman asked him if there was a letter for her. He looked through all of them, one by one, and \
then he gave her the last one. She read it at once, and then she began to smile. The old man did not ask her what it said. He \
knew that good news is like the light of the day, and that everyone can see it on the face of those who have it.";

/// The marks before a token that begins a word: a space, and how `SentencePiece` and byte-level BPE write one.
const WORD_BEGINNINGS: [char; 3] = [' ', '\u{2581}', '\u{0120}'];

pub(super) struct Quality;

/// A place in the text.
#[derive(Debug, PartialEq)]
struct Position {
    /// Words before it.
    words: usize,
    /// The text until there.
    prefix: &'static str,
    /// The word that follows, without the space before it.
    word: &'static str,
}

/// What was measured at the positions whose word was among the candidates.
#[derive(Default)]
struct Measured {
    positions: Vec<f64>,
    log_probabilities: Vec<f64>,
    top_log_probabilities: Vec<f64>,
    top_is_word: Vec<f64>,
    not_listed: usize,
}

impl Scenario for Quality {
    fn name(&self) -> &'static str {
        "quality"
    }

    fn summary(&self) -> &'static str {
        "log-probabilities of the words of one text (teacher forcing): whether both formats think alike"
    }

    /// Once: the same text and the same weights give the same numbers.
    fn rounds(&self, _plan: &Plan) -> usize {
        1
    }

    fn needs(&self, _plan: &Plan) -> LoadRequest {
        LoadRequest {
            // A token has at least a byte of text.
            context_length: TEXT.len().max(LEAST_CONTEXT).next_multiple_of(CONTEXT_STEP),
            parallel: 1,
            prompt_cache: true,
        }
    }

    fn run(&self, stage: &mut Stage<'_>) -> Result<(), Stop> {
        stage.load(&self.needs(stage.plan()))?;
        let measured = stage.phase("measure", |stage| {
            let mut measured = Measured::default();
            for position in positions(TEXT, QUALITY_POSITIONS) {
                let tokens = stage.next_tokens(position.prefix, QUALITY_CANDIDATES)?;
                measured.add(&position, &tokens);
            }
            Ok(measured)
        });
        match measured {
            Ok(measured) => {
                measured.record(stage);
                Ok(())
            }
            Err(Stop::Failure(failure)) if failure.kind == FailureKind::Unsupported => Err(Stop::Skip(failure.reason)),
            Err(stop) => Err(stop),
        }
    }
}

impl Measured {
    fn add(&mut self, position: &Position, tokens: &NextTokens) {
        let is_word = |text: &str| text.strip_prefix(WORD_BEGINNINGS) == Some(position.word);
        let listed = tokens.tokens.iter().find(|(text, _)| is_word(text));
        let (Some((_, log_probability)), Some((top, top_log_probability))) = (listed, tokens.tokens.first()) else {
            self.not_listed += 1;
            return;
        };
        if !log_probability.is_finite() || !top_log_probability.is_finite() {
            self.not_listed += 1;
            return;
        }
        self.positions.push(position.words as f64);
        self.log_probabilities.push(*log_probability);
        self.top_log_probabilities.push(*top_log_probability);
        self.top_is_word.push(f64::from(u8::from(is_word(top))));
    }

    fn record(&self, stage: &mut Stage<'_>) {
        let figures: [(&str, Unit, &[f64], &str); 4] = [
            (
                "position",
                Unit::Count,
                &self.positions,
                "words of the text before each position whose next word was among the candidates",
            ),
            (
                "log-probability",
                Unit::Nats,
                &self.log_probabilities,
                "log-probability of the text's next word as one token, at each of these positions",
            ),
            (
                "top-log-probability",
                Unit::Nats,
                &self.top_log_probabilities,
                "log-probability of the likeliest token, at each of these positions",
            ),
            (
                "top-is-next-word",
                Unit::Share,
                &self.top_is_word,
                "1 where the likeliest token is the text's next word and 0 where not, at each of these positions",
            ),
        ];
        for (name, unit, values, note) in figures {
            stage.figure(name, unit, values, note);
        }
        let note =
            format!("positions whose next word was not among the {QUALITY_CANDIDATES} likeliest tokens as one token");
        stage.figure("position-not-listed", Unit::Count, &[self.not_listed as f64], &note);
    }
}

/// So many places before words of a text, spread over it evenly, the first after [`QUALITY_FIRST_WORD`] words.
fn positions(text: &'static str, count: usize) -> Vec<Position> {
    let words: Vec<&'static str> = text.split(' ').collect();
    let last = words.len().saturating_sub(1);
    let span = last.saturating_sub(QUALITY_FIRST_WORD);
    let mut places: Vec<usize> = (0..count)
        .map(|index| QUALITY_FIRST_WORD + index * span / count.max(1))
        .collect();
    places.dedup();
    let position = |place: usize| {
        let before: usize = words.iter().take(place).map(|word| word.len() + 1).sum();
        Some(Position {
            words: place,
            // Without the space, which belongs to the next token.
            prefix: text.get(..before.checked_sub(1)?)?,
            word: words.get(place)?.trim_end_matches(['.', ',']),
        })
    };
    places.into_iter().filter_map(position).collect()
}

#[cfg(test)]
mod tests {
    use super::{Measured, QUALITY_FIRST_WORD, QUALITY_POSITIONS, TEXT, positions};
    use crate::compare::servers::NextTokens;

    #[test]
    fn a_position_is_followed_by_its_word() {
        let positions = positions(TEXT, QUALITY_POSITIONS);
        assert_eq!(positions.len(), QUALITY_POSITIONS);
        for position in &positions {
            let rest = &TEXT[position.prefix.len()..];
            assert!(rest.starts_with(&format!(" {}", position.word)), "{position:?}");
            assert_eq!(position.prefix.split(' ').count(), position.words);
        }
        assert_eq!(positions[0].words, QUALITY_FIRST_WORD);
        assert!(positions.windows(2).all(|pair| pair[0].words < pair[1].words));
    }

    #[test]
    fn only_the_whole_word_counts_however_its_beginning_is_written() {
        let position = &positions(
            "one two three four five six seven eight nine ten eleven twelve the end",
            1,
        )[0];
        assert_eq!(position.word, "the");
        let measure = |texts: [&str; 2]| {
            let mut measured = Measured::default();
            let tokens = texts
                .into_iter()
                .zip([-0.5, -1.5])
                .map(|(text, value)| (text.to_owned(), value));
            measured.add(
                position,
                &NextTokens {
                    tokens: tokens.collect(),
                },
            );
            (measured.log_probabilities, measured.top_is_word, measured.not_listed)
        };
        assert_eq!(measure([" the", " a"]), (vec![-0.5], vec![1.0], 0));
        assert_eq!(measure([" a", "\u{2581}the"]), (vec![-1.5], vec![0.0], 0));
        assert_eq!(measure(["\u{120}the", "the"]), (vec![-0.5], vec![1.0], 0));
        for texts in [["the", " th"], [" then", " The"]] {
            assert_eq!(measure(texts), (vec![], vec![], 1), "{texts:?}");
        }
    }

    #[test]
    fn what_is_no_number_is_not_listed() {
        let position = &positions(TEXT, 1)[0];
        let mut measured = Measured::default();
        let tokens = vec![(format!(" {}", position.word), f64::NEG_INFINITY)];
        measured.add(position, &NextTokens { tokens });
        assert_eq!((measured.positions.len(), measured.not_listed), (0, 1));
    }
}
