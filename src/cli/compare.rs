//! `diagnose compare`: one model in two formats, through the servers that people use.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};

use super::compare_arguments::{Compare, PlanArguments, RunArguments, SingleArguments};
use super::compare_models::{built_in, count_tokens, routing};
use super::compare_observer::observer;
use super::output::{note, print};
use super::run::listen_for_interrupt;
use crate::atomic_write::write_file;
use crate::bench::SystemDescription;
use crate::compare::analysis::{Analysis, LeakVerdict, analyse, is_complete};
use crate::compare::report::{ReportFile, report_files, to_text};
use crate::compare::run::{Ended, Parts, compare, resume};
use crate::compare::scenarios::{SCENARIOS, names, watch_memory};
use crate::compare::servers::open;
use crate::compare::{ConfiguredPlan, Machine, Plan, Record, Results, ResultsFolder};
use crate::device::Selection;
use crate::interrupt::Interrupt;
use crate::report::{EXIT_FAULT, EXIT_HEALTHY, EXIT_INCOMPLETE};
use crate::suggestion::closest;

/// Where results go when nobody says.
const RESULTS: &str = "results";

/// Compares, and returns the exit code.
pub fn run(what: &Compare) -> Result<u8> {
    match what {
        Compare::Run(arguments) => match &arguments.resume {
            Some(folder) => go_on(folder, arguments.plan.verbose),
            None => all(arguments),
        },
        Compare::Single(arguments) => single(arguments),
        Compare::Analyze { results } => {
            let folder = ResultsFolder::at(results);
            report(&folder, &folder.read()?)
        }
    }
}

fn all(arguments: &RunArguments) -> Result<u8> {
    let interrupt = listen_for_interrupt()?;
    let configured = plan(&arguments.plan)?;
    configured.check_presence(|_, _| true)?;
    let ConfiguredPlan { mut plan, output, .. } = configured;
    if !arguments.only.is_empty() {
        for name in &arguments.only {
            check_name(name, "scenario of the plan", plan.scenarios.iter().map(String::as_str))?;
        }
        plan.scenarios.retain(|name| arguments.only.contains(name));
    }
    plan.rounds = arguments.rounds.unwrap_or(plan.rounds);
    plan.repeats = arguments.repeats.unwrap_or(plan.repeats);
    plan.check()?;
    let folder = results_folder(&arguments.plan, output)?;
    let _lock = folder.lock()?;
    measure(&plan, None, &folder, arguments.plan.verbose, &interrupt)
}

fn single(arguments: &SingleArguments) -> Result<u8> {
    let interrupt = listen_for_interrupt()?;
    let configured = plan(&arguments.plan)?;
    check_name(
        &arguments.model,
        "pair of the plan",
        configured.plan.pairs.iter().map(|pair| pair.name.as_str()),
    )?;
    check_name(&arguments.scenario, "scenario", names())?;
    configured.check_presence(|pair, format| pair.name == arguments.model && format == arguments.format)?;
    let ConfiguredPlan { mut plan, output, .. } = configured;
    plan.pairs.retain(|pair| pair.name == arguments.model);
    plan.scenarios = vec![arguments.scenario.clone()];
    plan.formats = vec![arguments.format];
    plan.rounds = 1;
    let folder = results_folder(&arguments.plan, output)?;
    let _lock = folder.lock()?;
    measure(&plan, None, &folder, arguments.plan.verbose, &interrupt)
}

fn go_on(folder: &Path, verbose: bool) -> Result<u8> {
    let interrupt = listen_for_interrupt()?;
    let results = ResultsFolder::at(folder);
    // Read before anything is written into a folder that may be of something else, and again once nobody else writes there.
    results.read()?;
    let _lock = results.lock()?;
    let earlier = results.read()?.record;
    let plan = earlier.plan.clone();
    measure(&plan, Some(earlier), &results, verbose, &interrupt)
}

/// The plan of a configuration, or the built-in one.
fn plan(arguments: &PlanArguments) -> Result<ConfiguredPlan> {
    match &arguments.config {
        Some(path) => Ok(ConfiguredPlan::read(path)?),
        None => Ok(built_in(arguments.gguf.as_deref(), arguments.mlx.as_deref())?.into()),
    }
}

/// # Errors
/// `name` is none of `known`.
fn check_name<'a>(name: &str, what: &str, known: impl Iterator<Item = &'a str>) -> Result<()> {
    let known: Vec<&str> = known.collect();
    if known.contains(&name) {
        return Ok(());
    }
    let hint = closest(name, known.iter().copied())
        .map_or_else(String::new, |near| format!("\n  hint: did you mean `{near}`?"));
    Err(anyhow!(
        "there is no {what} `{name}`\n  expected: {}{hint}",
        known.join(", ")
    ))
}

fn results_folder(arguments: &PlanArguments, configured: Option<PathBuf>) -> Result<ResultsFolder> {
    let parent = arguments
        .output_dir
        .clone()
        .or(configured)
        .unwrap_or_else(|| PathBuf::from(RESULTS));
    ResultsFolder::create(&parent).with_context(|| format!("cannot write results to `{}`", parent.display()))
}

/// What is measured on.
fn machine() -> Result<Machine> {
    let system = SystemDescription::read(&Selection::of(None)?);
    for warning in system.warnings() {
        note(&format!("warning: {warning}"));
    }
    Ok(Machine {
        tool_version: system.tool_version,
        platform: system.platform,
        system: system.system.found().cloned(),
        processor: system.processor.found().cloned(),
        usable_cores: system.usable_cores,
        memory: system.memory.found().map(|memory| memory.total),
        load_average: system.load_average.found().copied(),
    })
}

/// Runs the tests of a plan that `earlier` lacks, in a folder that is locked.
fn measure(
    plan: &Plan,
    earlier: Option<Record>,
    folder: &ResultsFolder,
    verbose: bool,
    interrupt: &Interrupt,
) -> Result<u8> {
    let program = std::env::current_exe().context("this program does not know where it lies")?;
    let observer = observer(verbose);
    let parts = Parts {
        scenarios: SCENARIOS,
        open: &open,
        watch: &watch_memory,
        counter: &count_tokens,
        routing: &routing,
        machine: machine()?,
        interrupt: interrupt.clone(),
        program,
    };
    let Ended { record, not_written } = match earlier {
        Some(earlier) => resume(earlier, plan, &parts, folder, observer.as_ref())?,
        None => compare(plan, &parts, folder, observer.as_ref()),
    };
    drop(observer);
    if not_written.is_some() {
        // The observer has told why. What was written before is whole, and is judged without files, for which there is no room.
        if let Ok(results) = folder.read() {
            let analysis = analyse(&results.record, &results.samples);
            print(&to_text(&results.record, &analysis, folder.path(), &[]))?;
        }
        return Ok(EXIT_INCOMPLETE);
    }
    let results = folder.read()?;
    debug_assert_eq!(results.record, record, "what was written is what was measured");
    report(folder, &results)
}

/// Judges results, writes their report and says what it says.
fn report(folder: &ResultsFolder, results: &Results) -> Result<u8> {
    let analysis = analyse(&results.record, &results.samples);
    let files = report_files(&results.record, &results.samples, &analysis);
    let written = files.iter().try_for_each(|file| write(folder, file));
    // Said even when a file cannot be written: it may have taken hours.
    print(&to_text(&results.record, &analysis, folder.path(), &files))?;
    written?;
    Ok(exit_code(results, &analysis))
}

fn write(folder: &ResultsFolder, file: &ReportFile) -> Result<()> {
    let path = folder.path().join(&file.path);
    let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| write_file(&path, file.text.as_bytes()))
        .map_err(|error| {
            anyhow!(
                "cannot write `{}`\n  found: {error}\n  hint: what was measured is whole; make room, then \
             `diagnose compare analyze {}`",
                path.display(),
                folder.path().display()
            )
        })
}

fn exit_code(results: &Results, analysis: &Analysis) -> u8 {
    if !is_complete(&results.record, &results.samples) {
        return EXIT_INCOMPLETE;
    }
    let mut leaks = analysis.pairs.iter().flat_map(|pair| &pair.leaks);
    if leaks.any(|leak| leak.verdict == LeakVerdict::Leak) {
        EXIT_FAULT
    } else {
        EXIT_HEALTHY
    }
}
