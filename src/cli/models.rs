//! `diagnose models`: what is in the hub's cache.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use clap::Subcommand;
use serde_json::{Value, json};

use super::output::print;
use crate::model::{CachedModel, HubSettings, list_models, locate_model, plan_removal};

/// What can be done with the models in the hub's cache.
#[derive(Debug, Subcommand)]
pub enum Models {
    /// List them with their sizes, and what is lacking of those that are not whole
    List {
        /// As a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Print the folder that a model is loaded from
    Locate {
        /// Its hub id
        #[arg(value_name = "HUB_ID")]
        name: String,
    },
    /// Remove a model, or one of its revisions; without --yes, say what that would remove
    Remove {
        /// Its hub id
        #[arg(value_name = "HUB_ID")]
        name: String,
        /// Only this commit or branch, with what no other revision shares
        #[arg(long, value_name = "REVISION")]
        revision: Option<String>,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
}

/// Steps of a thousand in which sizes are shown.
const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];

/// Lists, locates or removes.
pub fn run(what: &Models) -> Result<()> {
    let cache = HubSettings::from_environment().cache;
    let cache = cache.ok_or_else(|| anyhow!("there is no folder for the hub's cache\n  hint: set HF_HOME"))?;
    match what {
        Models::List { json: true } => {
            let models: Vec<Value> = list_models(&cache)?.iter().map(as_json).collect();
            print(&format!("{:#}\n", Value::Array(models)))
        }
        Models::List { json: false } => print(&table(&cache, &list_models(&cache)?)?),
        Models::Locate { name } => print(&format!("{}\n", locate(&locate_model(&cache, name)?)?.display())),
        Models::Remove { name, revision, yes } => {
            let model = locate_model(&cache, name)?;
            let plan = plan_removal(&model, revision.as_deref())?;
            let verb = if *yes { "removed" } else { "would remove" };
            let mut text = String::new();
            for path in &plan.paths {
                writeln!(text, "{verb} {}", path.display())?;
            }
            let freed = size(plan.bytes);
            if *yes {
                plan.carry_out()?;
                writeln!(text, "{freed} freed")?;
            } else {
                writeln!(text, "{freed} would be freed; add --yes to do it")?;
            }
            print(&text)
        }
    }
}

fn locate(model: &CachedModel) -> Result<PathBuf> {
    let id = &model.id;
    let revision = model.current().ok_or_else(|| {
        anyhow!("model `{id}` has no revision of the branch `main` in the cache\n  hint: run `hf download {id}`")
    })?;
    if revision.missing.is_empty() {
        Ok(revision.folder.clone())
    } else {
        Err(anyhow!(
            "model `{id}` is not whole in the cache\n  found: no {}, in `{}`\n  hint: run `hf download {id}`",
            revision.missing.join(", "),
            revision.folder.display()
        ))
    }
}

fn table(cache: &Path, models: &[CachedModel]) -> Result<String> {
    let width = models.iter().map(|model| model.id.len()).max().unwrap_or(0);
    let mut text = String::new();
    for model in models {
        let state = match model.current() {
            None => "no revision of the branch main".to_owned(),
            Some(revision) if revision.missing.is_empty() => "whole".to_owned(),
            Some(revision) => format!("partial: no {}", revision.missing.join(", ")),
        };
        let revisions = match model.revisions.len() {
            0 | 1 => String::new(),
            several => format!(", {several} revisions"),
        };
        let unfinished = match model.unfinished {
            0 => String::new(),
            1 => ", 1 unfinished download".to_owned(),
            several => format!(", {several} unfinished downloads"),
        };
        let (id, bytes) = (&model.id, size(model.bytes));
        writeln!(text, "{id:width$}  {bytes:>9}  {state}{revisions}{unfinished}")?;
    }
    let total = models.iter().map(|model| model.bytes).sum();
    let count = match models.len() {
        1 => "1 model".to_owned(),
        several => format!("{several} models"),
    };
    writeln!(text, "{count}, {}, in {}", size(total), cache.display())?;
    Ok(text)
}

fn as_json(model: &CachedModel) -> Value {
    let revisions: Vec<Value> = model
        .revisions
        .iter()
        .map(|revision| {
            json!({
                "commit": revision.commit,
                "branches": revision.branches,
                "folder": revision.folder,
                "bytes": revision.bytes,
                "missing": revision.missing,
            })
        })
        .collect();
    json!({
        "id": model.id,
        "folder": model.folder,
        "bytes": model.bytes,
        "whole": model.is_whole(),
        "unfinished_downloads": model.unfinished,
        "revisions": revisions,
    })
}

/// For example `12 B` or `1.2 GB`.
fn size(bytes: u64) -> String {
    let mut scaled = bytes as f64;
    let mut unit = None;
    for larger in UNITS {
        if scaled < 1000.0 {
            break;
        }
        scaled /= 1000.0;
        unit = Some(larger);
    }
    match unit {
        None => format!("{bytes} B"),
        Some(unit) => format!("{scaled:.1} {unit}"),
    }
}
