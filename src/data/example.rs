//! Turns records into token ids with the positions that are trained on.
//!
//! The tokens are those that mlx-lm makes. Two things differ, since mlx-lm goes wrong there without a word: the
//! boundary of a masked prompt is checked against the tokens of the whole row, and padding is never trained on.

use std::sync::Arc;

use flate2::Crc;
use serde_json::Value;
use thiserror::Error;

use super::record::{DataFormat, Record};
use super::records::RecordFile;
use super::supervision::{Supervision, Targets};
use crate::evidence::Listing;
use crate::model::{Message, Tokenizer, TokenizerError};

/// Why a record could not become an example.
#[derive(Debug, Error)]
pub enum ExampleError {
    /// The tokenizer or the chat template failed on a row.
    #[error("row {row} (line {line}) cannot be made into tokens: {source}")]
    Row {
        /// Position in the data, counted from 1.
        row: usize,
        /// Line of the file, counted from 1.
        line: usize,
        /// What failed.
        source: TokenizerError,
    },
    /// The chat template cannot write a content that is a list of parts.
    #[error(
        "row {row} (line {line}) has a message whose content is a list of parts\n  found: a chat template that writes texts alone\n  expected: one text\n  hint: join the parts of each message into one text"
    )]
    Parts {
        /// Position in the data, counted from 1.
        row: usize,
        /// Line of the file, counted from 1.
        line: usize,
    },
    /// A row came out without any token.
    #[error(
        "row {row} (line {line}) has no tokens\n  found: an empty rendering\n  expected: at least one token\n  hint: check the chat template"
    )]
    NoTokens {
        /// Position in the data, counted from 1.
        row: usize,
        /// Line of the file, counted from 1.
        line: usize,
    },
}

/// How examples are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExampleSettings {
    /// What of a conversation is trained on.
    pub supervision: Supervision,
    /// Longest row in tokens; longer rows lose their end.
    pub max_sequence_length: usize,
}

/// What a row asks and what it answers, for measuring a model against it.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptReference {
    /// The messages before the answer.
    pub messages: Vec<Message>,
    /// Descriptions of tools, for the chat template.
    pub tools: Option<Vec<Value>>,
    /// The answer's text.
    pub answer: String,
}

/// What a row was made from, and its tokens before any was masked, cut or changed.
#[derive(Debug, Clone, PartialEq)]
pub struct RowSource {
    /// The record; `None` for a row that was made of tokens.
    pub record: Option<Record>,
    /// All tokens of the row: the rendered conversation, or the text with its end token.
    pub tokens: Vec<u32>,
    /// The tokens of everything before the last message, with the header that opens an answer where that message is
    /// one; `None` where there is nothing before it, or where the template refuses it and no mask needs it.
    pub prompt: Option<Vec<u32>>,
}

/// One row, ready for training.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Token ids, at least one.
    pub tokens: Vec<u32>,
    /// For each token whether the loss counts it as a target; the first token never is one, as nothing predicts it.
    pub supervised: Vec<bool>,
    /// Tokens before the first answer that is trained on; 0 when nothing is masked. May be beyond a row that was cut.
    pub prompt_boundary: usize,
    /// Whether the row was longer than allowed and lost its end.
    pub truncated: bool,
    /// Tokens before cutting.
    pub original_length: usize,
    /// Whether the prompt's own tokens are not a prefix of the row's, so that the boundary is where they part.
    pub boundary_moved: bool,
    /// Answers that were to be trained on and are not, since the chat template does not tell where they stand: it
    /// writes earlier turns otherwise than last ones.
    pub unplaced_answers: usize,
    /// The row's question and answer; `None` for plain text and for conversations that do not end with an answer.
    pub reference: Option<PromptReference>,
    /// What the row was made from.
    pub source: Arc<RowSource>,
}

impl Example {
    /// Tokens that the loss counts as targets.
    pub fn supervised_tokens(&self) -> usize {
        self.supervised.iter().filter(|&&supervised| supervised).count()
    }

    /// The ids of the supervised tokens, in order.
    pub fn targets(&self) -> impl Iterator<Item = u32> + '_ {
        self.tokens
            .iter()
            .zip(&self.supervised)
            .filter(|(_, supervised)| **supervised)
            .map(|(&token, _)| token)
    }
}

/// The examples of a file, in the order of its records.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// The format of every record.
    pub format: DataFormat,
    /// One per record; never empty.
    pub examples: Vec<Example>,
    /// What was asked for and does not apply, one sentence each, without a final period.
    pub notes: Vec<String>,
}

impl Dataset {
    /// Makes an example of every record.
    ///
    /// # Errors
    /// [`ExampleError`] for the first row that cannot be made into tokens.
    pub fn new(file: &RecordFile, tokenizer: &Tokenizer, settings: ExampleSettings) -> Result<Self, ExampleError> {
        let mut examples = Vec::with_capacity(file.records.len());
        for (index, (record, &line)) in file.records.iter().zip(&file.lines).enumerate() {
            let row = index + 1;
            let example = Example::new(record, tokenizer, settings)
                .map_err(|source| match record {
                    Record::Chat { messages, .. } if messages.iter().any(has_parts) => {
                        ExampleError::Parts { row, line }
                    }
                    _ => ExampleError::Row { row, line, source },
                })?
                .ok_or(ExampleError::NoTokens { row, line })?;
            examples.push(example);
        }
        let mut notes = Vec::new();
        if !file.unread_keys.is_empty() {
            let keys: Listing = file.unread_keys.iter().map(String::as_str).collect();
            notes.push(format!("the rows have keys that nothing reads: {keys}"));
        }
        let unplaced = examples.iter().map(|example| example.unplaced_answers);
        let (rows, answers) = unplaced
            .filter(|&answers| answers > 0)
            .fold((0, 0), |(rows, all), answers| (rows + 1, all + answers));
        if answers > 0 {
            notes.push(format!(
                "the chat template writes earlier turns otherwise than last ones, so that answers cannot be told from the rest: \
                 {answers} in {rows} of {} rows are not trained on",
                examples.len()
            ));
        }
        if settings.supervision.masks_prompts() && file.format == DataFormat::Text {
            notes.push("rows of plain text have no prompt to mask; all their tokens are trained on".to_owned());
        }
        Ok(Self {
            format: file.format,
            examples,
            notes,
        })
    }

    /// A checksum of the tokens of all rows, and of which of them are targets.
    pub fn checksum(&self) -> u32 {
        let mut checksum = Crc::new();
        for example in &self.examples {
            checksum.update(&(example.tokens.len() as u64).to_le_bytes());
            for (token, supervised) in example.tokens.iter().zip(&example.supervised) {
                checksum.update(&token.to_le_bytes());
                checksum.update(&[u8::from(*supervised)]);
            }
        }
        checksum.sum()
    }
}

impl Example {
    /// Makes an example of one record; `None` when it has no tokens.
    ///
    /// # Errors
    /// [`TokenizerError`] when the tokenizer or the chat template fails.
    pub fn new(
        record: &Record,
        tokenizer: &Tokenizer,
        settings: ExampleSettings,
    ) -> Result<Option<Self>, TokenizerError> {
        match record {
            Record::Chat { messages, tools } => {
                Self::conversation(record, messages, tools.as_deref(), tokenizer, settings)
            }
            Record::Completions {
                prompt,
                completion,
                tools,
            } => {
                let messages = [Message::new("user", prompt), Message::new("assistant", completion)];
                Self::conversation(record, &messages, tools.as_deref(), tokenizer, settings)
            }
            Record::Text(text) => {
                let mut tokens = tokenizer.encode(text, true)?;
                if let Some(end) = tokenizer.eos_id()
                    && tokens.last() != Some(&end)
                {
                    tokens.push(end);
                }
                let source = RowSource {
                    record: Some(record.clone()),
                    tokens,
                    prompt: None,
                };
                let targets = Targets::all(source.tokens.len());
                Ok(Self::from_source(source, None, &targets, settings))
            }
        }
    }

    /// A row made of tokens, of which all but the first are supervised.
    pub fn of_tokens(tokens: Vec<u32>) -> Self {
        Self {
            supervised: (0..tokens.len()).map(|index| index > 0).collect(),
            prompt_boundary: 0,
            truncated: false,
            original_length: tokens.len(),
            boundary_moved: false,
            unplaced_answers: 0,
            reference: None,
            source: Arc::new(RowSource {
                record: None,
                tokens: tokens.clone(),
                prompt: None,
            }),
            tokens,
        }
    }

    fn conversation(
        record: &Record,
        messages: &[Message],
        tools: Option<&[Value]>,
        tokenizer: &Tokenizer,
        settings: ExampleSettings,
    ) -> Result<Option<Self>, TokenizerError> {
        let tokens = tokenizer.encode_chat(messages, tools, false)?;
        let Some((last, before)) = messages.split_last() else {
            return Ok(None);
        };
        let answers = last.role() == "assistant";
        let prompt = if before.is_empty() {
            None
        } else {
            match tokenizer.encode_chat(before, tools, answers) {
                Ok(prompt) => Some(prompt),
                Err(TokenizerError::Template(_)) if settings.supervision != Supervision::LastAnswer => None,
                Err(error) => return Err(error),
            }
        };
        let targets = match (settings.supervision, &prompt) {
            (Supervision::EveryAnswer, _) => {
                let kept = settings.max_sequence_length.max(1);
                Targets::every_answer(messages, tools, tokenizer, &tokens, kept)?
            }
            (Supervision::LastAnswer, Some(prompt)) => Targets::behind(prompt, &tokens),
            (Supervision::LastAnswer, None) | (Supervision::AllTokens, _) => Targets::all(tokens.len()),
        };
        let reference = last
            .content()
            .filter(|_| answers && !before.is_empty())
            .map(|answer| PromptReference {
                messages: before.to_vec(),
                tools: tools.map(<[Value]>::to_vec),
                answer: answer.to_owned(),
            });
        let source = RowSource {
            record: Some(record.clone()),
            tokens,
            prompt,
        };
        Ok(Self::from_source(source, reference, &targets, settings))
    }

    fn from_source(
        source: RowSource,
        reference: Option<PromptReference>,
        targets: &Targets,
        settings: ExampleSettings,
    ) -> Option<Self> {
        if source.tokens.is_empty() {
            return None;
        }
        let original_length = source.tokens.len();
        let kept = original_length.min(settings.max_sequence_length.max(1));
        let mut supervised = vec![false; original_length];
        for span in &targets.spans {
            supervised[span.clone()].fill(true);
        }
        supervised.truncate(kept);
        supervised[0] = false;
        Some(Self {
            tokens: source.tokens[..kept].to_vec(),
            supervised,
            prompt_boundary: targets.spans.first().map_or(original_length, |span| span.start),
            truncated: kept < original_length,
            original_length,
            boundary_moved: targets.moved,
            unplaced_answers: targets.unplaced,
            reference,
            source: Arc::new(source),
        })
    }
}

/// Whether a message's content is a list, as OpenAI writes texts beside pictures.
fn has_parts(message: &Message) -> bool {
    message.fields().get("content").is_some_and(Value::is_array)
}
