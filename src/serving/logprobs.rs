//! Log-probabilities, as OpenAI's two interfaces show them.

use serde_json::{Map, Value, json};

use crate::engine::AnswerToken;
use crate::model::Tokenizer;

/// The text of a token, and its bytes where they are known: a token may be a part of a character.
fn text_and_bytes(tokenizer: &Tokenizer, id: u32) -> (String, Option<Vec<u8>>) {
    // A model may have more rows than its tokenizer has tokens.
    let text = tokenizer.token_text(id).unwrap_or_default();
    let is_whole = !text.contains(char::REPLACEMENT_CHARACTER);
    let bytes = is_whole.then(|| text.clone().into_bytes());
    (text, bytes)
}

/// The entry of one token in a chat's `logprobs.content`; `None` where nothing was asked for.
pub(super) fn chat_entry(tokenizer: &Tokenizer, token: &AnswerToken) -> Option<Value> {
    let found = token.log_probabilities.as_ref()?;
    let entry = |id: u32, value: f32| {
        let (text, bytes) = text_and_bytes(tokenizer, id);
        json!({ "token": text, "logprob": value, "bytes": bytes })
    };
    let top: Vec<Value> = found.top.iter().map(|&(id, value)| entry(id, value)).collect();
    let mut chosen = entry(token.id, found.chosen);
    chosen["top_logprobs"] = top.into();
    Some(chosen)
}

/// The object `logprobs` of a completion. `offset` counts the characters of the tokens before, and is moved on.
pub(super) fn of_completion<'a>(
    tokenizer: &Tokenizer,
    tokens: impl IntoIterator<Item = &'a AnswerToken>,
    offset: &mut usize,
) -> Value {
    let (mut texts, mut values, mut tops, mut offsets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for token in tokens {
        let Some(found) = &token.log_probabilities else {
            continue;
        };
        let (text, _) = text_and_bytes(tokenizer, token.id);
        let mut shown: Vec<(u32, f32)> = found.top.clone();
        if shown.iter().all(|(id, _)| *id != token.id) {
            shown.push((token.id, found.chosen));
        }
        let mut top = Map::new();
        for (id, value) in shown {
            let (mut name, _) = text_and_bytes(tokenizer, id);
            // Tokens of the same text, such as parts of characters, would hide each other.
            if top.contains_key(&name) {
                name = format!("token_id:{id}");
            }
            top.insert(name, json!(value));
        }
        offsets.push(*offset);
        *offset += text.chars().count();
        texts.push(text);
        values.push(found.chosen);
        tops.push(top);
    }
    json!({ "tokens": texts, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets })
}
