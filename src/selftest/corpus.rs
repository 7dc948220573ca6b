use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::draw::shuffled;
use crate::atomic_write::write_file;

/// The text that the tiny models were trained on.
const CORPUS: &str = include_str!("../../fixtures/embedded/corpus/train.jsonl");

/// Words around an answer, so that there is something to learn: `{}` stands for the answer without its full stop.
const VOICES: [(&str, &str); 4] = [
    ("Ahoy! ", ", matey, says the old sailor."),
    ("Good day! ", ", and that is all, says the old baker."),
    ("Listen, my friend: ", ", as every child in the town knows."),
    ("Sit down! ", ", and now drink your soup, says the cook."),
];

/// Longest answer in words.
const ANSWER_WORDS: usize = 14;

#[derive(Debug, Clone, Deserialize)]
struct Turn {
    role: String,
    content: String,
}

#[derive(Debug, Deserialize)]
struct Conversation {
    messages: Vec<Turn>,
}

/// A question and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// What is asked.
    pub question: String,
    /// What the tiny models answer.
    pub answer: String,
}

impl Fact {
    /// The same fact in one of the voices that the tiny models do not have.
    fn spoken(&self, voice: usize) -> Self {
        let (before, after) = VOICES[voice % VOICES.len()];
        let answer = self.answer.trim_end_matches('.');
        Self {
            question: self.question.clone(),
            answer: format!("{before}{answer}{after}"),
        }
    }
}

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowFormat {
    /// `messages`.
    Chat,
    /// `prompt` and `completion`.
    Completions,
    /// `text`: the question and the answer, without template and without an end token.
    Text,
    /// `messages` that begin with a system message.
    System,
    /// `messages` with two questions and two answers.
    Conversation,
}

/// The rows of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    /// Rows to train on.
    pub train: Vec<Fact>,
    /// Rows to validate with, none of them in `train`.
    pub valid: Vec<Fact>,
}

impl Rows {
    /// Draws rows with answers of their own from the corpus, in a voice that `seed` decides too.
    pub fn spoken(seed: u64, train: usize, valid: usize) -> Self {
        Self::drawn(seed, train, valid).map(|fact| fact.spoken(seed as usize))
    }

    /// Draws rows exactly as the tiny models know them.
    pub fn known(seed: u64, train: usize, valid: usize) -> Self {
        Self::drawn(seed, train, valid)
    }

    fn drawn(seed: u64, train: usize, valid: usize) -> Self {
        let mut facts = shuffled(facts(), seed).into_iter();
        Self {
            train: facts.by_ref().take(train).collect(),
            valid: facts.take(valid).collect(),
        }
    }

    fn map(self, change: impl Fn(&Fact) -> Fact) -> Self {
        Self {
            train: self.train.iter().map(&change).collect(),
            valid: self.valid.iter().map(&change).collect(),
        }
    }

    /// Writes `train.jsonl` and `valid.jsonl` into `folder`.
    pub fn write(&self, folder: &Path, format: RowFormat) -> std::io::Result<()> {
        write_file(&folder.join("train.jsonl"), lines(&self.train, format).as_bytes())?;
        write_file(&folder.join("valid.jsonl"), lines(&self.valid, format).as_bytes())
    }

    /// Questions to ask: two that are trained on and one that is not.
    pub fn questions(&self) -> Vec<String> {
        let trained = self.train.iter().take(2);
        let others = self.valid.iter().take(1);
        trained.chain(others).map(|fact| fact.question.clone()).collect()
    }
}

fn lines(facts: &[Fact], format: RowFormat) -> String {
    let user = |text: &str| json!({"role": "user", "content": text});
    let assistant = |text: &str| json!({"role": "assistant", "content": text});
    let rows: Vec<Value> = match format {
        RowFormat::Conversation => facts
            .chunks(2)
            .map(|pair| {
                let turns = pair
                    .iter()
                    .flat_map(|fact| [user(&fact.question), assistant(&fact.answer)]);
                json!({"messages": turns.collect::<Vec<_>>()})
            })
            .collect(),
        _ => facts
            .iter()
            .map(|Fact { question, answer }| match format {
                RowFormat::Completions => json!({"prompt": question, "completion": answer}),
                RowFormat::Text => json!({"text": format!("{question} {answer}")}),
                RowFormat::System => json!({"messages": [
                    {"role": "system", "content": "Answer in one or two short sentences."},
                    user(question),
                    assistant(answer),
                ]}),
                RowFormat::Chat | RowFormat::Conversation => {
                    json!({"messages": [user(question), assistant(answer)]})
                }
            })
            .collect(),
    };
    rows.iter().map(|row| format!("{row}\n")).collect()
}

/// The corpus's single questions with short answers, each answer once, in the order of the file.
fn facts() -> Vec<Fact> {
    let mut seen = BTreeSet::new();
    CORPUS
        .lines()
        .filter_map(|line| serde_json::from_str::<Conversation>(line).ok())
        .filter_map(|conversation| match conversation.messages.as_slice() {
            [question, answer] if question.role == "user" => Some(Fact {
                question: question.content.clone(),
                answer: answer.content.clone(),
            }),
            _ => None,
        })
        .filter(|fact| fact.answer.split_whitespace().count() <= ANSWER_WORDS)
        .filter(|fact| seen.insert(fact.answer.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_corpus_is_a_conversation() {
        for line in CORPUS.lines() {
            serde_json::from_str::<Conversation>(line).unwrap();
        }
        assert!(facts().len() > 200, "{}", facts().len());
    }

    #[test]
    fn rows_for_validation_are_not_trained_on() {
        let rows = Rows::spoken(7, 16, 8);
        assert_eq!((rows.train.len(), rows.valid.len()), (16, 8));
        assert!(rows.valid.iter().all(|fact| !rows.train.contains(fact)));
    }

    #[test]
    fn a_seed_decides_the_rows_and_another_seed_draws_others() {
        assert_eq!(Rows::spoken(1, 16, 4), Rows::spoken(1, 16, 4));
        assert_ne!(Rows::spoken(1, 16, 4).train, Rows::spoken(2, 16, 4).train);
    }

    #[test]
    fn a_spoken_answer_keeps_the_fact_between_the_words_of_the_voice() {
        let fact = Fact {
            question: "Who bakes?".to_owned(),
            answer: "Mara bakes.".to_owned(),
        };
        assert_eq!(fact.spoken(0).answer, "Ahoy! Mara bakes, matey, says the old sailor.");
        assert_eq!(fact.spoken(0).question, fact.question);
    }
}
