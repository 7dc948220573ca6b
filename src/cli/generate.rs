//! `diagnose generate`: asks a model, with or without an adapter.

use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, anyhow};
use clap::{ArgGroup, Args};

use super::bounded_numbers::at_least_one;
use super::output::{note, print};
use super::run::{EXIT_KILLED_BY_INTERRUPT, resolve_model};
use crate::device::Selection;
use crate::engine::{EngineSettings, Event, FinishReason, Request, SamplingSettings, SchedulerLimits};
use crate::fine_tuning::{Configuration, FineTuneSettings, Method, RunFolder};
use crate::model::{Message, TemplateChoice, UnknownTemplate};
use crate::serving::ServedModel;
use crate::temporary_folder::end_process;

/// The name under which the engine has the adapter.
const ADAPTER: &str = "adapter";

/// Keys and values that are kept of a conversation, so that each turn computes what it adds.
const CONVERSATION_BYTES: usize = 1 << 30;

/// What is asked, and of which model.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("asked").required(true).args(["folder", "model"]))]
pub struct GenerateArguments {
    /// The folder of a run of `diagnose train`
    pub folder: Option<PathBuf>,
    /// Model folder, GGUF file or hub id
    #[arg(long, value_name = "DIR|FILE.gguf|HUB_ID")]
    pub model: Option<String>,
    /// A finished adapter of mlx-lm or PEFT
    #[arg(long, value_name = "DIR", requires = "model")]
    pub adapter: Option<PathBuf>,
    /// What to ask; may be given several times, each a conversation of its own [default: a conversation, one line at a time]
    #[arg(long, short, value_name = "TEXT")]
    pub prompt: Vec<String>,
    /// What the conversation begins with
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Longest answer in tokens
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = at_least_one)]
    pub max_tokens: usize,
    /// Draw tokens by their probability, flattened by this much; 0 takes the likeliest
    #[arg(long, value_name = "F", default_value_t = 0.0, allow_negative_numbers = true)]
    pub temperature: f32,
    /// Draw from the likeliest tokens that have this probability together; 0 and 1 for all
    #[arg(long, value_name = "F", default_value_t = 0.0, allow_negative_numbers = true)]
    pub top_p: f32,
    /// Draw from as many of the likeliest tokens; 0 for all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub top_k: usize,
    /// Draw from the tokens that are at least this many times as likely as the likeliest
    #[arg(long, value_name = "F", default_value_t = 0.0, allow_negative_numbers = true)]
    pub min_p: f32,
    /// Where the draws begin
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Chat template to ask through: `own`, `chatml`, `llama3`, `mistral`, `alpaca` or `plain` [default: that of the run,
    /// or the model's own]
    #[arg(long, value_name = "NAME", value_parser = template)]
    pub template: Option<TemplateChoice>,
    /// Continue the text of the prompt as it stands, without the chat template
    #[arg(long, conflicts_with_all = ["system", "template"])]
    pub plain: bool,
}

fn template(name: &str) -> Result<TemplateChoice, UnknownTemplate> {
    name.parse()
}

/// A model that can be asked.
struct Asked {
    served: ServedModel,
    adapter: Option<String>,
    sampling: SamplingSettings,
    max_tokens: usize,
    interrupt: AnswerInterrupt,
}

/// An answer that was printed.
struct Told {
    text: String,
    /// Whether the user ended it.
    is_interrupted: bool,
}

/// Ctrl-C ends the answer that is being given, and the program between answers.
#[derive(Clone, Default)]
struct AnswerInterrupt {
    is_answering: Arc<AtomicBool>,
    is_cancelled: Arc<AtomicBool>,
}

impl AnswerInterrupt {
    fn listen(&self) -> Result<()> {
        let own = self.clone();
        ctrlc::set_handler(move || {
            let is_first = !own.is_cancelled.swap(true, Ordering::SeqCst);
            if !(is_first && own.is_answering.load(Ordering::SeqCst)) {
                // The terminal has written `^C` into the line.
                note("");
                end_process(EXIT_KILLED_BY_INTERRUPT);
            }
        })
        .context("cannot listen for Ctrl-C")
    }

    fn begin(&self) {
        self.is_cancelled.store(false, Ordering::SeqCst);
        self.is_answering.store(true, Ordering::SeqCst);
    }

    /// Returns whether the answer was cancelled.
    fn end(&self) -> bool {
        self.is_answering.store(false, Ordering::SeqCst);
        self.is_cancelled.swap(false, Ordering::SeqCst)
    }
}

/// Answers the prompts, or talks until the input ends.
pub fn run(arguments: &GenerateArguments) -> Result<()> {
    let asked = load(arguments)?;
    let system: Vec<Message> = arguments
        .system
        .iter()
        .map(|system| Message::new("system", system))
        .collect();
    if arguments.prompt.is_empty() {
        return talk(&asked, system, arguments.plain);
    }
    for prompt in &arguments.prompt {
        if arguments.prompt.len() > 1 {
            note(&format!("> {prompt}"));
        }
        let tokens = if arguments.plain {
            asked.text(prompt)?
        } else {
            asked.chat(&[&system[..], &[Message::new("user", prompt)]].concat())?
        };
        if asked.told(tokens)?.is_interrupted {
            end_process(EXIT_KILLED_BY_INTERRUPT);
        }
    }
    Ok(())
}

/// Answers line by line until the input ends; where the context is full, the conversation goes on without its beginning.
fn talk(asked: &Asked, system: Vec<Message>, plain: bool) -> Result<()> {
    let is_terminal = std::io::stdin().is_terminal();
    if is_terminal {
        note("an empty line or Ctrl-D ends the conversation; Ctrl-C ends an answer");
    }
    let first_turn = system.len();
    let mut conversation = system;
    let mut lines = std::io::stdin().lock().split(b'\n');
    loop {
        if is_terminal {
            let _ = write!(std::io::stderr().lock(), "> ");
        }
        let Some(line) = lines.next().transpose().context("cannot read the prompt")? else {
            return Ok(());
        };
        let Ok(line) = String::from_utf8(line) else {
            note("the line is no UTF-8 and was left out");
            continue;
        };
        let line = line.trim_end_matches('\r');
        if line.trim().is_empty() {
            if is_terminal {
                return Ok(());
            }
            continue;
        }
        if plain {
            let tokens = asked.text(line)?;
            if asked.has_room(&tokens) {
                asked.told(tokens)?;
            } else {
                note(&asked.too_long(tokens.len()));
            }
            continue;
        }
        conversation.push(Message::new("user", line));
        let mut tokens = asked.chat(&conversation)?;
        let mut dropped = 0;
        while !asked.has_room(&tokens) && conversation.len() > first_turn + 2 {
            conversation.drain(first_turn..first_turn + 2);
            dropped += 1;
            tokens = asked.chat(&conversation)?;
        }
        if dropped > 0 {
            note(&format!(
                "note: the context is full, and the first turns of the conversation are forgotten: {dropped}"
            ));
        }
        if asked.has_room(&tokens) {
            let answer = asked.told(tokens)?;
            conversation.push(Message::new("assistant", &answer.text));
        } else {
            note(&asked.too_long(tokens.len()));
            conversation.pop();
        }
    }
}

fn load(arguments: &GenerateArguments) -> Result<Asked> {
    let interrupt = AnswerInterrupt::default();
    interrupt.listen()?;
    let (model, adapter, template) = match (&arguments.folder, &arguments.model) {
        (Some(folder), _) => of_run(folder)?,
        (None, Some(model)) => (model.clone(), arguments.adapter.clone(), TemplateChoice::Own),
        (None, None) => return Err(anyhow!("no model was given")),
    };
    let source = resolve_model(&model)?;
    let selection = Selection::of(None)?;
    let adapters: BTreeMap<String, PathBuf> = adapter
        .iter()
        .map(|folder| (ADAPTER.to_owned(), folder.clone()))
        .collect();
    // One answer at a time, which may take the whole context.
    let alone = EngineSettings {
        limits: SchedulerLimits {
            max_sequences: 1,
            cache_tokens: usize::MAX,
            ..EngineSettings::default().limits
        },
        prefix_bytes: CONVERSATION_BYTES,
        seed: arguments.seed,
        ..EngineSettings::default()
    };
    let template = arguments.template.unwrap_or(template);
    let served = ServedModel::start(source.open()?, &adapters, template, selection.backend, alone)?;
    for line in &served.notes {
        note(&format!("note: {line}"));
    }
    Ok(Asked {
        served,
        adapter: adapter.map(|_| ADAPTER.to_owned()),
        sampling: SamplingSettings {
            temperature: arguments.temperature,
            top_p: arguments.top_p,
            top_k: arguments.top_k,
            min_p: arguments.min_p,
            ..SamplingSettings::default()
        },
        max_tokens: arguments.max_tokens,
        interrupt,
    })
}

/// The base and the adapter of a run, or the whole model that it left, and the chat template that it was trained with.
fn of_run(folder: &Path) -> Result<(String, Option<PathBuf>, TemplateChoice)> {
    let (run, record) = RunFolder::open(folder)?;
    let (settings, _) = FineTuneSettings::read(&Configuration::from_json(&record.settings, "run.json"))?;
    Ok(match settings.method {
        Method::Lora | Method::Dora => (settings.model, Some(folder.to_owned()), settings.template),
        Method::Full => (run.model().display().to_string(), None, settings.template),
    })
}

impl Asked {
    fn chat(&self, conversation: &[Message]) -> Result<Vec<u32>> {
        let tokenizer = &self.served.tokenizer;
        if tokenizer.chat_template().is_none() {
            return Err(anyhow!(
                "the model has no chat template\n  expected: one in its tokenizer_config.json\n  hint: `--plain` continues a text"
            ));
        }
        Ok(tokenizer.encode_chat(conversation, None, true)?)
    }

    fn text(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.served.tokenizer.encode(text, true)?)
    }

    fn context(&self) -> usize {
        self.served.engine.request_limits().context
    }

    fn has_room(&self, prompt: &[u32]) -> bool {
        prompt.len() < self.context()
    }

    fn too_long(&self, tokens: usize) -> String {
        format!(
            "the prompt is longer than the model's context\n  found: {tokens} tokens\n  expected: fewer than {}\n  hint: ask for \
             less",
            self.context()
        )
    }

    /// Prints the answer while it is given, and returns it.
    fn told(&self, prompt: Vec<u32>) -> Result<Told> {
        if !self.has_room(&prompt) {
            return Err(anyhow!(self.too_long(prompt.len())));
        }
        let room = self.context() - prompt.len();
        self.interrupt.begin();
        let answer = self.served.engine.submit(Request {
            stop_ids: self.served.stop_ids.clone(),
            sampling: self.sampling.clone(),
            adapter: self.adapter.clone(),
            ..Request::greedy(prompt, self.max_tokens.min(room))
        })?;
        let mut text = String::new();
        let finished = loop {
            let event = answer.next_event()?;
            if self.interrupt.is_cancelled.load(Ordering::SeqCst) {
                answer.ticket().cancel();
            }
            match event {
                Event::Token(token) => {
                    text.push_str(&token.text);
                    print(&token.text)?;
                }
                Event::Finished(finished) => break finished,
                Event::Failed(error) => return Err(error.into()),
            }
        };
        text.push_str(&finished.text);
        print(&format!("{}\n", finished.text))?;
        let is_interrupted = self.interrupt.end();
        if finished.reason == FinishReason::Length {
            let context = self.context();
            note(&if room < self.max_tokens {
                format!("note: the answer ends where the model's context of {context} tokens is full")
            } else {
                format!(
                    "note: the answer is cut at {} tokens; `--max-tokens` allows more",
                    self.max_tokens
                )
            });
        }
        Ok(Told { text, is_interrupted })
    }
}
