//! The stop set: every token that ends an answer, and who says so.

use std::collections::{BTreeMap, BTreeSet};

use super::chat_template::Message;
use super::tokenizer::{Tokenizer, TokenizerError};
use crate::evidence::StopToken;

/// Names under which special tokens end a text or a turn in the supported families.
///
/// A model may fall into one that its own files do not declare: SmolLM2 stops at `<|im_end|>` and has `<|endoftext|>`
/// as padding.
const END_OF_TEXT_NAMES: [&str; 8] = [
    "</s>",
    "<eos>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
];

/// An answer that no template changes and no text holds.
const SENTINEL: &str = "sentinelanswer";

/// The tokens that end an answer, sorted by id, each once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopSet {
    tokens: Vec<StopToken>,
    /// Ids of special tokens that end a text by their name and that nothing declares.
    undeclared: BTreeSet<u32>,
}

impl StopSet {
    /// The union of the ids that the model's files declare and the token that its chat template puts after an answer.
    ///
    /// # Errors
    /// [`TokenizerError`] when the chat template fails on a plain question and answer.
    pub fn of(tokenizer: &Tokenizer) -> Result<Self, TokenizerError> {
        let mut sources: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
        for end in tokenizer.declared_ends() {
            sources.entry(end.id).or_default().insert(end.source.clone());
        }
        if let Some(id) = turn_end(tokenizer)? {
            sources.entry(id).or_default().insert(StopToken::TEMPLATE.to_owned());
        }
        let tokens = sources
            .into_iter()
            .map(|(id, sources)| StopToken {
                id,
                text: tokenizer
                    .token_text(id)
                    .unwrap_or_else(|| "(not in the vocabulary)".to_owned()),
                sources: sources.into_iter().collect(),
            })
            .collect();
        let undeclared = END_OF_TEXT_NAMES
            .iter()
            .filter_map(|name| tokenizer.token_id(name))
            .filter(|&id| tokenizer.is_added(id))
            .collect();
        Ok(Self { tokens, undeclared })
    }

    /// The tokens, sorted by id.
    pub fn tokens(&self) -> &[StopToken] {
        &self.tokens
    }

    /// Their ids, sorted.
    pub fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|token| token.id).collect()
    }

    /// Whether `id` says that a text is over, declared as a stop token or not.
    pub fn is_end_of_text(&self, id: u32) -> bool {
        self.contains(id) || self.undeclared.contains(&id)
    }

    /// Whether `id` ends an answer.
    pub fn contains(&self, id: u32) -> bool {
        self.tokens.binary_search_by_key(&id, |token| token.id).is_ok()
    }
}

/// The first control token after an assistant's words, with nothing but white space between them; `None` when there is
/// no template or it puts no such token.
fn turn_end(tokenizer: &Tokenizer) -> Result<Option<u32>, TokenizerError> {
    if tokenizer.chat_template().is_none() {
        return Ok(None);
    }
    let conversation = [Message::new("user", "Question"), Message::new("assistant", SENTINEL)];
    let rendered = tokenizer.render_chat(&conversation, None, false)?;
    let Some((_, after)) = rendered.rsplit_once(SENTINEL) else {
        return Ok(None);
    };
    for id in tokenizer.encode(after, false)? {
        if tokenizer.is_added(id) {
            return Ok(Some(id));
        }
        let blank = tokenizer.token_text(id).is_some_and(|text| text.trim().is_empty());
        if !blank {
            return Ok(None);
        }
    }
    Ok(None)
}
