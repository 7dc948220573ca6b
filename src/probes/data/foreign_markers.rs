//! Turn markers of other model families in the text of rows.

use crate::data::{Record, RowSource};
use crate::model::{Message, Tokenizer, TokenizerError};

/// What opens a turn in the common prompt formats.
const MARKERS: [&str; 6] = [
    // ChatML: Qwen, SmolLM and many more (https://huggingface.co/docs/transformers/chat_templating).
    "<|im_start|>",
    // Llama 2 and Mistral (https://github.com/meta-llama/llama/blob/main/llama/generation.py).
    "[INST]",
    // Gemma (https://ai.google.dev/gemma/docs/core/prompt-structure).
    "<start_of_turn>",
    // Llama 3 (https://github.com/meta-llama/llama3/blob/main/llama/tokenizer.py).
    "<|start_header_id|>",
    // Phi 3 and Zephyr (https://huggingface.co/microsoft/Phi-3-mini-4k-instruct).
    "<|user|>",
    // Alpaca (https://github.com/tatsu-lab/stanford_alpaca).
    "### Instruction:",
];

/// The markers that mean nothing to this tokenizer: it has no token for them, and its chat template does not write them.
pub fn foreign_to(tokenizer: &Tokenizer) -> Result<Vec<&'static str>, TokenizerError> {
    let own = match tokenizer.chat_template() {
        Some(_) => {
            let conversation = [Message::new("user", "Question"), Message::new("assistant", "Answer")];
            tokenizer.render_chat(&conversation, None, false)?
        }
        None => String::new(),
    };
    let is_token = |marker: &str| tokenizer.token_id(marker).is_some_and(|id| tokenizer.is_added(id));
    Ok(MARKERS
        .into_iter()
        .filter(|marker| !is_token(marker) && !own.contains(marker))
        .collect())
}

/// The tags, `<...>`, that the chat template writes behind an answer, when the tokenizer has a token for none of them.
pub fn split_turn_ends(tokenizer: &Tokenizer) -> Result<Vec<String>, TokenizerError> {
    const ANSWER: &str = "Answer";
    if tokenizer.chat_template().is_none() {
        return Ok(Vec::new());
    }
    let conversation = [Message::new("user", "Question"), Message::new("assistant", ANSWER)];
    let rendered = tokenizer.render_chat(&conversation, None, false)?;
    let behind = rendered.rsplit_once(ANSWER).map_or("", |(_, behind)| behind);
    let tags = tags(behind);
    let is_token = |tag: &&str| tokenizer.token_id(tag).is_some();
    Ok(if tags.iter().any(is_token) {
        Vec::new()
    } else {
        tags.into_iter().map(str::to_owned).collect()
    })
}

/// Everything in angle brackets without white space.
fn tags(text: &str) -> Vec<&str> {
    let begins = text.match_indices('<').map(|(begin, _)| &text[begin..]);
    begins
        .filter_map(|rest| rest.find('>').map(|end| &rest[..=end]))
        .filter(|tag| !tag.contains(char::is_whitespace))
        .collect()
}

/// Those of `markers` that a row's text, or the words of its messages, hold.
pub fn held_by<'markers>(source: &RowSource, markers: &[&'markers str]) -> Vec<&'markers str> {
    let texts: Vec<&str> = match &source.record {
        Some(Record::Chat { messages, .. }) => messages.iter().filter_map(Message::content).collect(),
        Some(Record::Completions { prompt, completion, .. }) => vec![prompt, completion],
        Some(Record::Text(text)) => vec![text],
        None => Vec::new(),
    };
    markers
        .iter()
        .copied()
        .filter(|marker| texts.iter().any(|text| text.contains(marker)))
        .collect()
}
