//! Chat templates.

use mlx_diagnose::model::{ChatTemplate, Message};
use serde_json::{Map, json};

use super::Verdict;

/// Compiles the bytes as a template and renders a conversation with it in every way.
pub(super) fn render(bytes: &[u8]) -> Verdict {
    let source = String::from_utf8_lossy(bytes);
    let mut variables = Map::new();
    variables.insert("bos_token".to_owned(), "<s>".into());
    variables.insert("eos_token".to_owned(), "</s>".into());
    let template = match ChatTemplate::new("chat_template.jinja", &source, variables) {
        Ok(template) => template,
        refused @ Err(_) => return Verdict::of(refused),
    };
    let messages = [
        Message::new("system", "Be brief."),
        Message::new("user", "Where does Tom live?"),
        Message::new("assistant", "In Oslo."),
    ];
    let tools = [json!({ "type": "function", "function": { "name": "find", "parameters": { "x": [1, 2.5, null] } } })];
    let rendered = [None, Some(&tools[..])].into_iter().try_for_each(|tools| {
        template.render(&messages, tools, false)?;
        template.render(&messages[..2], tools, true)?;
        template.render_with_blocks(&messages, tools).map(drop)
    });
    Verdict::of(rendered)
}
