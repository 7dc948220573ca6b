//! Whether a row puts its question as inference would.

use super::row::common_prefix;
use crate::model::{THINKING_TOKENS, Tokenizer, TokenizerError};

/// Tokens shown before and behind the first difference.
const SHOWN_TOKENS: usize = 12;

/// How a row's question compares with what inference asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// The same text; tokens may differ where the answer melts into the question's last letters.
    Alike,
    /// The same text but for a block of thoughts.
    OtherThoughts(Renderings),
    /// Another text, or control tokens written as ordinary text.
    Different(Renderings),
}

/// Both texts, from a little before the first difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renderings {
    /// What the row was trained with.
    pub trained: String,
    /// What inference asks.
    pub asked: String,
}

/// Compares the start of a row with the tokens that inference asks.
pub fn compare(trained: &[u32], asked: &[u32], tokenizer: &Tokenizer) -> Result<Question, TokenizerError> {
    let common = common_prefix(trained, asked);
    if common == asked.len() {
        return Ok(Question::Alike);
    }
    let trained_text = tokenizer.decode(trained, false)?;
    let asked_text = tokenizer.decode(asked, false)?;
    let same_text = trained_text.starts_with(&asked_text);
    if same_text && !asked[common..].iter().any(|&id| tokenizer.is_added(id)) {
        return Ok(Question::Alike);
    }
    let around = |tokens: &[u32]| {
        let first = common.saturating_sub(SHOWN_TOKENS);
        tokenizer.decode(&tokens[first..tokens.len().min(common + SHOWN_TOKENS)], false)
    };
    let renderings = Renderings {
        trained: around(trained)?,
        asked: around(asked)?,
    };
    let thoughts_aside = without_empty_thoughts(&trained_text).starts_with(&without_empty_thoughts(&asked_text));
    Ok(if thoughts_aside && !same_text {
        Question::OtherThoughts(renderings)
    } else {
        Question::Different(renderings)
    })
}

/// The text without blocks of thoughts that hold nothing and without one that is only opened, and without the white space
/// behind them.
fn without_empty_thoughts(text: &str) -> String {
    let mut text = text.to_owned();
    for [open, close] in THINKING_TOKENS {
        let mut read = 0;
        while let Some(found) = text[read..].find(open) {
            let start = read + found;
            let inside = text[start + open.len()..].trim_start();
            let rest = match inside.strip_prefix(close) {
                Some(behind) => Some(behind.trim_start().len()),
                None if inside.is_empty() => Some(0),
                None => None,
            };
            if let Some(rest) = rest {
                text.replace_range(start..text.len() - rest, "");
                read = start;
            } else {
                read = start + open.len();
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::without_empty_thoughts;

    #[test]
    fn only_thoughts_that_hold_nothing_are_left_out() {
        for (text, expected) in [
            ("assistant\n<think>\n\n</think>\n\nLima", "assistant\nLima"),
            ("assistant\n<think>\n", "assistant\n"),
            (
                "assistant\n<think>\nPeru?\n</think>\nLima",
                "assistant\n<think>\nPeru?\n</think>\nLima",
            ),
            ("<think></think>a<think> </think> b", "ab"),
        ] {
            assert_eq!(without_empty_thoughts(text), expected);
        }
    }
}
