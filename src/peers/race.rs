use std::time::Duration;

use super::contestant::Contestant;
use super::protocol::{Decoded, Job, Memory, Prefilled, Purpose, Trained};
use super::rows::made_up_rows;
use super::worker::{PeerError, PeerWorker};
use super::workload::Workload;
use crate::interrupt::Interrupt;
use crate::model::{Tokenizer, TokenizerError};

/// Seconds from which on a step, or an answer, is so long that one turn tells all.
const SLOW: f64 = 30.0;
/// Row from which on prompts begin whose reading is timed: no other prompt begins alike.
const PREFILL_ROW: usize = 64;
/// Tokens of a prompt and of an answer that only warm a contestant up.
const WARM_UP: (usize, usize) = (16, 4);

/// How long and how often.
#[derive(Debug, Clone)]
pub struct RaceOptions {
    /// Turns of each contestant in each workload.
    pub turns: usize,
    /// Steps of a turn that are timed; one more comes before them.
    pub steps: usize,
    /// Rank of the adapters.
    pub rank: usize,
    /// Factor on their output.
    pub scale: f32,
    /// Learning rate: large enough that a wrong update shows in the next loss.
    pub learning_rate: f64,
    /// Longest time for one job.
    pub timeout: Duration,
}

impl Default for RaceOptions {
    fn default() -> Self {
        Self {
            turns: 3,
            steps: 3,
            rank: 8,
            scale: 20.0,
            learning_rate: 1e-4,
            timeout: Duration::from_mins(30),
        }
    }
}

/// What a contestant did in a turn.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Turned {
    /// Seconds from the process's start until the model could be asked.
    pub loading: f64,
    /// Steps.
    pub trained: Option<Trained>,
    /// The prompt that was read.
    pub prefilled: Option<Prefilled>,
    /// Answers, for each number of prompts at one time.
    pub decoded: Vec<Decoded>,
    /// Peaks of memory at the end.
    pub memory: Option<Memory>,
}

impl Turned {
    /// The longest thing that was timed but for loading.
    fn longest(&self) -> f64 {
        let steps = self.trained.iter().flat_map(|trained| &trained.seconds).copied();
        let prefill = self.prefilled.iter().map(|prefilled| prefilled.seconds);
        let decoded = self.decoded.iter().map(|decoded| decoded.seconds);
        steps.chain(prefill).chain(decoded).fold(0.0, f64::max)
    }
}

/// A turn that was taken.
#[derive(Debug, Clone, PartialEq)]
pub struct TurnRecord {
    /// Place of the workload.
    pub workload: usize,
    /// The contestant's id.
    pub contestant: String,
    /// What came of it, or the words of what went wrong.
    pub outcome: Result<Turned, String>,
}

/// All turns in their order, as places of workload and contestant: A B C A B C, one workload after the other.
pub fn turns(workloads: usize, contestants: usize, turns: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..workloads).flat_map(move |workload| {
        (0..turns).flat_map(move |_| (0..contestants).map(move |contestant| (workload, contestant)))
    })
}

/// Hears a line about what comes next.
pub type Progress<'run> = dyn FnMut(&str) + 'run;

/// Lets the contestants take turns, each in a process of its own, one at a time.
///
/// Who fails in a workload is not asked for it again, and who is slow only once. At the user's wish to stop, what there is
/// is returned.
///
/// # Errors
/// The tokenizer cannot make rows.
pub fn race(
    contestants: &[Contestant],
    workloads: &[Workload],
    tokenizer: &Tokenizer,
    options: &RaceOptions,
    interrupt: &Interrupt,
    progress: &mut Progress,
) -> Result<Vec<TurnRecord>, TokenizerError> {
    let jobs = workloads
        .iter()
        .map(|workload| jobs(workload, tokenizer, options))
        .collect::<Result<Vec<_>, _>>()?;
    let mut records: Vec<TurnRecord> = Vec::new();
    for (place, number) in turns(workloads.len(), contestants.len(), options.turns) {
        let (workload, contestant) = (&workloads[place], &contestants[number]);
        let is_done = records
            .iter()
            .filter(|record| record.workload == place && record.contestant == contestant.id)
            .any(|record| !matches!(&record.outcome, Ok(turned) if turned.longest() < SLOW));
        if is_done || !contestant.does(workload) {
            continue;
        }
        progress(&format!("{}: {}", workload.name(), contestant.title));
        let outcome = take_turn(contestant, workload, &jobs[place], options, interrupt);
        if interrupt.is_requested() {
            break;
        }
        if let Err(error) = &outcome {
            progress(&format!("{}: {} failed: {error}", workload.name(), contestant.title));
        }
        records.push(TurnRecord {
            workload: place,
            contestant: contestant.id.clone(),
            outcome: outcome.map_err(|error| error.to_string()),
        });
    }
    Ok(records)
}

fn take_turn(
    contestant: &Contestant,
    workload: &Workload,
    jobs: &[Job],
    options: &RaceOptions,
    interrupt: &Interrupt,
) -> Result<Turned, PeerError> {
    let purpose = match workload {
        Workload::Loading | Workload::Training(_) => Purpose::Training,
        Workload::Generation { .. } => Purpose::Generation,
    };
    let (mut worker, loading) = PeerWorker::load(contestant, purpose, interrupt, options.timeout)?;
    let mut turned = Turned {
        loading,
        ..Turned::default()
    };
    if purpose == Purpose::Generation {
        warm_up(&mut worker, jobs)?;
    }
    for job in jobs {
        match job {
            Job::Training { rows, .. } => {
                let trained: Trained = worker.call(job)?;
                let expected = rows.iter().map(|row| row.len() - 1).sum();
                same_work(job, trained.tokens, expected)?;
                let steps = trained.losses.len().min(trained.seconds.len());
                same_work(job, steps, trained.losses.len().max(trained.seconds.len()).max(1))?;
                turned.trained = Some(trained);
            }
            Job::Prefill { .. } => turned.prefilled = Some(worker.call(job)?),
            Job::Decode { prompts, new } => {
                let decoded: Decoded = worker.call(job)?;
                let tokens = decoded.tokens.iter().map(Vec::len).sum();
                same_work(job, tokens, prompts.len() * new)?;
                turned.decoded.push(decoded);
            }
            Job::Memory => turned.memory = Some(worker.call(job)?),
            Job::Load { .. } => {}
        }
    }
    Ok(turned)
}

/// Lets a contestant answer as it will be asked to, but shortly: what is made once is made then.
fn warm_up(worker: &mut PeerWorker, jobs: &[Job]) -> Result<(), PeerError> {
    let prompt = jobs.iter().find_map(|job| match job {
        Job::Prefill { prompt } => Some(prompt.iter().rev().take(WARM_UP.0).copied().collect()),
        _ => None,
    });
    let Some(prompt) = prompt else { return Ok(()) };
    let _: Decoded = worker.call(&Job::Decode {
        prompts: vec![prompt],
        new: WARM_UP.1,
    })?;
    Ok(())
}

fn same_work(job: &Job, found: usize, expected: usize) -> Result<(), PeerError> {
    if found == expected {
        return Ok(());
    }
    Err(PeerError::OtherWork {
        job: job.name(),
        found,
        expected,
    })
}

/// What a turn consists of after loading.
fn jobs(workload: &Workload, tokenizer: &Tokenizer, options: &RaceOptions) -> Result<Vec<Job>, TokenizerError> {
    let mut jobs = Vec::new();
    match workload {
        Workload::Loading => {}
        Workload::Training(shape) => jobs.push(Job::Training {
            rows: made_up_rows(tokenizer, 0, shape.rows, shape.tokens + 1)?,
            rank: options.rank,
            scale: options.scale,
            learning_rate: options.learning_rate,
            steps: options.steps + 1,
            slow: SLOW,
        }),
        Workload::Generation {
            prefill,
            prompt,
            new,
            at_once,
        } => {
            let read = made_up_rows(tokenizer, PREFILL_ROW, 1, *prefill)?;
            jobs.extend(read.into_iter().map(|prompt| Job::Prefill { prompt }));
            let mut first = 0;
            for &count in at_once {
                jobs.push(Job::Decode {
                    prompts: made_up_rows(tokenizer, first, count, *prompt)?,
                    new: *new,
                });
                first += count;
            }
        }
    }
    jobs.push(Job::Memory);
    Ok(jobs)
}
