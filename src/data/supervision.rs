//! Which tokens of a row the loss counts as targets.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::{MarkedText, Message, Tokenizer, TokenizerError};

/// What a conversation is trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Supervision {
    /// Everything, prompts included.
    AllTokens,
    /// The last message alone, as mlx-lm does with `mask_prompt`.
    LastAnswer,
    /// Every message of the assistant.
    EveryAnswer,
}

impl Supervision {
    /// What mlx-lm's `mask_prompt` means.
    pub fn of_mask_prompt(mask_prompt: bool) -> Self {
        if mask_prompt { Self::LastAnswer } else { Self::AllTokens }
    }

    /// Whether prompts carry no loss.
    pub fn masks_prompts(self) -> bool {
        self != Self::AllTokens
    }
}

/// The targets of a row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Targets {
    /// Tokens that are targets, in order. The first token of a row never is one, whatever is said here.
    pub(super) spans: Vec<Range<usize>>,
    /// Whether a boundary lies where the row's tokens part from those of the rendering that it was looked up in.
    pub(super) moved: bool,
    /// Answers whose place could not be told, and which are no targets.
    pub(super) unplaced: usize,
}

impl Targets {
    /// All of `tokens` tokens.
    pub(super) fn all(tokens: usize) -> Self {
        Self {
            spans: std::iter::once(0..tokens).collect(),
            ..Self::default()
        }
    }

    /// What follows a prompt.
    pub(super) fn behind(prompt: &[u32], whole: &[u32]) -> Self {
        let begin = common(prompt, whole);
        Self {
            spans: std::iter::once(begin..whole.len()).collect(),
            moved: begin < prompt.len(),
            unplaced: 0,
        }
    }

    /// Every answer of a conversation whose tokens are `whole`, as far as the first `kept` tokens go.
    ///
    /// A template that marks the assistant's words is taken by its word. With any other an answer is what the
    /// conversation up to and with it has more than the conversation before it, provided that both are the beginning of
    /// the whole conversation. Where a template writes earlier turns otherwise than last ones they are not, and such an
    /// answer is no target.
    ///
    /// # Errors
    /// [`TokenizerError`] when the tokenizer fails. A template that refuses a part of the conversation does not tell
    /// where its answer stands.
    pub(super) fn every_answer(
        messages: &[Message],
        tools: Option<&[Value]>,
        tokenizer: &Tokenizer,
        whole: &[u32],
        kept: usize,
    ) -> Result<Self, TokenizerError> {
        let answers = |messages: &[Message]| messages.iter().filter(|message| is_answer(message)).count();
        if let Some(marked) = tokenizer.render_chat_with_blocks(messages, tools)? {
            let unplaced = answers(messages).saturating_sub(marked.blocks.len());
            return Self::marked(&marked, unplaced, tokenizer);
        }
        let text = tokenizer.render_chat(messages, tools, false)?;
        let last_kept = tokenizer
            .encode_with_bytes(&text)?
            .get(kept.saturating_sub(1))
            .map_or(text.len(), |(_, bytes)| bytes.end);
        let conversation = Conversation {
            messages,
            tools,
            tokenizer,
            text: &text,
            tokens: whole,
        };
        let mut targets = Self::default();
        for index in (0..messages.len()).filter(|&index| is_answer(&messages[index])) {
            let before = conversation.rendered(index, false)?;
            // The rest of the row is cut off.
            if before.as_ref().is_some_and(|before| before.len() >= last_kept) {
                break;
            }
            match conversation.answer(index, before.as_deref())? {
                Some((span, moved)) => {
                    targets.spans.push(span);
                    targets.moved |= moved;
                }
                None => targets.unplaced += 1,
            }
        }
        Ok(targets)
    }

    /// The tokens that hold any byte of a block, as transformers counts them for `return_assistant_tokens_mask`.
    fn marked(marked: &MarkedText, unplaced: usize, tokenizer: &Tokenizer) -> Result<Self, TokenizerError> {
        let tokens = tokenizer.encode_with_bytes(&marked.text)?;
        let span = |block: &Range<usize>| {
            let begin = tokens.partition_point(|(_, bytes)| bytes.end <= block.start);
            let end = tokens.partition_point(|(_, bytes)| bytes.start < block.end);
            begin..end
        };
        Ok(Self {
            spans: marked
                .blocks
                .iter()
                .filter(|block| !block.is_empty())
                .map(span)
                .collect(),
            moved: false,
            unplaced,
        })
    }
}

fn is_answer(message: &Message) -> bool {
    message.role() == "assistant"
}

/// Tokens that two sequences have in common from their beginning on.
fn common(left: &[u32], right: &[u32]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

/// A conversation with its rendering.
struct Conversation<'row> {
    messages: &'row [Message],
    tools: Option<&'row [Value]>,
    tokenizer: &'row Tokenizer,
    text: &'row str,
    tokens: &'row [u32],
}

impl Conversation<'_> {
    /// The first `count` messages as text; `None` where the template refuses them.
    fn rendered(&self, count: usize, add_generation_prompt: bool) -> Result<Option<String>, TokenizerError> {
        let messages = &self.messages[..count];
        match self.tokenizer.render_chat(messages, self.tools, add_generation_prompt) {
            Ok(text) => Ok(Some(text)),
            Err(TokenizerError::Template(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The tokens of the answer at `index` with what closes it, and whether a boundary lies within a token of the row;
    /// `None` when its place cannot be told. `before` is the rendering of the messages before it.
    fn answer(&self, index: usize, before: Option<&str>) -> Result<Option<(Range<usize>, bool)>, TokenizerError> {
        let (Some(before), Some(asked), Some(answered)) =
            (before, self.rendered(index, true)?, self.rendered(index + 1, false)?)
        else {
            return Ok(None);
        };
        // What opens the answer may differ, for example in an empty block of thoughts, but nothing before it.
        let opened = common_text(&asked, self.text);
        if opened < before.len() || !self.text.starts_with(before) || !self.text.starts_with(&answered) {
            return Ok(None);
        }
        let (begin, begin_moved) = self.tokens_of(&self.text[..opened])?;
        let (end, end_moved) = self.tokens_of(&answered)?;
        let moved = begin_moved || end_moved || opened < asked.len();
        Ok((begin < end).then_some((begin..end, moved)))
    }

    /// Whole tokens of the row that the beginning `text` of its rendering has, and whether it ends within one.
    fn tokens_of(&self, text: &str) -> Result<(usize, bool), TokenizerError> {
        let tokens = self.tokenizer.encode(text, false)?;
        let common = common(&tokens, self.tokens);
        Ok((common, common < tokens.len()))
    }
}

/// Bytes that two texts have in common from their beginning on, in whole characters.
fn common_text(left: &str, right: &str) -> usize {
    let alike = left
        .chars()
        .zip(right.chars())
        .take_while(|(left, right)| left == right);
    alike.map(|(character, _)| character.len_utf8()).sum()
}
