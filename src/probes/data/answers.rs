//! Where the answers of a conversation stand.

use std::ops::Range;

use crate::data::{Record, RowSource};
use crate::model::{Tokenizer, TokenizerError};

const ASSISTANT: &str = "assistant";

/// Answers of a conversation; 0 for plain text.
pub fn count(source: &RowSource) -> usize {
    match &source.record {
        Some(Record::Chat { messages, .. }) => messages.iter().filter(|message| message.role() == ASSISTANT).count(),
        Some(Record::Completions { .. }) => 1,
        Some(Record::Text(_)) | None => 0,
    }
}

/// Whether the row ends with an answer; `None` for what is no conversation.
pub fn is_last(source: &RowSource) -> Option<bool> {
    match &source.record {
        Some(Record::Chat { messages, .. }) => Some(messages.last()?.role() == ASSISTANT),
        Some(Record::Completions { .. }) => Some(true),
        Some(Record::Text(_)) | None => None,
    }
}

/// Whether the last answer has no words beside `stop_texts`; false for what is no conversation.
pub fn is_empty(source: &RowSource, stop_texts: &[&str]) -> bool {
    let answer = match &source.record {
        Some(Record::Chat { messages, .. }) => messages
            .last()
            .filter(|message| message.role() == ASSISTANT)
            .map(|message| message.content().unwrap_or_default()),
        Some(Record::Completions { completion, .. }) => Some(completion.as_str()),
        Some(Record::Text(_)) | None => None,
    };
    answer.is_some_and(|answer| {
        let words = stop_texts
            .iter()
            .fold(answer.to_owned(), |words, stop| words.replace(stop, ""));
        words.trim().is_empty()
    })
}

/// Where the words of the answers stand among the row's own tokens, each with its own white
/// space, the control token that closes it, and the white space that the template puts behind.
///
/// The words are looked for in the rendered conversation, message by message. Answers whose words a template changes or
/// leaves out are not found, and neither are those without words.
pub fn spans(source: &RowSource, tokenizer: &Tokenizer) -> Result<Vec<Range<usize>>, TokenizerError> {
    let Some(Record::Chat { messages, tools }) = &source.record else {
        return Ok(Vec::new());
    };
    let rendered = tokenizer.render_chat(messages, tools.as_deref(), false)?;
    let tokens = tokenizer.encode_with_bytes(&rendered)?;
    let mut spans = Vec::new();
    let mut read = 0;
    for message in messages {
        let content = message.content().unwrap_or("");
        let words = content.trim();
        let Some(found) = rendered[read..].find(words).filter(|_| !words.is_empty()) else {
            continue;
        };
        let start = read + found;
        read = start + words.len();
        if message.role() != ASSISTANT {
            continue;
        }
        // A template may keep the white space around the words or not.
        let leading = &content[..content.len() - content.trim_start().len()];
        let trailing = &content[content.trim_end().len()..];
        let kept_before = rendered[..start].ends_with(leading);
        let kept_behind = rendered[read..].starts_with(trailing);
        let begin = if kept_before { start - leading.len() } else { start };
        let end = if kept_behind { read + trailing.len() } else { read };
        let first = tokens.partition_point(|(_, bytes)| bytes.end <= begin);
        let behind = tokens.partition_point(|(_, bytes)| bytes.start < end);
        let closes = tokens.get(behind).is_some_and(|(id, _)| tokenizer.is_added(*id));
        let behind = behind + usize::from(closes);
        let blanks = tokens[behind..].iter().take_while(|(id, bytes)| {
            let text = rendered.get(bytes.clone());
            !tokenizer.is_added(*id) && text.is_some_and(|text| text.trim().is_empty())
        });
        spans.push(first..behind + blanks.count());
    }
    Ok(spans)
}
