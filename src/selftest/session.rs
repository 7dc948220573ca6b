use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use thiserror::Error;

use super::base::{Bases, LayOutError};
use super::catalogue::{Catalogue, CatalogueError};
use super::judgement::is_wrong;
use super::markdown::to_markdown;
use super::picture::to_svg;
use super::plan::{Extent, Trial, plan};
use super::record::Trialled;
use super::run::{Ran, Runner};
use super::summary::{Asked, Summary};
use super::times::Times;
use crate::atomic_write::write_file;
use crate::interrupt::Interrupt;

/// The picture of the matrix, within the output folder.
const PICTURE: &str = "matrix.svg";
/// Runs between two states of the results on disk, so that a self-test that is killed leaves some.
const RUNS_PER_STATE: usize = 50;
/// Folder of the evidence of runs to look at.
const RUNS: &str = "runs";

/// What a self-test is asked to do.
#[derive(Debug, Clone)]
pub struct SelftestOptions {
    /// How much.
    pub extent: Extent,
    /// Decides rows, cells and pairs.
    pub seed: u64,
    /// Names of the only operators and controls wanted; empty for all.
    pub only: Vec<String>,
    /// This program, for trials of several processes.
    pub program: PathBuf,
    /// Where results are written; `None` for nowhere.
    pub out: Option<PathBuf>,
}

/// Why a self-test could not be done.
#[derive(Debug, Error)]
pub enum SelftestError {
    /// The catalogue contradicts itself, or lacks what was asked for.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// The files of a run could not be written.
    #[error(transparent)]
    LayOut(#[from] LayOutError),
    /// A result could not be written.
    #[error("cannot write `{}`: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A result could not be made into JSON.
    #[error("a result cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Runs the plan and sums it up; `progress` hears how many runs are done, of how many, and which one comes next.
///
/// When the user stops it, what was done is summed up all the same.
///
/// # Errors
/// See [`SelftestError`]. What a run does wrong is a result, not an error.
pub fn selftest(
    catalogue: &Catalogue,
    options: &SelftestOptions,
    interrupt: &Interrupt,
    progress: &mut dyn FnMut(usize, usize, &str),
) -> Result<Summary, SelftestError> {
    catalogue.check()?;
    catalogue.check_names(&options.only)?;
    let started = Instant::now();
    let trials = plan(catalogue, options.extent, options.seed, &options.only);
    let runner = Runner {
        bases: Bases::unpack()?,
        seed: options.seed,
        program: options.program.clone(),
        interrupt: interrupt.clone(),
    };
    let asked = Asked {
        extent: options.extent,
        seed: options.seed,
        only: options.only.clone(),
        planned: trials.len(),
    };
    if let Some(folder) = &options.out {
        empty_runs(folder)?;
    }
    let mut runs: Vec<Trialled> = Vec::with_capacity(trials.len());
    for (done, trial) in trials.iter().enumerate() {
        if interrupt.is_requested() {
            break;
        }
        progress(done, trials.len(), &trial.name());
        let Some(ran) = runner.run(trial)? else {
            break;
        };
        runs.push(keep(catalogue, done, trial, ran, options.out.as_deref())?);
        if runs.len() % RUNS_PER_STATE == 1 {
            sum_up(catalogue, &asked, &runs, started, options.out.as_deref())?;
        }
    }
    progress(runs.len(), trials.len(), "done");
    sum_up(catalogue, &asked, &runs, started, options.out.as_deref())
}

/// Sums up the runs so far and files the summary.
fn sum_up(
    catalogue: &Catalogue,
    asked: &Asked,
    runs: &[Trialled],
    started: Instant,
    out: Option<&Path>,
) -> Result<Summary, SelftestError> {
    let times = Times::new(started.elapsed().as_secs_f64(), runs);
    let summary = Summary::new(catalogue, asked, runs, times);
    if let Some(folder) = out {
        write_results(folder, &summary)?;
    }
    Ok(summary)
}

/// Files the evidence of a run that a reader will want to look at.
fn keep(
    catalogue: &Catalogue,
    number: usize,
    trial: &Trial,
    ran: Ran,
    out: Option<&Path>,
) -> Result<Trialled, SelftestError> {
    let trialled = Trialled {
        trial: trial.clone(),
        record: ran.record,
    };
    if let (Some(folder), Some(evidence)) = (out, &ran.evidence)
        && is_wrong(catalogue, &trialled)
    {
        let name: String = trial
            .name()
            .chars()
            .map(|letter| {
                if letter.is_ascii_alphanumeric() || ".-".contains(letter) {
                    letter
                } else {
                    '_'
                }
            })
            .collect();
        let path = folder.join(RUNS).join(format!("{number:04}-{name}.evidence.json"));
        write(&path, &format!("{}\n", serde_json::to_string_pretty(evidence)?))?;
    }
    Ok(trialled)
}

/// Evidence of an earlier self-test would be taken for this one's.
fn empty_runs(folder: &Path) -> Result<(), SelftestError> {
    let runs = folder.join(RUNS);
    let error = |source| SelftestError::Write {
        path: runs.clone(),
        source,
    };
    match fs::remove_dir_all(&runs) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(error(source)),
        _ => fs::create_dir_all(&runs).map_err(error),
    }
}

fn write_results(folder: &Path, summary: &Summary) -> Result<(), SelftestError> {
    let json = format!("{}\n", serde_json::to_string_pretty(summary)?);
    write(&folder.join("selftest.json"), &json)?;
    write(&folder.join("selftest.md"), &to_markdown(summary, PICTURE))?;
    write(&folder.join(PICTURE), &to_svg(&summary.matrix))
}

fn write(path: &Path, text: &str) -> Result<(), SelftestError> {
    write_file(path, text.as_bytes()).map_err(|source| SelftestError::Write {
        path: path.to_owned(),
        source,
    })
}
