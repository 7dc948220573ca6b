//! What a comparison reads of models in this process: the built-in pair, tokenizers, and where mixtures send their tokens.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};

use super::output::note;
use super::run::resolve_model;
use crate::compare::scenarios::TokenCounter;
use crate::compare::{Figure, ModelPair, Plan, Side, Unit, cache_folder};
use crate::device::{Backend, PrecisionChoice};
use crate::memory::system_memory;
use crate::model::{ConversionSettings, HubSettings, ModelFiles, ModelSource, Tokenizer, convert_model};
use crate::probes::routing::{BlockRouting, measure};

/// Where scripts/fetch-smollm2 puts it.
const GGUF: &str = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
/// Share of the free memory that a mixture's files may have for it to be read: activations need room too.
const FITTING: f64 = 0.8;
/// How much larger packed weights may become where they are unpacked: 4 bits to 32.
const UNPACKED: u64 = 8;

/// The plan that compares `gguf` with `mlx`, a folder of the same weights; SmolLM2 where they are not given.
pub fn built_in(gguf: Option<&Path>, mlx: Option<&Path>) -> Result<Plan> {
    let gguf = gguf.unwrap_or(Path::new(GGUF));
    if !gguf.is_file() {
        return Err(anyhow!(
            "there is no GGUF file to compare\n  found: no file `{}`\n  hint: run `scripts/fetch-smollm2` in this project's \
             folder, or name a file with `--gguf`, or a plan with `--config`",
            gguf.display()
        ));
    }
    let mlx = match mlx {
        Some(mlx) => mlx.to_owned(),
        None => converted(gguf)?,
    };
    // Servers are started in folders of their own.
    let absolute = |path: &Path| {
        path.canonicalize()
            .with_context(|| format!("cannot read `{}`", path.display()))
    };
    Ok(Plan::built_in(&absolute(gguf)?, &absolute(&mlx)?))
}

/// A folder of the weights of `gguf` for MLX, packed as they are there, which is made once and kept.
fn converted(gguf: &Path) -> Result<PathBuf> {
    let files = resolve_model(&gguf.to_string_lossy())?.open()?;
    let name = gguf.file_stem().unwrap_or_default().to_string_lossy();
    let target = cache_folder()?
        .join("compare")
        .join(format!("{name}-{:08x}", files.fingerprint()?));
    if target.is_dir() {
        return Ok(target);
    }
    note(&format!(
        "making a folder for MLX of `{}`: {}",
        gguf.display(),
        target.display()
    ));
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot write to `{}`", parent.display()))?;
    }
    let as_it_is = ConversionSettings {
        dtype: None,
        packing: None,
        dequantize: false,
    };
    convert_model(&files, &target, &as_it_is)?;
    Ok(target)
}

/// Counts by a model's own tokenizer.
struct ModelTokens(Tokenizer);

impl TokenCounter for ModelTokens {
    fn count(&self, text: &str) -> Result<usize, String> {
        let ids = self.0.encode(text, false).map_err(|error| error.to_string())?;
        Ok(ids.len())
    }
}

/// The tokenizer that a pair names; `None` where it names none.
pub fn count_tokens(pair: &ModelPair) -> Result<Option<Box<dyn TokenCounter>>, String> {
    let Some(path) = &pair.tokenizer else { return Ok(None) };
    let tokenizer = local(&path.to_string_lossy()).and_then(|files| Ok(files.tokenizer()?));
    let tokenizer = tokenizer.map_err(|error| format!("{error:#}"))?;
    Ok(Some(Box::new(ModelTokens(tokenizer))))
}

/// The files of a model that is on this machine.
fn local(model: &str) -> Result<ModelFiles> {
    let offline = HubSettings {
        offline: true,
        ..HubSettings::from_environment()
    };
    Ok(ModelSource::resolve(model, &offline, &mut |_| {})?.open()?)
}

/// Where the mixture of `side` sends the tokens of `texts`, block by block.
pub fn routing(side: &Side, texts: &[String]) -> Result<Vec<Figure>, String> {
    let blocks = route(side, texts).map_err(|error| format!("{error:#}"))?;
    if blocks.is_empty() {
        return Err("no block of the model has experts".to_owned());
    }
    let figure = |name: &str, unit: Unit, note: &str, value: &dyn Fn(&BlockRouting) -> f64| Figure {
        name: name.to_owned(),
        unit,
        values: blocks.iter().map(value).collect(),
        note: note.to_owned(),
    };
    let loads = blocks.iter().flat_map(|block| &block.load);
    Ok(vec![
        Figure {
            name: "routing-load".to_owned(),
            unit: Unit::Tokens,
            values: loads.map(|tokens| *tokens as f64).collect(),
            note: format!("tokens of each of {} experts, block by block", blocks[0].load.len()),
        },
        figure(
            "routing-entropy",
            Unit::Nats,
            "entropy of the experts' loads in each block; the logarithm of the number of experts is an even load",
            &BlockRouting::entropy,
        ),
        figure(
            "routing-largest-by-mean",
            Unit::Ratio,
            "the largest load by the mean one in each block; 1 is an even load",
            &BlockRouting::largest_by_mean,
        ),
        figure(
            "routing-variation",
            Unit::Ratio,
            "standard deviation of the loads by their mean in each block; 0 is an even load",
            &BlockRouting::variation,
        ),
        figure(
            "experts-of-a-step",
            Unit::Count,
            "different experts that a step of all prompts together needs in each block, on average over positions",
            &|block| block.experts_of_a_step,
        ),
    ])
}

fn route(side: &Side, texts: &[String]) -> Result<Vec<BlockRouting>> {
    let files = local(&side.model)?;
    let configuration = files.configuration()?;
    let experts = configuration
        .experts
        .ok_or_else(|| anyhow!("its architecture has no experts that this program knows"))?
        .num_local_experts;
    let precision = Backend::select().precision(&configuration, PrecisionChoice::default());
    let is_unpacked = !precision.keep_packed && (configuration.quantization.is_some() || !files.path().is_dir());
    check_room(&files, if is_unpacked { UNPACKED } else { 1 })?;
    let tokenizer = files.tokenizer()?;
    let mut rows = texts
        .iter()
        .map(|text| Ok(tokenizer.encode(text, true)?))
        .collect::<Result<Vec<_>>>()?;
    // Rows that are decoded together are of one length.
    let length = rows.iter().map(Vec::len).min().unwrap_or(0);
    for row in &mut rows {
        row.truncate(length);
    }
    let model = files.load(configuration, precision)?.model;
    Ok(measure(&model, &rows, experts)?)
}

/// # Errors
/// The model, which takes `growth` times its files, is too large for what is free.
fn check_room(files: &ModelFiles, growth: u64) -> Result<()> {
    let path = files.path();
    let sizes = if path.is_dir() {
        let entries = std::fs::read_dir(path)?;
        entries
            .map(|entry| Ok(entry?.metadata()?.len()))
            .collect::<std::io::Result<Vec<_>>>()?
    } else {
        vec![path.metadata()?.len()]
    };
    let bytes = growth * sizes.iter().sum::<u64>();
    match system_memory() {
        Some(memory) if bytes as f64 > FITTING * memory.available as f64 => Err(anyhow!(
            "it takes up to {bytes} bytes of memory and {} are free",
            memory.available
        )),
        _ => Ok(()),
    }
}
