use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow};
use colored::Colorize;

use super::arguments::{Arguments, Command};
use super::baseline::Baseline;
use super::device_arguments::BackendArgument;
use super::diagnose_arguments::{CrossCheckArgument, DiagnoseArguments, Format, OutputArguments};
use super::output::{choose_colour, note, print, without_controls};
use super::ranks::told;
use super::{
    apply_fix, bench, bench_peers, compare, convert, diagnose_together, environment, fuse, generate, launch, manual,
    models, progress, selftest, serve, train, verification,
};
use crate::adapter::LoraSettings;
use crate::atomic_write::write_file;
use crate::device::PrecisionChoice;
use crate::diagnosis::{
    DataSource, DiagnosisOptions, FinishedAdapter, Known, Together, diagnose_log, diagnose_together as diagnose_among,
};
use crate::embedded;
use crate::evidence::{Evidence, FineTuneKind, Refusal, RunSettings};
use crate::external::{ExternalGenerator, ExternalTrainer};
use crate::faults::Planted;
use crate::interrupt::Interrupt;
use crate::model::{HubSettings, ModelSource, TemplateChoice, WeightSet};
use crate::python::Python;
use crate::regression::compare;
use crate::report::{
    EXIT_HEALTHY, EXIT_INCOMPLETE, Report, exit_code, to_github, to_html, to_json, to_junit, to_markdown, to_text,
};
use crate::rules;
use crate::temporary_folder::{TemporaryFolder, end_process};
use crate::workflow::{ReferenceWorkflow, Workflow};

/// Width of the report where there is no terminal to ask.
const PLAIN_WIDTH: usize = 100;
/// What some editors put before a text.
const BYTE_ORDER_MARK: char = '\u{feff}';
/// The folder of a run's results that takes the trained adapter.
const ADAPTER: &str = "adapter";
/// Exit code of a process that a second Ctrl-C ends at once, as shells report it.
pub(super) const EXIT_KILLED_BY_INTERRUPT: i32 = 130;

/// Runs the program and returns its exit code; every error is printed here.
pub fn run(arguments: Arguments) -> u8 {
    choose_colour();
    match mlx_sys::backend::check_version()
        .map_err(anyhow::Error::from)
        .and_then(|()| dispatch(arguments))
    {
        Ok(code) => code,
        Err(error) => {
            note_error(&described(&error));
            EXIT_INCOMPLETE
        }
    }
}

/// The error and its causes; a cause whose words the text already has is not said again.
pub(super) fn described(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    without_controls(text)
}

fn dispatch(arguments: Arguments) -> Result<u8> {
    match arguments.command {
        None => run_phases(&arguments.diagnose),
        Some(Command::Explain { rule }) => {
            print(&rules::explain(&rule)?)?;
            Ok(EXIT_HEALTHY)
        }
        Some(Command::Rules { docs: Some(folder), .. }) => write_rule_pages(&folder).map(|()| EXIT_HEALTHY),
        Some(Command::Rules { json, docs: None }) => {
            print(&if json {
                format!("{:#}\n", rules::catalogue_json())
            } else {
                rules::table()
            })?;
            Ok(EXIT_HEALTHY)
        }
        Some(Command::Replay { file, output }) => {
            let baseline = output.baseline.as_deref().map(read_evidence).transpose()?;
            let evidence = read_evidence(&file)?;
            let mut report = Report::new(&evidence, Vec::new());
            if let Some(stored) = &baseline {
                report = report.against(compare(stored, &evidence)?);
            }
            finish(&report, &output)
        }
        Some(Command::Selftest(arguments)) => {
            if let Some(folder) = &arguments.out {
                check_writable(folder)?;
            }
            let interrupt = listen_for_interrupt()?;
            selftest::run(arguments, &interrupt)
        }
        Some(Command::Bench(arguments)) => bench::run(&arguments),
        Some(Command::Compare(what)) => compare::run(&what),
        Some(Command::Train(what)) => train::run(&what),
        Some(Command::Launch(arguments)) => launch::run(&arguments),
        Some(Command::Generate(arguments)) => generate::run(&arguments).map(|()| EXIT_HEALTHY),
        Some(Command::Serve(arguments)) => serve::run(&arguments).map(|()| EXIT_HEALTHY),
        Some(Command::Convert(what)) => convert::run(&what).map(|()| EXIT_HEALTHY),
        Some(Command::Fuse(arguments)) => fuse::run(&arguments).map(|()| EXIT_HEALTHY),
        Some(Command::Models(what)) => models::run(&what).map(|()| EXIT_HEALTHY),
        Some(Command::Verify(arguments)) => verification::run(arguments),
        Some(Command::BenchWorker) => bench_peers::work().map(|()| EXIT_HEALTHY),
        Some(Command::Env(arguments)) => environment::run(&arguments).map(|()| EXIT_HEALTHY),
        Some(Command::Completions { shell }) => manual::completions(shell).map(|()| EXIT_HEALTHY),
        Some(Command::Man { out }) => manual::pages(&out).map(|()| EXIT_HEALTHY),
    }
}

fn run_phases(arguments: &DiagnoseArguments) -> Result<u8> {
    let interrupt = listen_for_interrupt()?;
    let known = Arc::new(Known::default());
    let ranks = diagnose_together::meet(arguments, &known)?;
    let together = ranks.as_ref().map(|ranks| Together::new(ranks, known));
    let ended = match &together {
        Some(together) if !together.leads() => diagnose_together::accompany(arguments, together, &interrupt),
        _ => run_and_file(arguments, together.as_ref(), &interrupt),
    };
    let has_failed = together.as_ref().is_some_and(Together::has_failed);
    drop(together);
    match ranks {
        // They may wait for an update.
        Some(ranks) if has_failed => {
            ranks.fail();
            ended
        }
        ranks => told(ranks, ended),
    }
}

fn run_and_file(arguments: &DiagnoseArguments, together: Option<&Together<'_>>, interrupt: &Interrupt) -> Result<u8> {
    let Some(folder) = &arguments.out else {
        return run_and_judge(arguments, together, interrupt);
    };
    check_writable(folder)?;
    check_adapter_is_ours(folder)?;
    let begun = SystemTime::now();
    run_and_judge(arguments, together, interrupt).map_err(|error| {
        // Nobody shall take the report of an earlier run for that of one that could not be made.
        let path = folder.join("report.json");
        let written = path.metadata().and_then(|metadata| metadata.modified());
        match written {
            Ok(written) if written < begun => anyhow!(
                "{}\n  note: `{}` is still that of an earlier run",
                described(&error),
                path.display()
            ),
            _ => error,
        }
    })
}

/// Judges a log without anything else.
fn judge_log(arguments: &DiagnoseArguments, log: &Path) -> Result<u8> {
    let evidence = diagnose_log(log)?;
    let paths = arguments.out.as_deref().map_or_else(Vec::new, output_paths);
    let baseline = Baseline::of(arguments, Some(&evidence.settings))?;
    let (report, compared) = baseline.judge(Report::new(&evidence, paths), &evidence);
    let stored = baseline.store(&report, &evidence);
    let code = conclude(&evidence, &report, arguments.out.as_deref(), &arguments.output)?;
    compared.and(stored).map(|()| code)
}

/// What a diagnosis is asked to do, and what it needs for as long as it runs.
pub(super) struct Prepared {
    pub(super) options: DiagnosisOptions,
    planted: Option<Planted>,
    /// Dropping it removes the unpacked model.
    _unpacked: Option<TemporaryFolder>,
}

impl Prepared {
    pub(super) fn workflow(&self) -> &dyn Workflow {
        match &self.planted {
            Some(planted) => &*planted.fault,
            None => &ReferenceWorkflow,
        }
    }
}

pub(super) fn prepared(arguments: &DiagnoseArguments) -> Result<Prepared> {
    let (unpacked, source) = if let Some(model) = &arguments.model {
        (None, resolve_model(model)?)
    } else {
        let (guard, folder) = embedded::unpack_model().context("cannot unpack the embedded model")?;
        (Some(guard), ModelSource::Folder(folder))
    };
    let mut options = options(arguments, source)?;
    let planted = match &arguments.inject {
        Some(injection) if arguments.full && injection.operator.needs_adapters() => {
            return Err(anyhow!(
                "`--inject {name}` changes nothing with `--full`, which attaches no adapter\n  hint: leave out `--full`",
                name = injection.operator.name
            ));
        }
        Some(_) if arguments.backend == Some(BackendArgument::Torch) => {
            return Err(anyhow!(
                "`--inject` plants faults in this program's trainer, and with `--backend torch` PyTorch trains\n  hint: leave out `--backend torch`"
            ));
        }
        Some(injection) => Some(injection.operator.plant(injection.severity, &mut options)?),
        None => None,
    };
    Ok(Prepared {
        options,
        planted,
        _unpacked: unpacked,
    })
}

fn run_and_judge(arguments: &DiagnoseArguments, together: Option<&Together<'_>>, interrupt: &Interrupt) -> Result<u8> {
    let is_alone = arguments.model.is_none() && arguments.data.is_none() && arguments.trainer.is_none();
    if let Some(log) = arguments.log.as_deref().filter(|_| is_alone) {
        return judge_log(arguments, log);
    }
    let prepared = prepared(arguments)?;
    let (options, workflow) = (&prepared.options, prepared.workflow());
    let settings = options.settings();
    // A finished adapter brings settings of its own, which are compared once it is read.
    let known = options.adapter.is_none().then_some(&settings);
    let baseline = Baseline::of(arguments, known)?;
    let evidence = diagnose_among(options, workflow, interrupt, &mut *progress::progress(), together);
    let report = report_of(&evidence, arguments.out.as_deref(), options);
    let (report, compared) = baseline.judge(report, &evidence);
    let remedy = arguments.apply_fix.then(|| report.remedy()).flatten();
    if arguments.apply_fix && remedy.is_none() {
        apply_fix::note_absence(&report);
    }
    let Some(remedy) = remedy else {
        let stored = baseline.store(&report, &evidence);
        let code = conclude(&evidence, &report, arguments.out.as_deref(), &arguments.output)?;
        return compared.and(stored).map(|()| code);
    };
    // Two documents in a row are no document: only the last one is printed.
    if arguments.output.format.is_one_document() {
        if let Some(folder) = &arguments.out {
            write_outputs(folder, &evidence, &report)?;
        }
    } else {
        conclude(&evidence, &report, arguments.out.as_deref(), &arguments.output)?;
    }
    let folder = arguments
        .out
        .as_ref()
        .map(|folder| folder.join(apply_fix::FIXED_FOLDER));
    if let Some(folder) = &folder {
        check_writable(folder)?;
    }
    let options = DiagnosisOptions {
        adapter_folder: folder.as_ref().map(|folder| folder.join(ADAPTER)),
        ..options.clone()
    };
    let evidence = apply_fix::repeat(&remedy, &options, workflow, interrupt)?;
    let fixed = report_of(&evidence, folder.as_deref(), &options);
    let code = conclude(&evidence, &fixed, folder.as_deref(), &arguments.output)?;
    apply_fix::note_result(&remedy, &report, &fixed);
    Ok(code)
}

/// The report on a run whose results go to `folder`.
fn report_of(evidence: &Evidence, folder: Option<&Path>, options: &DiagnosisOptions) -> Report {
    let mut paths = Vec::new();
    if let Some(folder) = folder {
        paths = output_paths(folder);
        paths.extend(options.adapter_folder.clone().filter(|_| saved_an_adapter(evidence)));
    }
    Report::new(evidence, paths)
}

/// Prints the report and files it; returns the exit code.
pub(super) fn conclude(
    evidence: &Evidence,
    report: &Report,
    folder: Option<&Path>,
    output: &OutputArguments,
) -> Result<u8> {
    // Printed even when a file cannot be written: the run may have taken long.
    let written = folder.map_or(Ok(()), |folder| write_outputs(folder, evidence, report));
    if let Some(refusal) = &evidence.refusal {
        refuse(refusal, report);
        // For people the error is the report.
        if output.format == Format::Text {
            return written.map(|()| EXIT_INCOMPLETE);
        }
    }
    let code = finish(report, output)?;
    written.map(|()| code)
}

/// Evidence as its files hold it.
pub(super) fn evidence_json(evidence: &Evidence) -> Result<String> {
    Ok(format!("{}\n", serde_json::to_string_pretty(evidence)?))
}

/// Says why the inputs cannot be used, and where to read on.
fn refuse(refusal: &Refusal, report: &Report) {
    note_error(&without_controls(refusal.error.clone()));
    // Other rules may have found something in the data that has nothing to do with the refusal.
    let named = report.roots().find(|root| root.headline == refusal.headline);
    if let Some(root) = named {
        note(&format!("  more: `diagnose explain {}`", root.name));
    }
}

pub(super) fn note_error(text: &str) {
    note(&format!("{} {text}", "error:".red().bold()));
}

/// Whether this run left an adapter, and not an earlier one into the same folder.
fn saved_an_adapter(evidence: &Evidence) -> bool {
    let reload = evidence.state.ran().and_then(|state| state.reload.ran());
    reload.is_some_and(|reload| reload.saved > 0)
}

/// The model that `argument` names: a folder, a GGUF file or a hub id.
pub(super) fn resolve_model(argument: &str) -> Result<ModelSource> {
    let source = ModelSource::resolve(argument, &HubSettings::from_environment(), &mut note)?;
    if let ModelSource::Folder(folder) = &source {
        // What is wrong about the files is said when they are read.
        if let Some(unread) = WeightSet::of_folder(folder).ok().and_then(|weights| weights.note()) {
            note(&format!("note: {unread}"));
        }
    }
    Ok(source)
}

fn options(arguments: &DiagnoseArguments, source: ModelSource) -> Result<DiagnosisOptions> {
    let lines = |text: &str| -> Vec<String> {
        text.lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let prompts = match &arguments.prompts {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
            let prompts = lines(text.trim_start_matches(BYTE_ORDER_MARK));
            if prompts.is_empty() {
                return Err(anyhow!(
                    "`{}` has no prompt\n  expected: one prompt on each line",
                    path.display()
                ));
            }
            prompts
        }
        None if arguments.model.is_none() => lines(embedded::PROMPTS),
        None => Vec::new(),
    };
    let trainer = arguments.trainer.clone().map(|name| ExternalTrainer {
        name,
        timeout: Duration::from_secs(arguments.trainer_timeout as u64),
    });
    if let Some(trainer) = &trainer {
        trainer.check()?;
    }
    let generator = generator(arguments)?;
    let finished = arguments.adapter.as_ref().or(arguments.trained.as_ref());
    if let (Some(log), None) = (&arguments.log, finished) {
        return Err(anyhow!(
            "`--log {}` belongs to a training that is over\n  hint: give what it left with `--adapter` or `--trained`, or the log \
             alone",
            log.display()
        ));
    }
    Ok(DiagnosisOptions {
        source,
        model_name: arguments
            .model
            .clone()
            .unwrap_or_else(|| RunSettings::EMBEDDED.to_owned()),
        data_name: arguments
            .data
            .as_ref()
            .map_or_else(|| RunSettings::EMBEDDED.to_owned(), |path| path.display().to_string()),
        data: match &arguments.data {
            Some(path) => DataSource::Path(path.clone()),
            None => DataSource::Embedded(embedded::MINIMAL_DATA),
        },
        trainer,
        generator,
        adapter: finished.map(|folder| FinishedAdapter {
            folder: folder.clone(),
            is_whole_model: arguments.trained.is_some(),
            name: folder.display().to_string(),
            log: arguments.log.clone(),
            mask_prompt: arguments.no_mask_prompt.then_some(false),
            max_sequence_length: arguments.max_seq_length,
        }),
        prompts,
        prompts_file: arguments.prompts.as_ref().map(|path| path.display().to_string()),
        check_only: arguments.check_only,
        max_tokens: arguments.max_tokens,
        fine_tune: if arguments.full {
            FineTuneKind::Full
        } else {
            FineTuneKind::Lora
        },
        lora: LoraSettings {
            rank: arguments.rank,
            scale: arguments.scale as f32,
            dropout: arguments.dropout as f32,
            layers: arguments.layers,
            keys: arguments.keys.clone(),
        },
        steps: arguments.steps,
        batch_size: arguments.batch_size,
        learning_rate: arguments.learning_rate,
        warmup_steps: arguments.warmup_steps,
        clip_norm: arguments.clip_norm.map(|norm| norm as f32),
        bias_correction: arguments.bias_correction,
        mask_prompt: !arguments.no_mask_prompt,
        template: TemplateChoice::Own,
        max_sequence_length: arguments
            .max_seq_length
            .unwrap_or(RunSettings::default().max_sequence_length),
        seed: arguments.seed,
        backend: arguments.backend.map(Into::into),
        cross_check: arguments
            .cross_check
            .map(|CrossCheckArgument::Torch| Python::from_environment()),
        precision: PrecisionChoice {
            dtype: arguments.dtype.map(Into::into),
            keep_packed: arguments.keep_packed,
        },
        adapter_folder: arguments.out.as_ref().map(|folder| folder.join(ADAPTER)),
    })
}

/// The generator that is asked beside the engine; `None` when none was given.
fn generator(arguments: &DiagnoseArguments) -> Result<Option<ExternalGenerator>> {
    let Some(name) = arguments.generator.clone() else {
        return Ok(None);
    };
    let generator = ExternalGenerator {
        name,
        served_model: arguments.generator_model.clone(),
        timeout: Duration::from_secs(arguments.generator_timeout as u64),
    };
    generator.check(arguments.trained.is_none())?;
    if generator.is_server() && arguments.adapter.is_none() && arguments.trained.is_none() {
        return Err(anyhow!(
            "a server answers with what it has loaded, and not with an adapter that is trained here\n  hint: say with `--adapter` \
             or `--trained` what that is, or give a command with `{{adapter}}`"
        ));
    }
    if !generator.is_server() && generator.served_model.is_some() {
        return Err(anyhow!(
            "`--generator-model` is for a server\n  found: `{}`\n  hint: write the model into the command",
            generator.name
        ));
    }
    Ok(Some(generator))
}

/// What the first Ctrl-C from now on raises, to end the run with a report; a second one ends the process.
pub(super) fn listen_for_interrupt() -> Result<Interrupt> {
    let interrupt = Interrupt::default();
    let raised = interrupt.clone();
    ctrlc::set_handler(move || {
        if raised.request() {
            // The user asked twice, and a running MLX kernel cannot be ended otherwise.
            end_process(EXIT_KILLED_BY_INTERRUPT);
        }
        note("interrupted: finishing with a report of what was done; press Ctrl-C again to stop at once");
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(interrupt)
}

/// Fails before the work rather than after it.
pub(super) fn check_writable(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)
        .and_then(|()| tempfile::tempfile_in(folder))
        .with_context(|| format!("cannot write to the folder `{}`", folder.display()))?;
    Ok(())
}

/// The trained adapter is saved in `adapter` of the folder: one that is there must be that of an earlier run.
fn check_adapter_is_ours(folder: &Path) -> Result<()> {
    let adapter = folder.join(ADAPTER);
    let is_earlier_run = output_paths(folder).iter().any(|path| path.exists());
    let is_used = adapter.read_dir().is_ok_and(|mut entries| entries.next().is_some());
    if is_used && !is_earlier_run {
        return Err(anyhow!(
            "`{}` would be overwritten, and is not of an earlier run\n  hint: choose another `--out`",
            adapter.display()
        ));
    }
    Ok(())
}

pub(super) fn output_paths(folder: &Path) -> Vec<PathBuf> {
    ["report.html", "report.json", "report.md", "evidence.json"]
        .map(|name| folder.join(name))
        .to_vec()
}

fn write_outputs(folder: &Path, evidence: &Evidence, report: &Report) -> Result<()> {
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        write_file(&path, text.as_bytes()).with_context(|| format!("cannot write `{}`", path.display()))
    };
    write("evidence.json", &evidence_json(evidence)?)?;
    write("report.json", &to_json(report)?)?;
    write("report.html", &to_html(report))?;
    write("report.md", &to_markdown(report))
}

fn write_rule_pages(folder: &Path) -> Result<()> {
    check_writable(folder)?;
    for page in rules::pages() {
        let path = folder.join(&page.file);
        write_file(&path, page.text.as_bytes()).with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    Ok(())
}

fn finish(report: &Report, output: &OutputArguments) -> Result<u8> {
    let text = match output.format {
        Format::Text => to_text(report, width()),
        Format::Json => to_json(report)?,
        Format::Markdown => to_markdown(report),
        Format::Html => to_html(report),
        Format::Junit => to_junit(report)?,
        Format::Github => to_github(report),
    };
    print(&text)?;
    Ok(exit_code(report, output.fail_on.into()))
}

pub(super) fn width() -> usize {
    if !std::io::stdout().is_terminal() {
        return PLAIN_WIDTH;
    }
    console::Term::stdout()
        .size_checked()
        .map_or(PLAIN_WIDTH, |(_, columns)| usize::from(columns))
}

pub(super) fn read_evidence(path: &Path) -> Result<Evidence> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{shown}`"))?;
    Ok(Evidence::parse(path, &text)?)
}
