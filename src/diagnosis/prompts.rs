use thiserror::Error;

use crate::data::{Dataset, Example};
use crate::model::{Message, Tokenizer, TokenizerError};
use crate::probes::generation::Prompt;

/// Questions of general knowledge, for when the user names none.
const GENERAL: [&str; 2] = [
    "What is the capital of France?",
    "Tell me about the sea in one sentence.",
];
/// Questions of the data that are asked in that case.
const FROM_DATA: usize = 2;

/// Why a prompt cannot be asked.
#[derive(Debug, Error)]
pub enum PromptError {
    /// The tokenizer or the chat template failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// It leaves no room for an answer.
    #[error(
        "a prompt is longer than the model's context\n  found: {tokens} tokens in `{start}`\n  expected: fewer than {context}\n  hint: shorten the prompt"
    )]
    TooLong {
        /// Its length in tokens.
        tokens: usize,
        /// Its first words.
        start: String,
        /// The model's context in tokens.
        context: usize,
    },
    /// It has no tokens.
    #[error("a prompt is empty\n  expected: one prompt on each line")]
    Empty,
}

/// Makes the prompts ready: those of the user, or the program's own followed by the first questions of the data.
///
/// A prompt that is a question of the data gets the data's answer as its reference.
pub fn prepare(
    given: &[String],
    dataset: &Dataset,
    tokenizer: &Tokenizer,
    context: usize,
) -> Result<Vec<Prompt>, PromptError> {
    let texts: Vec<String> = if given.is_empty() {
        let mut texts: Vec<String> = GENERAL.iter().map(ToString::to_string).collect();
        for question in dataset.examples.iter().filter_map(question).take(FROM_DATA) {
            if !texts.contains(&question) {
                texts.push(question);
            }
        }
        texts
    } else {
        given.to_vec()
    };
    texts
        .into_iter()
        .map(|text| {
            let tokens = encode(&text, tokenizer)?;
            if tokens.is_empty() {
                return Err(PromptError::Empty);
            }
            if tokens.len() >= context {
                return Err(PromptError::TooLong {
                    tokens: tokens.len(),
                    start: text.chars().take(40).collect(),
                    context,
                });
            }
            let reference = dataset
                .examples
                .iter()
                .find(|example| question(example).as_ref() == Some(&text))
                .cloned();
            Ok(Prompt {
                text,
                tokens,
                reference,
            })
        })
        .collect()
}

fn encode(text: &str, tokenizer: &Tokenizer) -> Result<Vec<u32>, TokenizerError> {
    if tokenizer.chat_template().is_some() {
        tokenizer.encode_chat(&[Message::new("user", text)], None, true)
    } else {
        tokenizer.encode(text, true)
    }
}

/// The question of a row that is one question and one answer.
fn question(example: &Example) -> Option<String> {
    match example.reference.as_ref()?.messages.as_slice() {
        [message] if message.role() == "user" => message.content().map(str::to_owned),
        _ => None,
    }
}
