//! One row as it is trained on, against what it was made from.

use std::ops::Range;

use super::answers;
use super::audit::DataProbe;
use super::question::{Question, compare};
use crate::data::Example;
use crate::model::TokenizerError;

/// How many tokens two sequences have in common from their beginning on.
pub fn common_prefix(left: &[u32], right: &[u32]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

/// How a mask fits the end of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaskFit {
    /// Nothing of the prompt is supervised, and the answer not at all or from its first token to its end.
    Right,
    /// The prompt is supervised from its start.
    Unmasked,
    /// Some of the prompt is supervised.
    Early,
    /// Some of the answer is not supervised.
    Late,
}

/// A mask against the prompt it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mask {
    /// Tokens before the answer.
    pub prompt_end: usize,
    /// The first supervised token; `None` when no word of the answer is supervised.
    pub start: Option<usize>,
    /// How it fits.
    pub fit: MaskFit,
}

/// One row, with its own text found in the tokens it is trained on.
#[derive(Debug)]
pub struct Row<'run> {
    /// As it is trained on.
    pub example: &'run Example,
    probe: &'run DataProbe<'run>,
    /// Tokens before the row's own text: one, where the row begins with a beginning-of-text token too many.
    shift: usize,
    /// Tokens of the row's own text that follow there.
    kept: usize,
    /// The stop token that closes the row's text.
    closing: Option<usize>,
    /// The answers, where the row has more than one.
    answers: Vec<Range<usize>>,
}

impl<'run> Row<'run> {
    /// Finds the row's own text in its tokens.
    pub fn new(example: &'run Example, probe: &'run DataProbe<'run>) -> Result<Self, TokenizerError> {
        let own = &example.source.tokens;
        let tokens = &example.tokens;
        let begins_twice = |tokens: &[u32]| match (probe.tokenizer.bos_id(), tokens) {
            (Some(beginning), [first, second, ..]) => *first == beginning && *second == beginning,
            _ => false,
        };
        let shift = usize::from(begins_twice(tokens) && !begins_twice(own));
        let kept = common_prefix(&tokens[shift..], own);
        let mut row = Self {
            example,
            probe,
            shift,
            kept,
            closing: None,
            answers: Vec::new(),
        };
        if answers::count(&example.source) > 1 {
            let spans = answers::spans(&example.source, probe.tokenizer)?;
            row.answers = spans
                .into_iter()
                .filter(|span| span.start < kept)
                .map(|span| span.start + shift..(span.end + shift).min(tokens.len()))
                .collect();
        }
        // A stop token that something appended to a text of its own without one closes the row too.
        row.closing = row
            .closing_stop(&tokens[..row.text_end()])
            .or_else(|| row.closing_stop(tokens));
        Ok(row)
    }

    /// Whether an id is beyond the embedding table; nothing else is judged then.
    pub fn has_unknown_ids(&self) -> bool {
        let known = self.probe.vocabulary_size;
        self.example.tokens.iter().any(|&id| id as usize >= known)
    }

    /// Whether the row begins with the beginning-of-text token twice.
    pub fn begins_twice(&self) -> bool {
        let beginning = self.probe.tokenizer.bos_id();
        self.example.tokens.len() > 1 && self.example.tokens[..2].iter().all(|&id| Some(id) == beginning)
    }

    /// The tokens that tell this row from others: those it is trained on, or all of its own if it was cut.
    pub fn identity(&self) -> &'run [u32] {
        if self.tokens_lost().is_some() {
            &self.example.source.tokens
        } else {
            &self.example.tokens
        }
    }

    /// Tokens of the row before cutting.
    pub fn length(&self) -> usize {
        self.example.tokens.len().max(self.example.source.tokens.len())
    }

    /// Tokens that a length limit cut off; `None` when the row was not cut.
    pub fn tokens_lost(&self) -> Option<usize> {
        let own = &self.example.source.tokens;
        let rest = if self.kept + self.shift == self.example.tokens.len() {
            &own[self.kept..]
        } else {
            &[]
        };
        let lost = rest
            .len()
            .max(self.example.original_length.saturating_sub(self.example.tokens.len()));
        // Without its end alone a row was not cut, but made without one.
        let lost_words = rest.iter().any(|&id| !self.is_end(id));
        (self.example.truncated || lost_words).then_some(lost)
    }

    /// Whether cutting took the stop token that closes the row.
    pub fn lost_its_end(&self) -> bool {
        let own = &self.example.source.tokens;
        self.tokens_lost().is_some() && self.closing_stop(own).is_some_and(|closing| closing >= self.kept)
    }

    /// Whether all targets are stop tokens or white space, with at least one target.
    pub fn teaches_only_the_end(&self) -> bool {
        let mut targets = self.example.targets().peekable();
        targets.peek().is_some() && targets.all(|id| self.is_end(id))
    }

    /// Whether the last target of the row's text that is not white space is a stop token.
    pub fn ends_in_supervised_stop(&self) -> bool {
        let end = self.text_end().max(self.closing.map_or(0, |closing| closing + 1));
        (0..end)
            .rev()
            .filter(|&index| self.example.supervised[index])
            .map(|index| self.example.tokens[index])
            .find(|&id| !self.is_blank(id))
            .is_some_and(|id| self.is_stop(id))
    }

    /// Whether the row should close with a stop token and does not.
    pub fn lacks_an_end(&self) -> bool {
        let due = answers::is_last(&self.example.source) != Some(false);
        due && self.closing.is_none() && self.tokens_lost().is_none() && !self.has_unknown_ids()
    }

    /// Whether the stop token that closes the row is there and no target, in a row that has targets.
    pub fn masks_its_end(&self) -> bool {
        let masked = |closing: usize| !self.example.supervised[closing];
        self.closing.is_some_and(masked) && self.example.supervised_tokens() > 0
    }

    /// Targets behind the stop token that closes the row, equal to it.
    pub fn repeated_ends(&self) -> usize {
        let Some(closing) = self.closing else { return 0 };
        let again = |&index: &usize| self.example.tokens[index] == self.example.tokens[closing];
        self.targets_in(closing + 1..self.example.tokens.len())
            .filter(again)
            .count()
    }

    /// Targets behind the row's own text that are neither its closing token nor white space.
    pub fn padding_targets(&self) -> usize {
        let closing = self.closing.map(|closing| self.example.tokens[closing]);
        self.targets_in(self.text_end()..self.example.tokens.len())
            .map(|index| self.example.tokens[index])
            .filter(|&id| Some(id) != closing && !self.is_blank(id))
            .count()
    }

    /// Where the prompt ends by the tokenizer's own rendering, and whether its tokens are not those of the row there;
    /// `None` without a prompt, or where the row's tokens are none of its own.
    pub fn prompt_end(&self) -> Option<(usize, bool)> {
        let prompt = self.example.source.prompt.as_ref()?;
        let end = common_prefix(prompt, &self.example.source.tokens);
        let is_there = self.kept >= end || self.kept + self.shift == self.example.tokens.len();
        let judged = is_there && !self.has_unknown_ids();
        judged.then(|| ((end + self.shift).min(self.example.tokens.len()), end < prompt.len()))
    }

    /// Supervised tokens of the prompt, those of earlier answers left out.
    pub fn prompt_targets(&self) -> usize {
        let Some((end, _)) = self.prompt_end() else { return 0 };
        let in_answer = |index: &usize| self.answers.iter().any(|answer| answer.contains(index));
        self.targets_in(0..end).filter(|index| !in_answer(index)).count()
    }

    /// How the mask fits; `None` where there is no prompt to judge it by.
    pub fn mask(&self) -> Option<Mask> {
        let (prompt_end, _) = self.prompt_end()?;
        let first = self.targets_in(0..self.example.tokens.len()).next();
        let answer_end = self.closing.unwrap_or(self.example.tokens.len());
        let answer = prompt_end.max(1)..answer_end.max(prompt_end);
        let taught: Vec<u32> = self
            .targets_in(answer.clone())
            .map(|index| self.example.tokens[index])
            .collect();
        let teaches_words = taught.iter().any(|&id| !self.is_end(id));
        let fit = if self.prompt_targets() > 0 {
            if first == Some(1) {
                MaskFit::Unmasked
            } else {
                MaskFit::Early
            }
        } else if teaches_words && taught.len() < answer.len() {
            MaskFit::Late
        } else {
            MaskFit::Right
        };
        Some(Mask {
            prompt_end,
            start: first.filter(|_| teaches_words),
            fit,
        })
    }

    /// Answers that are found in the row, and how many of them have a target.
    pub fn answers(&self) -> (usize, usize) {
        let supervised = |span: &Range<usize>| self.targets_in(span.clone()).next().is_some();
        match answers::count(&self.example.source) {
            0 => (0, 0),
            1 => match self.prompt_end() {
                Some((end, _)) if answers::is_last(&self.example.source) == Some(true) => {
                    let words = end..self.example.tokens.len();
                    (1, usize::from(supervised(&words)))
                }
                _ => (0, 0),
            },
            _ => (
                self.answers.len(),
                self.answers.iter().filter(|span| supervised(span)).count(),
            ),
        }
    }

    /// Whether the row puts its question as inference would; `None` where it has none with an answer.
    pub fn question(&self) -> Result<Option<Question>, TokenizerError> {
        let Some(prompt) = self.example.source.prompt.as_ref() else {
            return Ok(None);
        };
        if answers::is_last(&self.example.source) != Some(true) || self.has_unknown_ids() {
            return Ok(None);
        }
        let trained = &self.example.tokens[self.shift..];
        let asked = if self.tokens_lost().is_some() {
            &prompt[..prompt.len().min(trained.len())]
        } else {
            prompt.as_slice()
        };
        compare(trained, asked, self.probe.tokenizer).map(Some)
    }

    /// Where the row's own text ends among its tokens; at their end where they do not hold all of it.
    fn text_end(&self) -> usize {
        if self.kept == self.example.source.tokens.len() {
            self.shift + self.kept
        } else {
            self.example.tokens.len()
        }
    }

    /// The first stop token of those that end `tokens`, with nothing but white space between and behind them.
    fn closing_stop(&self, tokens: &[u32]) -> Option<usize> {
        let ending = tokens.iter().rev().take_while(|&&id| self.is_end(id)).count();
        (tokens.len() - ending..tokens.len()).find(|&index| self.is_stop(tokens[index]))
    }

    fn targets_in(&self, range: Range<usize>) -> impl Iterator<Item = usize> + '_ {
        range.filter(|&index| self.example.supervised[index])
    }

    fn is_stop(&self, id: u32) -> bool {
        self.probe.stop_set.contains(id)
    }

    fn is_blank(&self, id: u32) -> bool {
        let tokenizer = self.probe.tokenizer;
        !tokenizer.is_added(id) && tokenizer.token_text(id).is_some_and(|text| text.trim().is_empty())
    }

    fn is_end(&self, id: u32) -> bool {
        self.is_stop(id) || self.is_blank(id)
    }
}
