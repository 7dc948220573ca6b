use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::base::{Bases, LayOutError};
use super::control::Setup;
use super::corpus::RowFormat;
use super::harm::{MEASURES, measure};
use super::monitors::MONITORS;
use super::pair::Pair;
use super::plan::{Purpose, Trial};
use super::record::{Cure, Ending, Record, Root};
use super::together::Together;
use crate::diagnosis::{DiagnosisOptions, Silent, diagnose};
use crate::evidence::Evidence;
use crate::faults::{Fault, RunFiles};
use crate::interrupt::Interrupt;
use crate::panic_message::panic_message;
use crate::report::{Report, Verdict};
use crate::temporary_folder::TemporaryFolder;
use crate::workflow::{ReferenceWorkflow, Workflow};

/// How much longer a run is that is to show harm.
const LONGER: usize = 4;

/// Runs trials one after the other in this process, since MLX is not made for models on several threads; what several processes
/// train is started as a user starts it.
#[derive(Debug)]
pub struct Runner {
    /// The bases that runs copy.
    pub bases: Bases,
    /// The seed of the whole self-test.
    pub seed: u64,
    /// This program, which trials of several processes start.
    pub program: PathBuf,
    /// The user's wish to stop.
    pub interrupt: Interrupt,
}

/// What came of one run, with its evidence where there is any.
#[derive(Debug)]
pub struct Ran {
    /// What came of it.
    pub record: Record,
    /// What was measured.
    pub evidence: Option<Box<Evidence>>,
}

/// A verdict, or why there is none.
enum Judged {
    Judged(Box<Evidence>, Box<Report>),
    Failed(Ending, String),
}

impl Runner {
    /// Runs one trial; `None` when the user stopped it.
    ///
    /// # Errors
    /// [`LayOutError`] when the files of the run cannot be written. Whatever the run itself does wrong is in the record.
    pub fn run(&self, trial: &Trial) -> Result<Option<Ran>, LayOutError> {
        let folder = TemporaryFolder::new()?;
        let files = RunFiles {
            model: folder.path().join("model"),
            data: folder.path().join("data"),
        };
        self.bases.copy(trial.cell.model, trial.cell.packed, &files.model)?;
        std::fs::create_dir(&files.data)?;
        let rows = trial.cell.rows(self.seed);
        rows.write(&files.data, RowFormat::Chat)?;
        let mut setup = Setup {
            options: trial.cell.options(self.seed, &files, &rows, &trial.needs),
            files,
            rows,
            processes: trial.processes(),
        };
        let started = Instant::now();
        let workflow = match make(trial, &mut setup) {
            Ok(workflow) => workflow,
            Err(error) => return Ok(Some(failed(Ending::NotMade, without(&error, folder.path()), started))),
        };
        let judged = match setup.processes {
            1 => self.judge(&setup.options, &*workflow),
            _ => self.judge_together(trial, &setup, folder.path()),
        };
        let seconds = started.elapsed().as_secs_f64();
        if self.interrupt.is_requested() {
            return Ok(None);
        }
        let (evidence, report) = match judged {
            Judged::Judged(evidence, report) => (evidence, report),
            Judged::Failed(ending, error) => {
                return Ok(Some(failed(ending, without(&error, folder.path()), started)));
            }
        };
        let cure = (trial.is_reference() && setup.processes == 1)
            .then(|| self.cure(&report, &setup.options, &*workflow))
            .flatten();
        if self.interrupt.is_requested() {
            return Ok(None);
        }
        let record = Record {
            ending: ending(&evidence, &report),
            roots: roots(&report),
            error: evidence
                .refusal
                .as_ref()
                .map(|refusal| without(&refusal.error, folder.path())),
            monitors: MONITORS.iter().map(|monitor| (monitor.alarms)(&evidence)).collect(),
            measured: measure(&evidence),
            cure,
            seconds,
            probe_seconds: evidence.costs.iter().map(|cost| cost.seconds).sum(),
        };
        Ok(Some(Ran {
            record,
            evidence: Some(evidence),
        }))
    }

    /// Diagnoses as the program does for its user; a failure of the program is caught.
    fn judge(&self, options: &DiagnosisOptions, workflow: &dyn Workflow) -> Judged {
        let diagnosed = catch_unwind(AssertUnwindSafe(|| {
            let evidence = diagnose(options, workflow, &self.interrupt, &mut Silent);
            let report = Box::new(Report::new(&evidence, Vec::new()));
            (evidence, report)
        }));
        match diagnosed {
            Ok((evidence, report)) => Judged::Judged(Box::new(evidence), report),
            Err(panic) => Judged::Failed(Ending::Crashed, panic_message(&*panic)),
        }
    }

    /// Diagnoses in several processes, in each of which the fault is planted.
    fn judge_together(&self, trial: &Trial, setup: &Setup, folder: &Path) -> Judged {
        let together = Together {
            program: &self.program,
            processes: setup.processes,
            options: &setup.options,
            fault: match trial.purpose {
                Purpose::Fault { operator, severity } => Some((operator, severity)),
                Purpose::Control(_) | Purpose::Pair { .. } | Purpose::Harm(_) => None,
            },
            folder,
            interrupt: &self.interrupt,
        };
        match together.diagnose() {
            Ok(evidence) => {
                let report = Report::new(&evidence, Vec::new());
                Judged::Judged(Box::new(evidence), Box::new(report))
            }
            Err((ending, error)) => Judged::Failed(ending, error),
        }
    }

    /// Runs again with the mechanical fix of the worst finding, if it has one.
    fn cure(&self, report: &Report, options: &DiagnosisOptions, workflow: &dyn Workflow) -> Option<Cure> {
        let remedy = report.remedy()?;
        let judged = match options.with_settings(remedy.settings) {
            Ok(options) => self.judge(&options, workflow),
            Err(error) => Judged::Failed(Ending::Refused, error.to_string()),
        };
        Some(match judged {
            Judged::Judged(evidence, report) => Cure {
                rule: remedy.rule,
                ending: ending(&evidence, &report),
                roots: roots(&report),
            },
            Judged::Failed(ending, _) => Cure {
                rule: remedy.rule,
                ending,
                roots: Vec::new(),
            },
        })
    }
}

/// The workflow of a trial; changes the setup as its fault or control does.
fn make(trial: &Trial, setup: &mut Setup) -> Result<Box<dyn Workflow>, String> {
    let fault: Box<dyn Fault> = match trial.purpose {
        Purpose::Fault { operator, severity } => (operator.make)(severity),
        Purpose::Pair { first, on_inputs } => Box::new(Pair {
            first: (first.make)(first.reference()),
            on_inputs: (on_inputs.make)(on_inputs.reference()),
        }),
        Purpose::Control(control) => {
            (control.set)(setup).map_err(|error| error.to_string())?;
            return Ok(Box::new(ReferenceWorkflow));
        }
        Purpose::Harm(operator) => {
            setup.options.steps *= LONGER;
            setup.options.max_tokens /= 2;
            let Some(operator) = operator else {
                return Ok(Box::new(ReferenceWorkflow));
            };
            (operator.make)(operator.reference())
        }
    };
    fault
        .alter(&mut setup.options, &setup.files)
        .map_err(|error| error.to_string())?;
    let workflow: Box<dyn Workflow> = fault;
    Ok(workflow)
}

fn ending(evidence: &Evidence, report: &Report) -> Ending {
    if evidence.refusal.is_some() {
        return Ending::Refused;
    }
    match report.verdict {
        Verdict::Healthy => Ending::Healthy,
        Verdict::Findings => Ending::Findings,
        Verdict::Abnormal => Ending::Abnormal,
        Verdict::Incomplete => Ending::Incomplete,
    }
}

fn roots(report: &Report) -> Vec<Root> {
    report
        .roots()
        .map(|root| Root {
            name: root.name,
            severity: root.severity,
        })
        .collect()
}

fn failed(ending: Ending, error: String, started: Instant) -> Ran {
    Ran {
        record: Record {
            ending,
            roots: Vec::new(),
            error: Some(error),
            monitors: vec![None; MONITORS.len()],
            measured: [None; MEASURES.len()],
            cure: None,
            seconds: started.elapsed().as_secs_f64(),
            probe_seconds: 0.0,
        },
        evidence: None,
    }
}

/// The error without the folder of the run, which no two runs share.
fn without(error: &str, folder: &Path) -> String {
    error.replace(&format!("{}/", folder.display()), "")
}
