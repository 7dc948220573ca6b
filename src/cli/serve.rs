//! `diagnose serve`: OpenAI's HTTP interface to a model and its adapters.

use std::collections::BTreeMap;
use std::env;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Args;

use super::bounded_numbers::at_least_one;
use super::byte_size::byte_size;
use super::output::{note, print};
use super::run::resolve_model;
use crate::device::{Backend, PrecisionChoice, Selection};
use crate::engine::{CachePrecision, EngineSettings, SchedulerLimits};
use crate::memory::system_memory;
use crate::model::{ModelConfiguration, TemplateChoice, UnknownTemplate};
use crate::serving::{
    ApiKey, Listener, ServedModel, Server, ServerError, ServerSettings, cache_bytes_per_token, cache_tokens,
};

/// Where the key is looked for when it is not typed. Other users of a machine see what is typed, but not this.
const KEY_VARIABLE: &str = "MLX_DIAGNOSE_API_KEY";
/// Values of a key or value vector that may share one scale when they are packed: mlx-lm's number first, then the smallest
/// that MLX has.
const CACHE_GROUPS: [usize; 2] = [64, 32];

/// What is served, where, and within which bounds.
#[derive(Debug, Args)]
pub struct ServeArguments {
    /// Model folder, GGUF file or hub id
    #[arg(value_name = "DIR|FILE.gguf|HUB_ID")]
    pub model: String,
    /// A finished adapter of mlx-lm or PEFT, served as a model of this name beside the base; may be given several times
    #[arg(long, value_name = "NAME=DIR", value_parser = named_folder)]
    pub adapter: Vec<(String, PathBuf)>,
    /// What requests call the base [default: its hub id, or the name of its folder or file]
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub model_id: Option<String>,
    /// Chat template to ask through: `own`, `chatml`, `llama3`, `mistral`, `alpaca` or `plain` [default: own]
    #[arg(long, value_name = "NAME", value_parser = template)]
    pub template: Option<TemplateChoice>,
    /// Address to listen at; one that other machines reach needs a key
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen at; 0 takes a free one, which is printed
    #[arg(long, value_name = "N", default_value_t = 8080)]
    pub port: u16,
    /// Key that requests have to bring; better set in the variable `MLX_DIAGNOSE_API_KEY`, since other users of the machine
    /// see what is typed
    #[arg(long, value_name = "KEY")]
    pub api_key: Option<String>,
    /// Answers that are computed at one time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = at_least_one)]
    pub max_sequences: usize,
    /// Requests that may wait; more are turned away with status 429
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = at_least_one)]
    pub max_waiting: usize,
    /// Longest answer in tokens, and the length of those that ask for none
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = at_least_one)]
    pub max_tokens: usize,
    /// Tokens of prompts and longest answers that are held at one time; a request waits until it fits [default: what a quarter
    /// of the free memory holds, at most 32768]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub cache_tokens: Option<usize>,
    /// Memory for the keys and values of earlier prompts, so that a beginning that they share is not computed again; 0 for
    /// none
    #[arg(long, value_name = "SIZE", default_value = "256MB", value_parser = byte_size)]
    pub prefix_cache: usize,
    /// Pack keys and values in this many bits: 4 or 8 [default: as they are computed]
    #[arg(long, value_name = "BITS", value_parser = cache_bits)]
    pub kv_bits: Option<i32>,
    /// Longest body of a request
    #[arg(long, value_name = "SIZE", default_value = "2MB", value_parser = byte_size)]
    pub max_body: usize,
    /// Seconds that running answers may take when the server is stopped
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub grace: u32,
}

fn template(name: &str) -> Result<TemplateChoice, UnknownTemplate> {
    name.parse()
}

fn cache_bits(text: &str) -> Result<i32, String> {
    match text {
        "4" => Ok(4),
        "8" => Ok(8),
        _ => Err("must be 4 or 8".to_owned()),
    }
}

fn named_folder(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, folder)) if !name.is_empty() && !folder.is_empty() && !name.contains(char::is_control) => {
            Ok((name.to_owned(), PathBuf::from(folder)))
        }
        _ => Err("must be a name and a folder, such as `pirate=./adapters`".to_owned()),
    }
}

/// Serves until it is told to end.
pub fn run(arguments: &ServeArguments) -> Result<()> {
    let settings = ServerSettings {
        max_tokens: arguments.max_tokens,
        body_bytes: arguments.max_body,
        grace: Duration::from_secs(arguments.grace.into()),
        api_key: api_key(arguments)?,
        ..ServerSettings::new(&model_id(arguments)?)
    };
    let adapters = adapters(arguments, &settings.model_id)?;
    // What is wrong with the address is said before a model is loaded.
    let listener = Listener::bind(address(arguments)?, &settings)?;
    let source = resolve_model(&arguments.model)?;
    let selection = Selection::of(None)?;
    let template = arguments.template.unwrap_or(TemplateChoice::Own);
    let files = source.open()?;
    let engine = engine_settings(arguments, &files.configuration()?, selection.backend)?;
    let model = ServedModel::start(files, &adapters, template, selection.backend, engine)?;
    for line in &model.notes {
        note(&format!("note: {line}"));
    }
    let (held, context) = (engine.limits.cache_tokens, model.engine.request_limits().context);
    if held < context {
        note(&format!(
            "note: prompt and answer together have room for {held} tokens, fewer than the model's context of {context}; \
             `--cache-tokens` decides"
        ));
    }
    let address = listener.address();
    let server = Server::new(listener, model, settings)?;
    note(&format!("serving {}", server.model_ids().join(", ")));
    let stopper = server.stopper();
    let grace = arguments.grace;
    let is_stopping = AtomicBool::new(false);
    ctrlc::set_handler(move || {
        if is_stopping.swap(true, Ordering::SeqCst) {
            note("cancelling running answers");
        } else {
            note(&format!(
                "stopping: running answers may end within {grace} s, unless asked again"
            ));
        }
        stopper.stop();
    })
    .context("cannot listen for Ctrl-C")?;
    print(&format!("listening on http://{address}\n"))?;
    Ok(server.run()?)
}

fn engine_settings(
    arguments: &ServeArguments,
    configuration: &ModelConfiguration,
    backend: Backend,
) -> Result<EngineSettings> {
    let defaults = EngineSettings::default();
    let cache_precision = match arguments.kv_bits {
        None => CachePrecision::Whole,
        Some(bits) => packed_cache(configuration, bits)?,
    };
    let precision = backend.precision(configuration, PrecisionChoice::default());
    let each = cache_bytes_per_token(configuration, cache_precision, precision.dtype);
    // A system that does not tell gets what any machine has.
    let free = system_memory().map(|memory| memory.available);
    let fitting = free.map_or(defaults.limits.cache_tokens, |free| cache_tokens(each, free));
    Ok(EngineSettings {
        limits: SchedulerLimits {
            max_sequences: arguments.max_sequences,
            max_waiting: arguments.max_waiting,
            cache_tokens: arguments.cache_tokens.unwrap_or(fitting),
            step_tokens: arguments.max_sequences.saturating_add(defaults.limits.prefill_chunk),
            ..defaults.limits
        },
        cache_precision,
        prefix_bytes: arguments.prefix_cache,
        ..defaults
    })
}

/// How keys and values are packed: along each head's values, which have to be whole groups.
fn packed_cache(configuration: &ModelConfiguration, bits: i32) -> Result<CachePrecision> {
    let head = configuration.head_dim;
    let group = CACHE_GROUPS.into_iter().find(|group| head.is_multiple_of(*group));
    let group = group.ok_or_else(|| {
        anyhow!(
            "the model's keys and values cannot be packed\n  found: heads of {head} values\n  expected: a multiple of \
             {}\n  hint: leave out `--kv-bits`",
            CACHE_GROUPS[1]
        )
    })?;
    Ok(CachePrecision::Packed {
        group_size: i32::try_from(group)?,
        bits,
    })
}

fn api_key(arguments: &ServeArguments) -> Result<Option<ApiKey>> {
    let (origin, key) = match (&arguments.api_key, env::var_os(KEY_VARIABLE)) {
        (Some(key), _) => ("--api-key", Some(key.clone())),
        (None, Some(key)) => (KEY_VARIABLE, key.into_string().ok()),
        (None, None) => return Ok(None),
    };
    // The key itself is not shown, even when it is wrong.
    let key = key.and_then(|key| ApiKey::new(&key)).ok_or_else(|| {
        anyhow!(
            "the key of `{origin}` cannot be used\n  expected: one character or more of printable ASCII, without spaces"
        )
    })?;
    Ok(Some(key))
}

fn adapters(arguments: &ServeArguments, model_id: &str) -> Result<BTreeMap<String, PathBuf>> {
    let mut adapters = BTreeMap::new();
    for (name, folder) in &arguments.adapter {
        // Said before a model is loaded.
        if name == model_id {
            return Err(ServerError::Ambiguous { name: name.clone() }.into());
        }
        if adapters.insert(name.clone(), folder.clone()).is_some() {
            return Err(anyhow!(
                "two adapters have the same name\n  found: `{name}` twice\n  expected: a name of its own for each"
            ));
        }
    }
    Ok(adapters)
}

fn address(arguments: &ServeArguments) -> Result<SocketAddr> {
    let host = arguments.host.trim_start_matches('[').trim_end_matches(']');
    let failed = || format!("`{host}` is no address of this machine");
    let mut addresses = (host, arguments.port).to_socket_addrs().with_context(failed)?;
    addresses.next().ok_or_else(|| anyhow!(failed()))
}

/// A model's name: as on the hub, or of its folder or file.
fn model_id(arguments: &ServeArguments) -> Result<String> {
    if let Some(id) = &arguments.model_id {
        return Ok(id.clone());
    }
    // What is no path is a hub id, or refused when it is resolved.
    let Ok(whole) = Path::new(&arguments.model).canonicalize() else {
        return Ok(arguments.model.clone());
    };
    // A link is called by its own name; `.` has none.
    let typed = Path::new(&arguments.model);
    let named = if typed.file_name().is_some() { typed } else { &whole };
    let name = if whole.is_dir() {
        named.file_name()
    } else {
        named.file_stem()
    };
    let name = name.ok_or_else(|| anyhow!("the model has no name\n  hint: give it one with `--model-id`"))?;
    Ok(name.to_string_lossy().into_owned())
}
