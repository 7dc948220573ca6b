//! Turns records into token ids with the positions that are trained on.
//!
//! The tokens are those that mlx-lm makes. Two things differ, since mlx-lm goes wrong there without a word: the boundary
//! of a masked prompt is checked against the tokens of the whole row, and padding is never trained on.

use serde_json::Value;
use thiserror::Error;

use super::records::{DataFormat, Record, RecordFile};
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
    /// Whether prompts carry no loss.
    pub mask_prompt: bool,
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

/// One row, ready for training.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Token ids, at least one.
    pub tokens: Vec<u32>,
    /// For each token whether the loss counts it as a target; the first token never is one, as nothing predicts it.
    pub supervised: Vec<bool>,
    /// Tokens of the masked prompt; 0 when nothing is masked. May be beyond a row that was cut.
    pub prompt_boundary: usize,
    /// Whether the row was longer than allowed and lost its end.
    pub truncated: bool,
    /// Tokens before cutting.
    pub original_length: usize,
    /// Whether the prompt's own tokens are not a prefix of the row's, so that the boundary is where they part.
    pub boundary_moved: bool,
    /// The row's question and answer; `None` for plain text and for conversations that do not end with an answer.
    pub reference: Option<PromptReference>,
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
                .map_err(|source| ExampleError::Row { row, line, source })?
                .ok_or(ExampleError::NoTokens { row, line })?;
            examples.push(example);
        }
        let mut notes = Vec::new();
        if settings.mask_prompt && file.format == DataFormat::Text {
            notes.push("rows of plain text have no prompt to mask; all their tokens are trained on".to_owned());
        }
        Ok(Self {
            format: file.format,
            examples,
            notes,
        })
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
            Record::Chat { messages, tools } => Self::conversation(messages, tools.as_deref(), tokenizer, settings),
            Record::Completions {
                prompt,
                completion,
                tools,
            } => {
                let messages = [Message::new("user", prompt), Message::new("assistant", completion)];
                Self::conversation(&messages, tools.as_deref(), tokenizer, settings)
            }
            Record::Text(text) => {
                let mut tokens = tokenizer.encode(text, true)?;
                if let Some(end) = tokenizer.eos_id()
                    && tokens.last() != Some(&end)
                {
                    tokens.push(end);
                }
                Ok(Self::from_tokens(tokens, Boundary::default(), None, settings))
            }
        }
    }

    fn conversation(
        messages: &[Message],
        tools: Option<&[Value]>,
        tokenizer: &Tokenizer,
        settings: ExampleSettings,
    ) -> Result<Option<Self>, TokenizerError> {
        let tokens = tokenizer.encode_chat(messages, tools, false)?;
        let Some((last, prompt)) = messages.split_last() else {
            return Ok(None);
        };
        let answers = last.role() == "assistant";
        let boundary = if settings.mask_prompt && !prompt.is_empty() {
            Boundary::between(&tokenizer.encode_chat(prompt, tools, answers)?, &tokens)
        } else {
            Boundary::default()
        };
        let reference = last
            .content()
            .filter(|_| answers && !prompt.is_empty())
            .map(|answer| PromptReference {
                messages: prompt.to_vec(),
                tools: tools.map(<[Value]>::to_vec),
                answer: answer.to_owned(),
            });
        Ok(Self::from_tokens(tokens, boundary, reference, settings))
    }

    fn from_tokens(
        mut tokens: Vec<u32>,
        boundary: Boundary,
        reference: Option<PromptReference>,
        settings: ExampleSettings,
    ) -> Option<Self> {
        if tokens.is_empty() {
            return None;
        }
        let original_length = tokens.len();
        tokens.truncate(settings.max_sequence_length.max(1));
        let supervised = (0..tokens.len()).map(|index| index >= boundary.tokens.max(1)).collect();
        Some(Self {
            truncated: tokens.len() < original_length,
            tokens,
            supervised,
            prompt_boundary: boundary.tokens,
            original_length,
            boundary_moved: boundary.moved,
            reference,
        })
    }
}

/// Where a masked prompt ends.
#[derive(Debug, Clone, Copy, Default)]
struct Boundary {
    tokens: usize,
    moved: bool,
}

impl Boundary {
    /// The tokens that the prompt has in common with the start of the whole row.
    fn between(prompt: &[u32], whole: &[u32]) -> Self {
        let tokens = prompt
            .iter()
            .zip(whole)
            .take_while(|(first, second)| first == second)
            .count();
        Self {
            tokens,
            moved: tokens < prompt.len(),
        }
    }
}
