//! A model's tokenizer with its special tokens and chat template, from a model folder or a GGUF file.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde_json::{Map, Value};
use thiserror::Error;
use tokenizers::AddedToken;

use super::chat_template::{ChatTemplate, ChatTemplateError, MarkedText, Message};
use super::configuration::MAX_VOCABULARY;
use super::gguf_header::GgufHeader;
use super::gguf_tokenizer::{GgufTokenizerError, read_gguf_tokenizer};
use super::json_fields::{JsonFields, describe};
use super::problem::{Problem, Problems};
use super::tokenizer_definition;

const TOKENIZER_FILE: &str = "tokenizer.json";
const SETTINGS_FILE: &str = "tokenizer_config.json";
const SPECIAL_TOKENS_FILE: &str = "special_tokens_map.json";
const TEMPLATE_FILE: &str = "chat_template.jinja";
const GENERATION_FILE: &str = "generation_config.json";
const CONFIGURATION_FILE: &str = "config.json";

/// Special tokens that templates may name, as transformers passes them.
const SPECIAL_TOKENS: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// Pairs of tokens around a model's thoughts. With one of them in the vocabulary mlx-lm renders every template with
/// `enable_thinking`, without one with its opposite.
pub const THINKING_TOKENS: [[&str; 2]; 3] = [
    ["<think>", "</think>"],
    ["<longcat_think>", "</longcat_think>"],
    ["<|think:start|>", "<|think:end|>"],
];

/// Why a tokenizer could not be loaded or used.
#[derive(Debug, Error)]
pub enum TokenizerError {
    /// The folder has no tokenizer.
    #[error("model folder `{}` has no tokenizer\n  found: {found}\n  expected: a tokenizer.json\n  hint: {hint}", folder.display())]
    Absent {
        /// The folder.
        folder: PathBuf,
        /// What it has instead.
        found: String,
        /// How to get one.
        hint: String,
    },
    /// A file could not be read.
    #[error("`{}` cannot be read\n  found: {source}\n  hint: check that the file can be read by this user", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file does not hold what its name says.
    #[error("`{}` is broken\n  found: {found}\n  expected: {expected}\n  hint: download the file again", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What was found.
        found: String,
        /// What should be there.
        expected: String,
    },
    /// Values in a file are wrong.
    #[error("`{}` cannot be used\n{problems}\n  hint: copy the file from the model this one was made from", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Every value that is wrong.
        problems: Problems,
    },
    /// The tokenizer of a GGUF file was refused.
    #[error(transparent)]
    Gguf(#[from] GgufTokenizerError),
    /// The chat template is not valid, or refuses a conversation.
    #[error(transparent)]
    Template(#[from] ChatTemplateError),
    /// There is no chat template, and a conversation was to be rendered.
    #[error("the tokenizer in `{}` has no chat template\n  found: a conversation to write as text\n  expected: a chat_template.jinja, or `chat_template` in tokenizer_config.json\n  hint: add a chat_template.jinja, or use rows with `text` instead of conversations", origin.display())]
    NoTemplate {
        /// The folder or file the tokenizer comes from.
        origin: PathBuf,
    },
    /// The library failed on a text or on ids.
    #[error("the tokenizer in `{}` failed\n  found: {detail}\n  hint: copy tokenizer.json from the model this one was made from", origin.display())]
    Failed {
        /// The folder or file the tokenizer comes from.
        origin: PathBuf,
        /// What the library said.
        detail: String,
    },
}

/// An id that ends an answer, and the file and key that say so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredEnd {
    /// Token id.
    pub id: u32,
    /// For example `config.json eos_token_id`.
    pub source: String,
}

/// A tokenizer, ready for use.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    origin: PathBuf,
    vocabulary_size: usize,
    bos_id: Option<u32>,
    eos_id: Option<u32>,
    declared_ends: Vec<DeclaredEnd>,
    template: Option<ChatTemplate>,
    /// Used instead of `template` for conversations with tools, where a model has one of its own for them.
    tool_template: Option<ChatTemplate>,
    /// What every template is given beside the conversation.
    template_variables: Map<String, Value>,
}

/// The templates found, by name, each with the place it was found in.
#[derive(Default)]
struct TemplateSources {
    default: Option<(String, String)>,
    tool_use: Option<(String, String)>,
}

impl Tokenizer {
    /// Loads the tokenizer of a model folder: `tokenizer.json`, and where they exist `tokenizer_config.json`,
    /// `special_tokens_map.json`, `chat_template.jinja`, and the end-of-text ids of `config.json` and
    /// `generation_config.json`.
    ///
    /// Which tokens are put around every text is up to `tokenizer.json` alone; `add_bos_token` and `add_eos_token` are
    /// passed over, as by transformers 5.
    ///
    /// # Errors
    /// See [`TokenizerError`].
    pub fn from_folder(folder: &Path) -> Result<Self, TokenizerError> {
        let path = folder.join(TOKENIZER_FILE);
        let Some(bytes) = read_optional(&path)? else {
            return Err(absent(folder));
        };
        let broken = |found: String| TokenizerError::Broken {
            path: path.clone(),
            found,
            expected: "a tokenizer of Hugging Face's library".to_owned(),
        };
        tokenizer_definition::check(&bytes).map_err(|error| broken(error.to_string()))?;
        let mut inner = tokenizers::Tokenizer::from_bytes(&bytes).map_err(|error| broken(error.to_string()))?;
        leave_lengths_alone(&mut inner, folder)?;

        let settings = read_object(&folder.join(SETTINGS_FILE))?.unwrap_or_default();
        let special_tokens_map = read_object(&folder.join(SPECIAL_TOKENS_FILE))?.unwrap_or_default();
        let mut fields = JsonFields::new(&settings);
        let mut special_tokens = Map::new();
        for name in SPECIAL_TOKENS {
            let text = read_special_token(&mut fields, settings.get(name), name)
                .or_else(|| read_special_token(&mut fields, special_tokens_map.get(name), name));
            if let Some(text) = text {
                special_tokens.insert(name.to_owned(), text.into());
            }
        }
        add_declared_tokens(&mut inner, &mut fields);
        let bos = find_token(&inner, &mut fields, &special_tokens, "bos_token");
        let eos = find_token(&inner, &mut fields, &special_tokens, "eos_token");
        let templates = read_templates(folder, &mut fields)?;
        if !fields.problems.is_empty() {
            return Err(TokenizerError::Unusable {
                path: folder.join(SETTINGS_FILE),
                problems: fields.problems,
            });
        }
        let mut declared_ends = Vec::new();
        if let Some((id, _)) = &eos {
            declared_ends.push(DeclaredEnd {
                id: *id,
                source: format!("{SETTINGS_FILE} eos_token"),
            });
        }
        for file in [CONFIGURATION_FILE, GENERATION_FILE] {
            declared_ends.extend(read_end_ids(folder, file)?);
        }
        Self::assemble(inner, folder, bos, eos, declared_ends, templates, special_tokens)
    }

    /// Makes the tokenizer of a GGUF file out of its metadata.
    ///
    /// # Errors
    /// See [`TokenizerError`].
    pub fn from_gguf(header: &GgufHeader) -> Result<Self, TokenizerError> {
        let found = read_gguf_tokenizer(header)?;
        let broken = |found: String| TokenizerError::Broken {
            path: header.path.clone(),
            found,
            expected: "a vocabulary and merges of byte-level BPE".to_owned(),
        };
        let inner = tokenizers::Tokenizer::from_str(&found.definition.to_string())
            .map_err(|error| broken(error.to_string()))?;
        let mut templates = TemplateSources::default();
        let mut special_tokens = Map::new();
        let metadata = |problem: Problem| GgufTokenizerError::Metadata {
            path: header.path.clone(),
            problems: problem.into(),
        };
        for (key, slot) in [
            ("tokenizer.chat_template", &mut templates.default),
            ("tokenizer.chat_template.tool_use", &mut templates.tool_use),
        ] {
            *slot = header
                .text(key)
                .map_err(metadata)?
                .map(|source| (format!("GGUF {key}"), source.to_owned()));
        }
        for (name, text) in [("bos_token", &found.bos_token), ("eos_token", &found.eos_token)] {
            if let Some(text) = text {
                special_tokens.insert(name.to_owned(), text.clone().into());
            }
        }
        let with_id = |text: Option<String>| text.and_then(|text| inner.token_to_id(&text).map(|id| (id, text)));
        let (bos, eos) = (with_id(found.bos_token), with_id(found.eos_token));
        let declared_ends = found
            .end_ids
            .iter()
            .map(|(id, key)| DeclaredEnd {
                id: *id,
                source: format!("GGUF {key}"),
            })
            .collect();
        Self::assemble(inner, &header.path, bos, eos, declared_ends, templates, special_tokens)
    }

    fn assemble(
        inner: tokenizers::Tokenizer,
        origin: &Path,
        bos: Option<(u32, String)>,
        eos: Option<(u32, String)>,
        declared_ends: Vec<DeclaredEnd>,
        templates: TemplateSources,
        mut variables: Map<String, Value>,
    ) -> Result<Self, TokenizerError> {
        let thinks = THINKING_TOKENS
            .iter()
            .any(|pair| pair.iter().all(|token| inner.token_to_id(token).is_some()));
        variables.insert("enable_thinking".to_owned(), thinks.into());
        let compile = |found: Option<(String, String)>| {
            found
                .map(|(name, source)| ChatTemplate::new(&name, &source, variables.clone()))
                .transpose()
        };
        let template = compile(templates.default)?;
        let tool_template = compile(templates.tool_use)?;
        let largest_id = inner.get_vocab(true).into_values().max();
        // The library counts up to it whenever it writes the vocabulary.
        if let Some(id) = largest_id.filter(|&id| u64::from(id) >= MAX_VOCABULARY) {
            return Err(TokenizerError::Broken {
                path: origin.to_owned(),
                found: format!("a token with the id {id}"),
                expected: format!("ids below {MAX_VOCABULARY}"),
            });
        }
        Ok(Self {
            origin: origin.to_owned(),
            vocabulary_size: largest_id.map_or(0, |id| id as usize + 1),
            bos_id: bos.map(|(id, _)| id),
            eos_id: eos.map(|(id, _)| id),
            declared_ends,
            template,
            tool_template,
            template_variables: variables,
            inner,
        })
    }

    /// The ids of `text`. Special tokens written in the text are recognised; `add_special` puts those around it that the
    /// tokenizer puts around every text.
    ///
    /// # Errors
    /// [`TokenizerError::Failed`].
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TokenizerError> {
        self.inner
            .encode_fast(text, add_special)
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|error| self.failed(&error))
    }

    /// The ids of `text` as [`Self::encode`] gives them without the tokens around a text, each with the bytes of `text` it
    /// stands for.
    ///
    /// # Errors
    /// [`TokenizerError::Failed`].
    pub fn encode_with_bytes(&self, text: &str) -> Result<Vec<(u32, Range<usize>)>, TokenizerError> {
        let encoding = self.inner.encode(text, false).map_err(|error| self.failed(&error))?;
        let bytes = encoding.get_offsets().iter().map(|&(start, end)| start..end);
        Ok(encoding.get_ids().iter().copied().zip(bytes).collect())
    }

    /// The text of `ids`, without special tokens if `skip_special`. Ids outside the vocabulary have no text.
    ///
    /// # Errors
    /// [`TokenizerError::Failed`].
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        self.inner
            .decode(ids, skip_special)
            .map_err(|error| self.failed(&error))
    }

    /// The conversation as text, by the model's chat template.
    ///
    /// # Errors
    /// [`TokenizerError::NoTemplate`] or [`TokenizerError::Template`].
    pub fn render_chat(
        &self,
        messages: &[Message],
        tools: Option<&[Value]>,
        add_generation_prompt: bool,
    ) -> Result<String, TokenizerError> {
        Ok(self
            .template_for(tools)?
            .render(messages, tools, add_generation_prompt)?)
    }

    /// The conversation as text with the bytes of the assistant's words, where the chat template marks them; see
    /// [`ChatTemplate::render_with_blocks`].
    ///
    /// # Errors
    /// As [`Self::render_chat`].
    pub fn render_chat_with_blocks(
        &self,
        messages: &[Message],
        tools: Option<&[Value]>,
    ) -> Result<Option<MarkedText>, TokenizerError> {
        Ok(self.template_for(tools)?.render_with_blocks(messages, tools)?)
    }

    fn template_for(&self, tools: Option<&[Value]>) -> Result<&ChatTemplate, TokenizerError> {
        let for_tools = self.tool_template.as_ref().filter(|_| tools.is_some());
        for_tools
            .or(self.template.as_ref())
            .ok_or_else(|| TokenizerError::NoTemplate {
                origin: self.origin.clone(),
            })
    }

    /// The same tokenizer with another chat template for all conversations, those with tools included. `name` says in
    /// errors where the template comes from.
    ///
    /// # Errors
    /// [`TokenizerError::Template`] when it is not valid.
    pub fn with_chat_template(self, name: &str, source: &str) -> Result<Self, TokenizerError> {
        let template = ChatTemplate::new(name, source, self.template_variables.clone())?;
        Ok(Self {
            template: Some(template),
            tool_template: None,
            ..self
        })
    }

    /// The conversation as ids, by the model's chat template.
    ///
    /// # Errors
    /// As [`Self::render_chat`] and [`Self::encode`].
    pub fn encode_chat(
        &self,
        messages: &[Message],
        tools: Option<&[Value]>,
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>, TokenizerError> {
        self.encode(&self.render_chat(messages, tools, add_generation_prompt)?, false)
    }

    /// The text of one token: as it is written for a token like `<|im_end|>`, decoded for a piece of text. A piece that
    /// ends inside a character shows the replacement character. `None` outside the vocabulary.
    pub fn token_text(&self, id: u32) -> Option<String> {
        let written = self.inner.id_to_token(id)?;
        if self.is_added(id) {
            return Some(written);
        }
        self.inner.decode(&[id], false).ok()
    }

    /// The id of a token by the text it is written with.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.inner.token_to_id(text)
    }

    /// Whether the token was added to the vocabulary as a whole, as control tokens are.
    pub fn is_added(&self, id: u32) -> bool {
        self.inner
            .get_added_vocabulary()
            .get_added_tokens_decoder()
            .contains_key(&id)
    }

    /// The ids of all tokens that were added as a whole, sorted.
    pub fn added_ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self
            .inner
            .get_added_vocabulary()
            .get_added_tokens_decoder()
            .keys()
            .copied()
            .collect();
        ids.sort_unstable();
        ids
    }

    /// One more than the highest id.
    pub fn vocabulary_size(&self) -> usize {
        self.vocabulary_size
    }

    /// The token that begins a text.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos_id
    }

    /// The token that the tokenizer itself ends a text with.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos_id
    }

    /// Every id that a file names as the end of an answer, in the order read; one id may come from several files.
    pub fn declared_ends(&self) -> &[DeclaredEnd] {
        &self.declared_ends
    }

    /// The model's chat template.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// The folder or file the tokenizer comes from.
    pub fn origin(&self) -> &Path {
        &self.origin
    }

    /// The content of a `tokenizer.json` for this tokenizer.
    ///
    /// # Errors
    /// [`TokenizerError::Failed`].
    pub fn definition(&self) -> Result<String, TokenizerError> {
        self.inner.to_string(false).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &tokenizers::Error) -> TokenizerError {
        TokenizerError::Failed {
            origin: self.origin.clone(),
            detail: error.to_string(),
        }
    }
}

fn absent(folder: &Path) -> TokenizerError {
    let older: Vec<&str> = ["tokenizer.model", "vocab.json", "merges.txt"]
        .into_iter()
        .filter(|name| folder.join(name).exists())
        .collect();
    let (found, hint) = if older.is_empty() {
        (
            "no tokenizer files",
            "copy tokenizer.json and tokenizer_config.json from the model this one was made from".to_owned(),
        )
    } else {
        (
            "an older format only",
            format!(
                "python -c \"from transformers import AutoTokenizer; AutoTokenizer.from_pretrained('{0}').save_pretrained('{0}')\" makes it from {1}",
                folder.display(),
                older.join(" and ")
            ),
        )
    };
    TokenizerError::Absent {
        folder: folder.to_owned(),
        found: found.to_owned(),
        hint,
    }
}

/// The content of a file; `None` when it does not exist.
fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, TokenizerError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TokenizerError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

fn read_object(path: &Path) -> Result<Option<Map<String, Value>>, TokenizerError> {
    let Some(bytes) = read_optional(path)? else {
        return Ok(None);
    };
    let broken = |found: String| TokenizerError::Broken {
        path: path.to_owned(),
        found,
        expected: "one JSON object".to_owned(),
    };
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(Some(object)),
        Ok(other) => Err(broken(describe(&other))),
        Err(error) => Err(broken(error.to_string())),
    }
}

/// Drops the cutting and padding that a file may carry from its training; a prompt must never be cut unseen.
fn leave_lengths_alone(inner: &mut tokenizers::Tokenizer, folder: &Path) -> Result<(), TokenizerError> {
    inner.with_padding(None);
    inner.with_truncation(None).map_err(|error| TokenizerError::Failed {
        origin: folder.to_owned(),
        detail: error.to_string(),
    })?;
    Ok(())
}

/// A special token as text or as an object with its `content`.
fn read_special_token(fields: &mut JsonFields, value: Option<&Value>, name: &str) -> Option<String> {
    match value? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Object(object) => match object.get("content") {
            Some(Value::String(text)) => Some(text.clone()),
            other => {
                let found = other.map_or_else(|| "no value".to_owned(), describe);
                fields.problem(&format!("{name}.content"), found, "a text");
                None
            }
        },
        other => {
            fields.problem(name, describe(other), "a text or an object with a content");
            None
        }
    }
}

/// Adds the tokens of `added_tokens_decoder` that `tokenizer.json` does not have; an id that cannot be kept is a problem.
fn add_declared_tokens(inner: &mut tokenizers::Tokenizer, fields: &mut JsonFields) {
    let Some(declared) = fields.object("added_tokens_decoder") else {
        return;
    };
    let mut tokens: Vec<(u32, &str, &Value)> = Vec::new();
    for (key, entry) in declared {
        let content = entry.get("content").and_then(Value::as_str);
        match (key.parse::<u32>(), content) {
            (Ok(id), Some(content)) => tokens.push((id, content, entry)),
            _ => fields.problem(
                &format!("added_tokens_decoder.{key}"),
                describe(entry),
                "an id and an object with a content",
            ),
        }
    }
    tokens.sort_by_key(|(id, _, _)| *id);
    for (id, content, entry) in tokens {
        if inner.token_to_id(content).is_none() {
            let flag = |name: &str| entry.get(name).and_then(Value::as_bool).unwrap_or(false);
            let token = AddedToken::from(content, flag("special"))
                .single_word(flag("single_word"))
                .lstrip(flag("lstrip"))
                .rstrip(flag("rstrip"))
                .normalized(flag("normalized"));
            if let Err(error) = inner.add_tokens([token]) {
                fields.problem(&format!("added_tokens_decoder.{id}"), error.to_string(), "a token");
                continue;
            }
        }
        if inner.token_to_id(content) != Some(id) {
            let found = inner.token_to_id(content).map_or_else(
                || "no such token".to_owned(),
                |other| format!("`{content}` with id {other}"),
            );
            fields.problem(
                &format!("added_tokens_decoder.{id}"),
                format!("{found} in {TOKENIZER_FILE}"),
                format!("`{content}` with id {id}"),
            );
        }
    }
}

fn find_token(
    inner: &tokenizers::Tokenizer,
    fields: &mut JsonFields,
    special_tokens: &Map<String, Value>,
    name: &str,
) -> Option<(u32, String)> {
    let text = special_tokens.get(name)?.as_str()?.to_owned();
    let Some(id) = inner.token_to_id(&text) else {
        fields.problem(name, format!("`{text}`"), format!("a token of {TOKENIZER_FILE}"));
        return None;
    };
    Some((id, text))
}

/// The chat templates of a folder; the file `chat_template.jinja` goes before the settings.
fn read_templates(folder: &Path, fields: &mut JsonFields) -> Result<TemplateSources, TokenizerError> {
    let mut templates = TemplateSources::default();
    let in_settings = format!("{SETTINGS_FILE} chat_template");
    match fields
        .entries()
        .find(|(key, _)| *key == "chat_template")
        .map(|(_, value)| value)
    {
        None | Some(Value::Null) => {}
        Some(Value::String(source)) => templates.default = Some((in_settings, source.clone())),
        Some(Value::Array(named)) => {
            for (index, entry) in named.iter().enumerate() {
                let text = |key: &str| entry.get(key).and_then(Value::as_str);
                match (text("name"), text("template")) {
                    (Some("default"), Some(source)) => {
                        templates.default = Some((in_settings.clone(), source.to_owned()));
                    }
                    (Some("tool_use"), Some(source)) => {
                        templates.tool_use = Some((format!("{in_settings} tool_use"), source.to_owned()));
                    }
                    // Other names are for callers who ask for them.
                    (Some(_), Some(_)) => {}
                    _ => fields.problem(
                        &format!("chat_template[{index}]"),
                        describe(entry),
                        "an object with a name and a template",
                    ),
                }
            }
        }
        Some(other) => fields.problem(
            "chat_template",
            describe(other),
            "a text or an array of named templates",
        ),
    }
    let path = folder.join(TEMPLATE_FILE);
    if let Some(bytes) = read_optional(&path)? {
        let source = String::from_utf8(bytes).map_err(|error| TokenizerError::Broken {
            path,
            found: error.utf8_error().to_string(),
            expected: "UTF-8 text".to_owned(),
        })?;
        templates.default = Some((TEMPLATE_FILE.to_owned(), source));
    }
    Ok(templates)
}

/// The `eos_token_id` of a configuration file.
fn read_end_ids(folder: &Path, file: &str) -> Result<Vec<DeclaredEnd>, TokenizerError> {
    let path = folder.join(file);
    let Some(object) = read_object(&path)? else {
        return Ok(Vec::new());
    };
    let mut fields = JsonFields::new(&object);
    let ids = fields.token_ids("eos_token_id");
    if !fields.problems.is_empty() {
        return Err(TokenizerError::Unusable {
            path,
            problems: fields.problems,
        });
    }
    Ok(ids
        .into_iter()
        .map(|id| DeclaredEnd {
            id,
            source: format!("{file} eos_token_id"),
        })
        .collect())
}
