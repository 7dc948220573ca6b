//! What the model said before and after, side by side.

use std::fmt::Write as _;

use super::markup::{escaped, folded};
use crate::evidence::FinishReason;
use crate::report::{AnswerPair, ShownAnswer};
use crate::rules::wording::counted;

/// Prompts that are shown unfolded.
const UNFOLDED: usize = 8;

/// The answers to every prompt, all but the first few folded away.
pub(super) fn answers(pairs: &[AnswerPair]) -> String {
    let (first, more) = pairs.split_at(pairs.len().min(UNFOLDED));
    let mut text: String = first.iter().map(pair).collect();
    if !more.is_empty() {
        let content: String = more.iter().map(pair).collect();
        text.push_str(&folded(&format!("{} more", counted(more.len(), "prompt")), &content));
    }
    text
}

fn pair(pair: &AnswerPair) -> String {
    let mut text = format!(
        "<article class=\"pair\">\n<h3 dir=\"auto\">{}</h3>\n<div class=\"sides\">\n",
        escaped(&pair.prompt)
    );
    if let Some(before) = &pair.before {
        text.push_str(&side("before", before, false));
    }
    if let Some(after) = &pair.after {
        let is_same = pair.before.as_ref().is_some_and(|before| before.text == after.text);
        text.push_str(&side("after", after, is_same));
    }
    text.push_str("</div>\n</article>\n");
    text
}

fn side(name: &str, answer: &ShownAnswer, is_same: bool) -> String {
    /// Characters of a text that stands for an empty answer.
    const SHOWN: usize = 300;
    let mut text = format!(
        "<div class=\"side\">\n<h4>{name} <span class=\"aside\">{}</span></h4>\n",
        figures(answer, is_same)
    );
    if answer.text.trim().is_empty() {
        let _ = writeln!(
            text,
            "<p class=\"aside\" dir=\"auto\">{}</p>",
            escaped(&answer.line(SHOWN))
        );
    } else {
        let _ = writeln!(
            text,
            "<p class=\"answer\" dir=\"auto\">{}</p>",
            escaped(answer.text.trim())
        );
    }
    if answer.text_without_stop.trim() != answer.text.trim() {
        let leading = match answer.leading_end_of_text {
            0 => String::new(),
            leading => format!(", the first {leading} end-of-text"),
        };
        let summary = format!(
            "with the stop set off: {}{leading}",
            counted(answer.tokens_without_stop, "token")
        );
        let content = format!(
            "<p class=\"answer\" dir=\"auto\">{}</p>\n",
            escaped(answer.text_without_stop.trim())
        );
        text.push_str(&folded(&summary, &content));
    }
    text.push_str("</div>\n");
    text
}

fn figures(answer: &ShownAnswer, is_same: bool) -> String {
    let finish = match answer.finish {
        FinishReason::Stop => "stopped",
        FinishReason::Length => "cut at the limit",
        FinishReason::NonFinite => "the logits are not finite",
    };
    let mut figures = vec![counted(answer.tokens, "token"), finish.to_owned()];
    figures.extend(answer.voice.map(|voice| format!("voice {voice:.2}")));
    figures.extend(answer.reference_nll.map(|nats| format!("reference {nats:.3} nats")));
    if is_same {
        figures.push("same text as before".to_owned());
    }
    figures.join(" · ")
}
