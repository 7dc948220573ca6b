//! Chat templates that the program carries, for models without one of their own.

use std::str::FromStr;

use thiserror::Error;

use super::tokenizer::{Tokenizer, TokenizerError};
use crate::suggestion::closest;

/// The name that stands for the model's own template.
const OWN: &str = "own";

/// What a template writes before all else, where the tokenizer does so too.
const BEGINNING: &str = "{{- bos_token }}\n";

/// A chat template of the program.
#[derive(Debug, PartialEq, Eq)]
pub struct BundledTemplate {
    /// What users call it.
    pub name: &'static str,
    /// Jinja, as in `config/templates`.
    pub source: &'static str,
    /// Texts that the template writes around turns and that its models have as single tokens.
    pub markers: &'static [&'static str],
    /// Whether an answer ends with the tokenizer's end-of-text token, and with nothing else.
    pub ends_with_end_of_text: bool,
}

/// Every chat template of the program, in the order of their names.
pub const BUNDLED_TEMPLATES: [BundledTemplate; 5] = [
    BundledTemplate {
        name: "alpaca",
        source: include_str!("../../config/templates/alpaca.jinja"),
        markers: &[],
        ends_with_end_of_text: true,
    },
    BundledTemplate {
        name: "chatml",
        source: include_str!("../../config/templates/chatml.jinja"),
        markers: &["<|im_start|>", "<|im_end|>"],
        ends_with_end_of_text: false,
    },
    BundledTemplate {
        name: "llama3",
        source: include_str!("../../config/templates/llama3.jinja"),
        markers: &["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        ends_with_end_of_text: false,
    },
    BundledTemplate {
        name: "mistral",
        source: include_str!("../../config/templates/mistral.jinja"),
        markers: &["[INST]", "[/INST]"],
        ends_with_end_of_text: true,
    },
    BundledTemplate {
        name: "plain",
        source: include_str!("../../config/templates/plain.jinja"),
        markers: &[],
        ends_with_end_of_text: true,
    },
];

/// There is no chat template of this name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there is no chat template `{name}`\n  expected: {expected}{hint}")]
pub struct UnknownTemplate {
    name: String,
    expected: String,
    /// A line of its own, or nothing.
    hint: String,
}

/// Which chat template a model is trained with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TemplateChoice {
    /// The model's own, by the name `own`.
    Own,
    /// One of the program's.
    Bundled(&'static BundledTemplate),
}

impl FromStr for TemplateChoice {
    type Err = UnknownTemplate;

    fn from_str(name: &str) -> Result<Self, UnknownTemplate> {
        if name == OWN {
            return Ok(Self::Own);
        }
        if let Some(template) = BUNDLED_TEMPLATES.iter().find(|template| template.name == name) {
            return Ok(Self::Bundled(template));
        }
        let names = || BUNDLED_TEMPLATES.iter().map(|template| template.name).chain([OWN]);
        Err(UnknownTemplate {
            name: name.to_owned(),
            expected: names().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
            hint: closest(name, names()).map_or_else(String::new, |meant| format!("\n  hint: did you mean `{meant}`?")),
        })
    }
}

impl TemplateChoice {
    /// The name that [`FromStr`] reads.
    pub fn name(self) -> &'static str {
        match self {
            Self::Own => OWN,
            Self::Bundled(template) => template.name,
        }
    }

    /// The tokenizer with this chat template.
    ///
    /// # Errors
    /// [`TokenizerError`] when the tokenizer fails.
    pub fn apply(self, tokenizer: Tokenizer) -> Result<Tokenizer, TokenizerError> {
        match self {
            Self::Own => Ok(tokenizer),
            Self::Bundled(template) => template.apply(tokenizer),
        }
    }
}

impl BundledTemplate {
    /// The tokenizer with this chat template, which begins a conversation with the beginning-of-text token only if the
    /// tokenizer begins every text with it: many have such a token and never write it.
    ///
    /// # Errors
    /// [`TokenizerError`] when the tokenizer fails.
    pub fn apply(&self, tokenizer: Tokenizer) -> Result<Tokenizer, TokenizerError> {
        let first = tokenizer.encode("a", true)?.first().copied();
        let begins = first.is_some() && first == tokenizer.bos_id();
        let source = if begins {
            self.source.to_owned()
        } else {
            self.source.replace(BEGINNING, "")
        };
        tokenizer.with_chat_template(&format!("{}.jinja", self.name), &source)
    }

    /// What a user should know who trains with this template and this vocabulary, one sentence each, without a final
    /// period.
    pub fn notes(&self, tokenizer: &Tokenizer) -> Vec<String> {
        let is_token = |marker: &str| tokenizer.token_id(marker).is_some_and(|id| tokenizer.is_added(id));
        let split: Vec<String> = self
            .markers
            .iter()
            .filter(|marker| !is_token(marker))
            .map(|marker| format!("`{marker}`"))
            .collect();
        let mut notes = Vec::new();
        if !split.is_empty() {
            notes.push(format!(
                "the template `{}` writes {}, which this vocabulary does not have as single tokens: they are trained on as text",
                self.name,
                split.join(", ")
            ));
        }
        if self.ends_with_end_of_text && tokenizer.eos_id().is_none() {
            notes.push(format!(
                "the template `{}` ends answers with the end-of-text token, and this tokenizer names none: answers will not end",
                self.name
            ));
        }
        notes
    }
}
