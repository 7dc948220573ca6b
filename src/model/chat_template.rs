//! Renders conversations with a model's chat template, as transformers does.
//!
//! Templates are Jinja programs written by the model's makers. They run without access to anything but the
//! conversation, with a limit on the work they may do, and with a fixed date, so that a run can be repeated.

use std::error::Error as _;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use allowance::Allowance;
use chrono::DateTime;
use chrono::format::{Item, StrftimeItems};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{AutoEscape, Environment, ErrorKind, Value as TemplateValue};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use super::json_fields::describe;
use super::problem::Problem;
use super::template_json::{JsonLayout, to_json};

/// The instant that `strftime_now` tells, in seconds since 1970: 26 July 2024, the day Llama 3's templates name when
/// they are given no clock.
pub const TEMPLATE_TIME: i64 = 1_721_952_000;

/// Instructions a template may execute for one conversation. A message costs some hundred.
const MAX_INSTRUCTIONS: u64 = 20_000_000;

/// Bytes of a template's text. The longest that are published have some 30,000.
const MAX_SOURCE: usize = 1 << 18;

/// Stack to compile it and to run it on, of which only what is used becomes memory. What a text of that size can nest takes less,
/// and so do values that are nested for as long as [`ALLOWANCE`] has memory for it: a level takes 64 bytes of that, and less than
/// 512 of the stack when such values are compared, printed or dropped.
const STACK: usize = 1 << 31;

/// What one conversation may take beside instructions: a text that is doubled forty times takes few. The longest
/// conversations take some megabytes and milliseconds. Neither can be stopped otherwise, so the program ends.
const ALLOWANCE: Allowance = Allowance {
    bytes: 1 << 28,
    too_much_memory: "error: the chat template takes more than 256 MiB of memory\n  expected: some megabytes for each \
                      conversation\n  hint: copy the template of the model this one was made from\n",
    time: Duration::from_secs(30),
    too_much_time: "error: the chat template takes more than 30 seconds\n  expected: some milliseconds for each \
                    conversation\n  hint: copy the template of the model this one was made from\n",
};

/// Why a conversation could not be rendered.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChatTemplateError {
    /// The template is not valid Jinja.
    #[error(
        "chat template `{template}` is not valid at line {line}\n  found: {detail}\n  hint: copy the template of the model this one was made from"
    )]
    Syntax {
        /// Where the template comes from.
        template: String,
        /// Line, counted from 1.
        line: usize,
        /// What is wrong with it.
        detail: String,
    },
    /// The system gives no thread to work on it.
    #[error(
        "chat template `{template}` cannot be worked on\n  found: no thread with room for deep nesting: {found}\n  expected: an address space of some gigabytes, of which little becomes memory\n  hint: raise the limit on it (`ulimit -v`)"
    )]
    NoThread {
        /// Where the template comes from.
        template: String,
        /// What the system said.
        found: String,
    },
    /// The template itself refuses the conversation, by `raise_exception`.
    #[error(
        "chat template `{template}` refuses the conversation at line {line}\n  found: {detail}\n  hint: give the row the roles and the order that the template asks for"
    )]
    Refused {
        /// Where the template comes from.
        template: String,
        /// Line, counted from 1.
        line: usize,
        /// The template's own words.
        detail: String,
    },
    /// The template did more work than any conversation needs.
    #[error(
        "chat template `{template}` does not come to an end\n  found: more than {MAX_INSTRUCTIONS} instructions, at line {line}\n  expected: some hundred for each message\n  hint: copy the template of the model this one was made from"
    )]
    Endless {
        /// Where the template comes from.
        template: String,
        /// Line, counted from 1.
        line: usize,
    },
    /// The template failed on the conversation.
    #[error(
        "chat template `{template}` failed at line {line}\n  found: {detail}\n  hint: copy the template of the model this one was made from"
    )]
    Failed {
        /// Where the template comes from.
        template: String,
        /// Line, counted from 1.
        line: usize,
        /// What failed.
        detail: String,
    },
}

/// What `raise_exception` was called with; marks the error as the template's own.
#[derive(Debug, Error)]
#[error("{0}")]
struct RaisedByTemplate(String);

/// One message of a conversation. Beside its role and content it keeps whatever fields it came with, such as
/// `tool_calls`, for the template to read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Message {
    fields: Map<String, Value>,
}

impl Message {
    /// A message of plain text.
    pub fn new(role: &str, content: &str) -> Self {
        let mut fields = Map::new();
        fields.insert("role".to_owned(), role.into());
        fields.insert("content".to_owned(), content.into());
        Self { fields }
    }

    /// A message with the fields of a JSON object.
    ///
    /// # Errors
    /// A [`Problem`] when there is no role, or the content is neither text, nor parts, nor absent.
    pub fn from_fields(fields: Map<String, Value>) -> Result<Self, Problem> {
        let expected_roles = "a text such as `system`, `user`, `assistant` or `tool`";
        match fields.get("role") {
            Some(Value::String(role)) if !role.is_empty() => {}
            Some(other) => return Err(Problem::new("role", describe(other), expected_roles)),
            None => return Err(Problem::new("role", "no value", expected_roles)),
        }
        match fields.get("content") {
            None | Some(Value::Null | Value::String(_) | Value::Array(_)) => Ok(Self { fields }),
            Some(other) => Err(Problem::new("content", describe(other), "a text")),
        }
    }

    /// Who speaks.
    pub fn role(&self) -> &str {
        self.fields.get("role").and_then(Value::as_str).unwrap_or("")
    }

    /// What is said; `None` when it is not plain text, as in a message that only calls tools.
    pub fn content(&self) -> Option<&str> {
        self.fields.get("content").and_then(Value::as_str)
    }

    /// All fields.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }
}

/// A conversation as text, with what of it the assistant wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkedText {
    /// The whole conversation.
    pub text: String,
    /// The bytes of it that the chat template marks, in order.
    pub blocks: Vec<Range<usize>>,
}

/// A compiled chat template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    name: String,
    source: String,
    variables: Map<String, Value>,
    /// Holds the template, and where it has generation blocks one more that marks them.
    environment: Arc<Environment<'static>>,
}

impl ChatTemplate {
    /// Compiles `source`. `name` says in errors where it comes from; `variables` are given to every rendering beside
    /// the conversation (`bos_token`, `eos_token` and their like).
    ///
    /// # Errors
    /// [`ChatTemplateError::Syntax`].
    pub fn new(name: &str, source: &str, variables: Map<String, Value>) -> Result<Self, ChatTemplateError> {
        Self::at_time(name, source, variables, TEMPLATE_TIME)
    }

    /// As [`Self::new`], with another instant for `strftime_now`, in seconds since 1970, UTC.
    ///
    /// # Errors
    /// [`ChatTemplateError::Syntax`].
    pub fn at_time(
        name: &str,
        source: &str,
        variables: Map<String, Value>,
        seconds: i64,
    ) -> Result<Self, ChatTemplateError> {
        let invalid = |line: usize, detail: String| ChatTemplateError::Syntax {
            template: name.to_owned(),
            line,
            detail,
        };
        if source.len() > MAX_SOURCE {
            let found = format!("a text of {} bytes, more than {MAX_SOURCE}", source.len());
            return Err(invalid(1, found));
        }
        let environment = on_large_stack(|| compile(name, source, seconds))
            .map_err(|error| ChatTemplateError::NoThread {
                template: name.to_owned(),
                found: error.to_string(),
            })?
            .map_err(|error| invalid(error.line().unwrap_or(1), detail(&error)))?;
        Ok(Self {
            name: name.to_owned(),
            source: source.to_owned(),
            variables,
            environment: Arc::new(environment),
        })
    }

    /// Where the template comes from.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The conversation as text. With `add_generation_prompt` the text ends where the model is to answer.
    ///
    /// # Errors
    /// See [`ChatTemplateError`].
    pub fn render(
        &self,
        messages: &[Message],
        tools: Option<&[Value]>,
        add_generation_prompt: bool,
    ) -> Result<String, ChatTemplateError> {
        self.render_by(&self.name, messages, tools, add_generation_prompt)
    }

    /// The conversation as text, with the bytes of it that the template's `{% generation %}` blocks mark as written by
    /// the assistant, in order (<https://huggingface.co/docs/transformers/chat_templating_writing>, "generation").
    /// `None` where the template has no such blocks.
    ///
    /// # Errors
    /// See [`ChatTemplateError`].
    pub fn render_with_blocks(
        &self,
        messages: &[Message],
        tools: Option<&[Value]>,
    ) -> Result<Option<MarkedText>, ChatTemplateError> {
        let name = marked_name(&self.name);
        if self.environment.get_template(&name).is_err() {
            return Ok(None);
        }
        let marked = without_printed_marks(&self.render_by(&name, messages, tools, false)?);
        // Words that hold the marks themselves make another text.
        let rendered = self.render(messages, tools, false)?;
        Ok(Some(marked).filter(|marked| marked.text == rendered))
    }

    fn render_by(
        &self,
        template: &str,
        messages: &[Message],
        tools: Option<&[Value]>,
        add_generation_prompt: bool,
    ) -> Result<String, ChatTemplateError> {
        let mut context = self.variables.clone();
        context.insert(
            "messages".to_owned(),
            messages
                .iter()
                .map(|message| Value::Object(message.fields.clone()))
                .collect(),
        );
        context.insert("tools".to_owned(), tools.map_or(Value::Null, Into::into));
        context.insert("documents".to_owned(), Value::Null);
        context.insert("add_generation_prompt".to_owned(), add_generation_prompt.into());
        let render = || {
            let rendered = self
                .environment
                .get_template(template)
                .and_then(|template| template.render(TemplateValue::from(Serde(&context))));
            // The error may hold the template's values, which are dropped here with it.
            rendered.map_err(|error| self.failure(&error))
        };
        on_large_stack(|| allowance::within(ALLOWANCE, render)).map_err(|error| ChatTemplateError::NoThread {
            template: self.name.clone(),
            found: error.to_string(),
        })?
    }

    fn failure(&self, error: &minijinja::Error) -> ChatTemplateError {
        let template = self.name.clone();
        let line = error.line().unwrap_or(1);
        if error.kind() == ErrorKind::OutOfFuel {
            return ChatTemplateError::Endless { template, line };
        }
        let mut cause = error.source();
        while let Some(source) = cause {
            if let Some(RaisedByTemplate(message)) = source.downcast_ref() {
                return ChatTemplateError::Refused {
                    template,
                    line,
                    detail: message.clone(),
                };
            }
            cause = source.source();
        }
        ChatTemplateError::Failed {
            template,
            line,
            detail: detail(error),
        }
    }
}

fn detail(error: &minijinja::Error) -> String {
    error.detail().map_or_else(
        || error.kind().to_string(),
        |detail| format!("{}: {detail}", error.kind()),
    )
}

/// The parser calls itself for every level of nesting, and so does whatever handles nested values.
fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> std::io::Result<T> {
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().stack_size(STACK);
        let worker = builder.spawn_scoped(scope, work)?;
        worker.join().map_err(|panic| std::panic::resume_unwind(panic))
    })
}

/// Jinja as transformers sets it up for chat templates, with the template in it.
fn compile(name: &str, source: &str, seconds: i64) -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    environment.set_syntax(syntax);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(MAX_INSTRUCTIONS));
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", |message: &str| {
        Err::<TemplateValue, _>(
            minijinja::Error::new(ErrorKind::InvalidOperation, message.to_owned())
                .with_source(RaisedByTemplate(message.to_owned())),
        )
    });
    environment.add_function("strftime_now", move |format: &str| strftime(seconds, format));
    let unmarked = without_generation_marks(source);
    if unmarked != source {
        environment.add_template_owned(marked_name(name), with_printed_marks(source))?;
    }
    environment.add_template_owned(name.to_owned(), unmarked)?;
    Ok(environment)
}

/// `tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
#[expect(
    clippy::needless_pass_by_value,
    reason = "minijinja hands a filter its arguments by value"
)]
fn tojson(value: &TemplateValue, ensure_ascii: Option<bool>, kwargs: Kwargs) -> Result<String, minijinja::Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let (item_separator, key_separator) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => {
            let message = "tojson takes two separators";
            return Err(minijinja::Error::new(ErrorKind::InvalidOperation, message));
        }
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let layout = JsonLayout {
        indent,
        item_separator,
        key_separator,
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        ensure_ascii: ensure_ascii.or(kwargs.get("ensure_ascii")?).unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    to_json(value, &layout)
}

fn strftime(seconds: i64, format: &str) -> Result<String, minijinja::Error> {
    let invalid = || minijinja::Error::new(ErrorKind::InvalidOperation, format!("`{format}` is not a date format"));
    let time = DateTime::from_timestamp(seconds, 0).ok_or_else(invalid)?;
    let items: Vec<Item> = StrftimeItems::new(format).collect();
    // chrono panics when it writes a format with an error in it.
    if items.contains(&Item::Error) {
        return Err(invalid());
    }
    Ok(time.format_with_items(items.iter()).to_string())
}

/// Marks of a rendering where a `{% generation %}` block begins and ends: characters that Unicode reserves for a
/// program's own use and that no text holds.
const BLOCK_BEGINS: char = '\u{fdd0}';
const BLOCK_ENDS: char = '\u{fdd1}';

/// The name of the template that renders with these marks.
fn marked_name(name: &str) -> String {
    format!("{name} with its generation blocks marked")
}

/// Replaces `{% generation %}` and `{% endgeneration %}`, by which transformers marks the assistant's tokens, by a
/// condition that always holds: it prints the same, keeps the white space marks, and needs no parser extension.
fn without_generation_marks(source: &str) -> String {
    with_generation_tags(
        source,
        |body| format!("{{%{}%}}", body.replace("generation", "if true")),
        |body| format!("{{%{}%}}", body.replace("endgeneration", "endif")),
    )
}

/// The same with [`BLOCK_BEGINS`] and [`BLOCK_ENDS`] printed. Each tag becomes two, since the white space before it and
/// that behind it are on different sides of what is printed.
fn with_printed_marks(source: &str) -> String {
    let white_space = |mark: Option<char>| {
        mark.filter(|mark| matches!(mark, '-' | '+'))
            .map_or(String::new(), String::from)
    };
    let printed = |body: &str, statement: &str, character: char| {
        let (before, behind) = (white_space(body.chars().next()), white_space(body.chars().next_back()));
        format!("{{%{before} {statement} %}}{{{{ '{character}' }}}}{{% {statement} {behind}%}}")
    };
    with_generation_tags(
        source,
        |body| printed(body, "if true", BLOCK_BEGINS),
        |body| printed(body, "endif", BLOCK_ENDS),
    )
}

/// `source` with the tags of generation blocks replaced; the replacements are given what stands between `{%` and `%}`.
fn with_generation_tags(source: &str, begin: impl Fn(&str) -> String, end: impl Fn(&str) -> String) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        text.push_str(before);
        // Not of `{%}`, whose one percent sign is both.
        let Some(close) = tag[2..].find("%}").map(|length| 2 + length) else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(close + 2);
        let body = &tag[2..close];
        let statement = body.trim_matches(|mark: char| matches!(mark, '-' | '+') || mark.is_whitespace());
        match statement {
            "generation" => text.push_str(&begin(body)),
            "endgeneration" => text.push_str(&end(body)),
            _ => text.push_str(tag),
        }
        rest = after;
    }
    text.push_str(rest);
    text
}

/// A marked rendering without its marks, and the bytes of it that lie within blocks.
fn without_printed_marks(marked: &str) -> MarkedText {
    let mut text = String::with_capacity(marked.len());
    let mut blocks = Vec::new();
    let mut begin = 0;
    for character in marked.chars() {
        match character {
            BLOCK_BEGINS => begin = text.len(),
            BLOCK_ENDS => blocks.push(begin..text.len()),
            other => text.push(other),
        }
    }
    MarkedText { text, blocks }
}
