//! `diagnose bench`: how fast this program is on this machine.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use super::bench_peers::{self, PeerArguments};
use super::bounded_numbers::at_least_one;
use super::output::{note, print};
use super::run::{check_writable, listen_for_interrupt, resolve_model};
use crate::adapter::LoraSettings;
use crate::bench::{
    BenchOptions, BenchSettings, Incomparable, POWERCAP, Sizes, SystemDescription, Turn, bench, chosen, compare,
    list_subjects, read_results, to_text, write_results,
};
use crate::device::{PrecisionChoice, Selection};
use crate::diagnosis::{DataSource, DiagnosisOptions};
use crate::embedded;
use crate::evidence::{FineTuneKind, RunSettings};
use crate::model::{ModelSource, TemplateChoice};
use crate::peers::to_markdown;
use crate::report::{EXIT_FAULT, EXIT_HEALTHY, EXIT_INCOMPLETE};

/// Options of the measurements.
#[derive(Debug, Args)]
pub struct BenchArguments {
    /// List what can be measured, and measure nothing
    #[arg(long)]
    pub list: bool,
    /// Smaller work on the model carried by the program: seconds
    #[arg(long, conflicts_with = "model")]
    pub tiny: bool,
    /// Model folder, GGUF file or hub id [default: the tiny model carried by the program]
    #[arg(long, value_name = "DIR|FILE.gguf|HUB_ID")]
    pub model: Option<String>,
    /// Folder for the results as JSON, a Markdown table and a plot
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// The folder of an earlier result: say what got slower beyond its noise, and fail then
    #[arg(long, value_name = "DIR")]
    pub baseline: Option<PathBuf>,
    /// Rounds, each of which measures every figure once; with fewer than 3 nothing is judged against a baseline
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = at_least_one)]
    pub repeats: usize,
    /// Measurements of each figure in a round before the one that counts
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub warm_ups: usize,
    /// Only these subjects, of those that --list names
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Seed of the made-up tokens and matrices
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// The comparison with other programs
    #[command(flatten)]
    pub peers: PeerArguments,
    /// How to print the figures
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = BenchFormat::Text)]
    pub format: BenchFormat,
}

/// Ways to print the figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BenchFormat {
    /// For people
    Text,
    /// What the file `mlx_benchmark_results.json` holds
    Json,
}

/// Measures, prints and files the figures, and returns the exit code.
pub fn run(arguments: &BenchArguments) -> Result<u8> {
    if arguments.list {
        print(&list_subjects())?;
        return Ok(EXIT_HEALTHY);
    }
    let subjects = chosen(&arguments.only)?;
    // What is wrong with the folders is said before minutes are spent.
    let baseline = arguments.baseline.as_deref().map(read_results).transpose()?;
    if let Some(folder) = &arguments.output_dir {
        check_writable(folder)?;
    }
    // Held until all is measured: dropping it removes the unpacked model.
    let (_unpacked, source) = if let Some(model) = &arguments.model {
        (None, resolve_model(model)?)
    } else {
        let (guard, folder) = embedded::unpack_model().context("cannot unpack the embedded model")?;
        (Some(guard), ModelSource::Folder(folder))
    };
    let selection = Selection::of(None)?;
    let options = options(arguments, source)?;
    let system = SystemDescription::read(&selection);
    if let Some(baseline) = &baseline {
        Incomparable::check(baseline, &system, &options.settings)?;
    }
    for warning in system.warnings() {
        note(&format!("warning: {warning}"));
    }
    let interrupt = listen_for_interrupt()?;
    // Before anything is measured in this process, which would hold memory and cores then.
    let peers = bench_peers::compare(&arguments.peers, arguments.model.as_deref(), system.clone(), &interrupt)?;
    if let Some(folder) = &arguments.output_dir {
        bench_peers::write(&peers, folder)?;
    }
    let peers_page = if bench_peers::is_asked_for(&arguments.peers) {
        to_markdown(&peers)
    } else {
        String::new()
    };
    if arguments.peers.peers_alone {
        print(&match arguments.format {
            BenchFormat::Text => peers_page,
            BenchFormat::Json => format!("{:#}\n", serde_json::to_value(&peers)?),
        })?;
        return Ok(bench_peers::exit_code(&peers));
    }
    let (count, rounds) = (subjects.len(), arguments.repeats);
    let results = bench(
        &options,
        &subjects,
        &selection,
        system,
        &interrupt,
        &mut |Turn { round, place, subject }| {
            note(&format!(
                "round {} of {rounds}, {} of {count}: {}",
                round + 1,
                place + 1,
                subject.title
            ));
        },
    )?;
    let comparison = baseline.map(|baseline| compare(&baseline, &results));
    let compared = comparison.as_ref().and_then(|compared| compared.as_ref().ok());
    let written = arguments.output_dir.as_deref().map_or(Ok(Vec::new()), |folder| {
        write_results(folder, &results, compared, &peers.summary())
    });
    // Printed even when a file cannot be written: it may have taken long.
    print(&match arguments.format {
        BenchFormat::Text => to_text(&results, compared) + &peers_page,
        BenchFormat::Json => format!("{}\n", serde_json::to_string_pretty(&results)?),
    })?;
    for path in written? {
        note(&format!("wrote {}", path.display()));
    }
    let slower = comparison
        .transpose()?
        .map_or(0, |comparison| comparison.slower().count());
    let own = if results.interrupted || results.failed() {
        EXIT_INCOMPLETE
    } else if slower > 0 {
        EXIT_FAULT
    } else {
        EXIT_HEALTHY
    };
    // The larger code is the worse one.
    Ok(own.max(bench_peers::exit_code(&peers)))
}

fn options(arguments: &BenchArguments, source: ModelSource) -> Result<BenchOptions> {
    let context = source.open()?.configuration()?.max_position_embeddings;
    let sizes = if arguments.tiny { Sizes::TINY } else { Sizes::STANDARD };
    let model = arguments
        .model
        .clone()
        .unwrap_or_else(|| RunSettings::EMBEDDED.to_owned());
    Ok(BenchOptions {
        diagnosis: diagnosis(source.clone(), &model),
        source,
        settings: BenchSettings {
            model,
            only: arguments.only.clone(),
            repeats: arguments.repeats,
            warm_ups: arguments.warm_ups,
            seed: arguments.seed,
            sizes: sizes.within(context),
        },
        program: std::env::current_exe().ok(),
        powercap: PathBuf::from(POWERCAP),
    })
}

/// The diagnosis of this model on the rows that the program carries, with the settings of one without options.
fn diagnosis(source: ModelSource, model: &str) -> DiagnosisOptions {
    let settings = RunSettings::default();
    DiagnosisOptions {
        source,
        model_name: model.to_owned(),
        data: DataSource::Embedded(embedded::MINIMAL_DATA),
        data_name: RunSettings::EMBEDDED.to_owned(),
        adapter: None,
        trainer: None,
        generator: None,
        prompts: embedded::PROMPTS.lines().map(str::to_owned).collect(),
        prompts_file: None,
        check_only: false,
        max_tokens: settings.max_tokens,
        fine_tune: FineTuneKind::Lora,
        lora: LoraSettings::default(),
        steps: settings.steps,
        batch_size: settings.batch_size,
        learning_rate: settings.learning_rate,
        warmup_steps: settings.warmup_steps,
        clip_norm: None,
        bias_correction: settings.bias_correction,
        mask_prompt: settings.mask_prompt,
        template: TemplateChoice::Own,
        max_sequence_length: settings.max_sequence_length,
        seed: settings.seed,
        backend: None,
        cross_check: None,
        precision: PrecisionChoice::default(),
        adapter_folder: None,
    }
}
