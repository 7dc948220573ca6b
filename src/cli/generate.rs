//! `diagnose generate`: asks a model, with or without an adapter.

use std::collections::BTreeSet;
use std::io::{BufRead, IsTerminal, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use clap::{ArgGroup, Args};

use super::arguments::at_least_one;
use super::output::{note, print};
use super::run::{listen_for_interrupt, resolve_model};
use crate::adapter::StoredAdapter;
use crate::device::{PrecisionChoice, Selection};
use crate::engine::{DecodeLimits, decode_greedily};
use crate::fine_tuning::{Configuration, FineTuneSettings, Method, RunFolder};
use crate::interrupt::Interrupt;
use crate::model::{CausalModel, Message, StopSet, TemplateChoice, Tokenizer, UnknownTemplate};

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
    /// What to ask; may be given several times [default: a conversation, one line at a time]
    #[arg(long, short, value_name = "TEXT")]
    pub prompt: Vec<String>,
    /// What the conversation begins with
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Longest answer in tokens
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = at_least_one)]
    pub max_tokens: usize,
    /// Chat template to ask through: `own`, `chatml`, `llama3`, `mistral`, `alpaca` or `plain` [default: that of the run,
    /// or the model's own]
    #[arg(long, value_name = "NAME", value_parser = template)]
    pub template: Option<TemplateChoice>,
    /// Continue the text of the prompt as it stands, without the chat template
    #[arg(long)]
    pub plain: bool,
}

fn template(name: &str) -> Result<TemplateChoice, UnknownTemplate> {
    name.parse()
}

/// A model that can be asked.
struct Asked {
    model: CausalModel,
    tokenizer: Tokenizer,
    stop_ids: BTreeSet<u32>,
    max_tokens: usize,
    interrupt: Interrupt,
}

/// Answers the prompts, or talks until the input ends.
pub fn run(arguments: &GenerateArguments) -> Result<()> {
    let asked = load(arguments)?;
    let mut conversation: Vec<Message> = arguments
        .system
        .iter()
        .map(|system| Message::new("system", system))
        .collect();
    if !arguments.prompt.is_empty() {
        for prompt in &arguments.prompt {
            let answer = if arguments.plain {
                asked.continued(prompt)?
            } else {
                let question = Message::new("user", prompt);
                asked.answer(&[&conversation[..], &[question]].concat())?
            };
            print(&format!("{answer}\n"))?;
        }
        return Ok(());
    }
    let is_terminal = std::io::stdin().is_terminal();
    if is_terminal {
        note("an empty line or Ctrl-D ends the conversation");
    }
    let mut lines = std::io::stdin().lock().lines();
    loop {
        if is_terminal {
            let _ = write!(std::io::stderr().lock(), "> ");
        }
        let Some(line) = lines.next().transpose().context("cannot read the prompt")? else {
            return Ok(());
        };
        if line.trim().is_empty() {
            return Ok(());
        }
        if arguments.plain {
            print(&format!("{}\n", asked.continued(&line)?))?;
            continue;
        }
        conversation.push(Message::new("user", &line));
        let answer = asked.answer(&conversation)?;
        print(&format!("{answer}\n"))?;
        conversation.push(Message::new("assistant", &answer));
    }
}

fn load(arguments: &GenerateArguments) -> Result<Asked> {
    let interrupt = Interrupt::default();
    listen_for_interrupt(&interrupt)?;
    let (model, adapter, template) = match (&arguments.folder, &arguments.model) {
        (Some(folder), _) => of_run(folder)?,
        (None, Some(model)) => (model.clone(), arguments.adapter.clone(), TemplateChoice::Own),
        (None, None) => return Err(anyhow!("no model was given")),
    };
    let source = resolve_model(&model)?;
    let selection = Selection::of(None)?;
    let files = source.open()?;
    let configuration = files.configuration()?;
    let precision = selection.backend.precision(&configuration, PrecisionChoice::default());
    let tokenizer = arguments.template.unwrap_or(template).apply(files.tokenizer()?)?;
    let mut loaded = files.load(configuration, precision)?;
    if let Some(adapter) = adapter {
        let stored = StoredAdapter::read(&adapter)?;
        let applied = stored.apply(&mut loaded.model)?;
        check_whole(&adapter, &stored.faults(&applied))?;
    }
    Ok(Asked {
        stop_ids: StopSet::of(&tokenizer)?.ids().into_iter().collect(),
        model: loaded.model,
        tokenizer,
        max_tokens: arguments.max_tokens,
        interrupt,
    })
}

/// Answers of a part of an adapter would be nobody's.
fn check_whole(folder: &Path, faults: &[String]) -> Result<()> {
    match faults.first() {
        None => Ok(()),
        Some(fault) => Err(anyhow!(
            "the adapter `{}` does not fit the model\n  found: {fault}\n  expected: an adapter of this model\n  hint: \
             `diagnose --model MODEL --adapter DIR --data DATA` lists everything",
            folder.display()
        )),
    }
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
    fn answer(&self, conversation: &[Message]) -> Result<String> {
        if self.tokenizer.chat_template().is_none() {
            return Err(anyhow!(
                "the model has no chat template\n  expected: one in its tokenizer_config.json\n  hint: `--plain` continues a text"
            ));
        }
        self.decoded(&self.tokenizer.encode_chat(conversation, None, true)?)
    }

    fn continued(&self, text: &str) -> Result<String> {
        self.decoded(&self.tokenizer.encode(text, true)?)
    }

    fn decoded(&self, prompt: &[u32]) -> Result<String> {
        let vocabulary = self.model.model.embed_tokens.vocabulary_size();
        if prompt.is_empty() {
            return Err(anyhow!("the prompt is empty"));
        }
        if let Some(id) = prompt.iter().find(|&&id| id >= vocabulary.cast_unsigned()) {
            return Err(anyhow!(
                "the tokenizer and the model do not fit\n  found: token id {id}\n  expected: an id below {vocabulary}"
            ));
        }
        let limits = DecodeLimits {
            answer: self.max_tokens,
            at_least: 0,
        };
        let decoded = decode_greedily(&self.model, prompt, &self.stop_ids, limits, &self.interrupt)?;
        if decoded.not_finite {
            return Err(anyhow!(
                "the model's logits are not finite\n  hint: `diagnose --model MODEL` says why"
            ));
        }
        if decoded.interrupted {
            return Err(anyhow!("interrupted"));
        }
        let end = decoded.tokens.iter().position(|token| self.stop_ids.contains(token));
        let answer = &decoded.tokens[..end.unwrap_or(decoded.tokens.len())];
        Ok(self.tokenizer.decode(answer, true)?)
    }
}
