//! `diagnose bench --peers`: this program beside others at the same work.

use std::io::{stdin, stdout};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::{Args, ValueEnum};

use super::bounded_numbers::at_least_one;
use super::output::note;
use super::run::{EXIT_KILLED_BY_INTERRUPT, resolve_model};
use crate::atomic_write::write_file;
use crate::bench::SystemDescription;
use crate::embedded;
use crate::interrupt::Interrupt;
use crate::model::ModelSource;
use crate::peers::{
    Comparison, Peer, PeerPlaces, RaceOptions, Roster, Shape, Verdict, Workload, end_with_parent, race, serve_jobs,
    to_markdown,
};
use crate::python::Python;
use crate::report::{EXIT_FAULT, EXIT_HEALTHY, EXIT_INCOMPLETE};
use crate::temporary_folder::{TemporaryFolder, end_process};

/// The results for programs.
const RESULTS: &str = "pytorch_comparison_results.json";
/// The results for people.
const PAGE: &str = "pytorch_comparison_results.md";

/// Options of the comparison.
#[derive(Debug, Args)]
pub struct PeerArguments {
    /// Programs to compare with, each at the same work and in turns with this one
    #[arg(long, value_name = "NAME,...", value_enum, value_delimiter = ',')]
    pub peers: Vec<PeerArgument>,
    /// Measure nothing but the comparison
    #[arg(long, requires = "peers", conflicts_with_all = ["only", "baseline"])]
    pub peers_alone: bool,
    /// The python that has torch, transformers and peft [default: `MLX_DIAGNOSE_PYTHON`, or python3]
    #[arg(long, value_name = "PYTHON")]
    pub python_torch: Option<PathBuf>,
    /// The python that has mlx-lm [default: `MLX_DIAGNOSE_PYTHON`, or python3]
    #[arg(long, value_name = "PYTHON")]
    pub python_mlx_lm: Option<PathBuf>,
    /// The python that asks llama.cpp: `llama-server` of the path, or its package xllamacpp [default:
    /// `MLX_DIAGNOSE_PYTHON`, or python3]
    #[arg(long, value_name = "PYTHON")]
    pub python_llama_cpp: Option<PathBuf>,
    /// The same model as one GGUF file, for llama.cpp and for loading [default: the model, where it is one]
    #[arg(long, value_name = "FILE")]
    pub gguf: Option<PathBuf>,
    /// An `OpenBLAS` library for mlx-lm in the place of the one that its wheel brings (Linux) [default: the system's]
    #[arg(long, value_name = "FILE")]
    pub openblas: Option<PathBuf>,
    /// Rows and tokens of the batches that are trained on [default: 4x128,4x512]
    #[arg(long, value_name = "ROWSxTOKENS,...", value_delimiter = ',')]
    pub peer_shapes: Vec<Shape>,
    /// Only this work
    #[arg(long, value_name = "WORK,...", value_enum, value_delimiter = ',')]
    pub peer_work: Vec<WorkArgument>,
    /// Turns of each program, every one in a process of its own
    #[arg(long, value_name = "N", default_value_t = RaceOptions::default().turns, value_parser = at_least_one)]
    pub peer_turns: usize,
    /// Steps of training that are timed in a turn
    #[arg(long, value_name = "N", default_value_t = RaceOptions::default().steps, value_parser = at_least_one)]
    pub peer_steps: usize,
    /// Seconds that a program may take for loading, for the steps of a turn or for an answer
    #[arg(long, value_name = "N", default_value_t = RaceOptions::default().timeout.as_secs() as usize, value_parser = at_least_one)]
    pub peer_timeout: usize,
}

/// Programs to compare with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PeerArgument {
    /// PyTorch with transformers and PEFT, on every device that it has
    Torch,
    /// Python mlx-lm
    MlxLm,
    /// llama.cpp, which answers and does not train
    #[value(name = "llama.cpp")]
    LlamaCpp,
    /// All of them
    All,
}

/// Work to compare at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WorkArgument {
    /// From the process's start to the first logits
    Loading,
    /// Steps of training
    Training,
    /// Reading a prompt, and answering several at one time
    Generation,
}

/// How much of the work there is.
struct Extent {
    shapes: Vec<Shape>,
    prefill: usize,
    prompt: usize,
    new: usize,
    at_once: Vec<usize>,
}

impl Extent {
    /// What the bars are of.
    fn full() -> Self {
        let shape = |tokens| Shape { rows: 4, tokens };
        Self {
            shapes: vec![shape(128), shape(512)],
            prefill: 512,
            prompt: 128,
            new: 64,
            at_once: vec![1, 4, 8],
        }
    }

    /// What the tiny model does in seconds.
    fn tiny() -> Self {
        Self {
            shapes: vec![Shape { rows: 2, tokens: 32 }],
            prefill: 64,
            prompt: 16,
            new: 8,
            at_once: vec![1, 4],
        }
    }
}

/// Answers the jobs of standard input, as one of those that are compared.
pub fn work() -> Result<()> {
    end_with_parent(|| end_process(EXIT_KILLED_BY_INTERRUPT));
    serve_jobs(stdin().lock(), stdout().lock())
}

/// Whether anybody was asked for.
pub fn is_asked_for(arguments: &PeerArguments) -> bool {
    !asked_for(arguments).is_empty()
}

/// Compares this program with those that were asked for; with nobody, says why there are no figures.
///
/// # Errors
/// The model cannot be read.
pub fn compare(
    arguments: &PeerArguments,
    model: Option<&str>,
    system: SystemDescription,
    interrupt: &Interrupt,
) -> Result<Comparison> {
    let name = model.unwrap_or("embedded");
    let peers = asked_for(arguments);
    let options = RaceOptions {
        turns: arguments.peer_turns,
        steps: arguments.peer_steps,
        timeout: Duration::from_secs(arguments.peer_timeout as u64),
        ..RaceOptions::default()
    };
    if peers.is_empty() {
        return Ok(Comparison::new(
            system,
            name,
            &Roster::nobody(),
            &[],
            &options,
            &[],
            false,
        ));
    }
    let (_unpacked, folder, gguf) = model_files(model, arguments.gguf.as_deref())?;
    let tokenizer = ModelSource::Folder(folder.clone()).open()?.tokenizer()?;
    let workloads = workloads(arguments, model.is_none());
    let python = |named: &Option<PathBuf>| {
        named
            .as_ref()
            .map_or_else(Python::from_environment, |path| Python(path.clone().into()))
    };
    let places = PeerPlaces {
        program: std::env::current_exe().context("this program cannot find itself")?,
        folder,
        gguf,
        peers,
        torch: python(&arguments.python_torch),
        mlx_lm: python(&arguments.python_mlx_lm),
        llama_cpp: python(&arguments.python_llama_cpp),
        openblas: arguments.openblas.clone(),
    };
    let roster = Roster::find(&places, interrupt)?;
    for absent in &roster.absent {
        let hint = absent
            .hint
            .as_ref()
            .map_or_else(String::new, |hint| format!("\n  hint: {hint}"));
        note(&format!("skipped: {}: {}{hint}", absent.title, absent.reason));
    }
    let records = race(
        &roster.contestants,
        &workloads,
        &tokenizer,
        &options,
        interrupt,
        &mut note,
    )?;
    let mut comparison = Comparison::new(system, name, &roster, &workloads, &options, &records, model.is_some());
    comparison.interrupted = interrupt.is_requested();
    Ok(comparison)
}

/// Writes the results and their page.
///
/// # Errors
/// The folder cannot be written.
pub fn write(comparison: &Comparison, folder: &Path) -> Result<()> {
    let text = format!("{:#}\n", serde_json::to_value(comparison)?);
    for (name, text) in [(RESULTS, text), (PAGE, to_markdown(comparison))] {
        let path = folder.join(name);
        write_file(&path, text.as_bytes()).with_context(|| format!("cannot write `{}`", path.display()))?;
        note(&format!("wrote {}", path.display()));
    }
    Ok(())
}

/// 0 when what was measured holds, 1 for a bar that was missed and for other work, 2 when something could not be measured.
pub fn exit_code(comparison: &Comparison) -> u8 {
    if comparison.interrupted || comparison.has_failures() {
        EXIT_INCOMPLETE
    } else if comparison.has_other_work() || comparison.bars_that_are(Verdict::Missed) > 0 {
        EXIT_FAULT
    } else {
        EXIT_HEALTHY
    }
}

fn asked_for(arguments: &PeerArguments) -> Vec<Peer> {
    let is_asked_for = |peer: &Peer| {
        arguments.peers.iter().any(|asked| match asked {
            PeerArgument::All => true,
            PeerArgument::Torch => *peer == Peer::Torch,
            PeerArgument::MlxLm => *peer == Peer::MlxLm,
            PeerArgument::LlamaCpp => *peer == Peer::LlamaCpp,
        })
    };
    Peer::ALL.into_iter().filter(is_asked_for).collect()
}

fn workloads(arguments: &PeerArguments, tiny: bool) -> Vec<Workload> {
    let extent = if tiny { Extent::tiny() } else { Extent::full() };
    let shapes = if arguments.peer_shapes.is_empty() {
        extent.shapes
    } else {
        arguments.peer_shapes.clone()
    };
    let wanted = |work| arguments.peer_work.is_empty() || arguments.peer_work.contains(&work);
    let mut workloads = Vec::new();
    if wanted(WorkArgument::Loading) {
        workloads.push(Workload::Loading);
    }
    if wanted(WorkArgument::Training) {
        workloads.extend(shapes.into_iter().map(Workload::Training));
    }
    if wanted(WorkArgument::Generation) {
        workloads.push(Workload::Generation {
            prefill: extent.prefill,
            prompt: extent.prompt,
            new: extent.new,
            at_once: extent.at_once,
        });
    }
    workloads
}

/// The model as a folder that everybody reads and, where there is one, as a GGUF file; the guard holds what was made.
fn model_files(
    model: Option<&str>,
    gguf: Option<&Path>,
) -> Result<(Option<TemporaryFolder>, PathBuf, Option<PathBuf>)> {
    let Some(model) = model else {
        let (guard, folder) = embedded::unpack_model().context("cannot unpack the embedded model")?;
        return Ok((Some(guard), folder, gguf.map(Path::to_owned)));
    };
    match resolve_model(model)? {
        ModelSource::Folder(folder) => Ok((None, folder, gguf.map(Path::to_owned))),
        ModelSource::Gguf(file) => {
            let guard = TemporaryFolder::new()?;
            let folder = guard.path().join("float32");
            note("unpacking the model to a folder of float32, which everybody reads");
            plain_folder(&file, &folder)?;
            Ok((Some(guard), folder, Some(gguf.map_or(file, Path::to_owned))))
        }
    }
}

/// Unpacks a GGUF file in a process of its own, whose memory is gone when the others are measured.
fn plain_folder(file: &Path, folder: &Path) -> Result<()> {
    let output = Command::new(std::env::current_exe()?)
        .args(["convert", "model"])
        .arg(file)
        .arg("--out")
        .arg(folder)
        .args(["--dequantize", "--dtype", "float32"])
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(anyhow!(
        "`{}` cannot be unpacked for the others\n  found: {}",
        file.display(),
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}
