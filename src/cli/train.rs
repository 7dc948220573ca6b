//! `diagnose train`: fine-tuning for real.

use std::path::Path;

use anyhow::{Result, anyhow};
use serde_json::json;

use super::output::{note, print};
use super::ranks::{check_plan, meet, told};
use super::run::{listen_for_interrupt, width};
use super::train_arguments::{StartArguments, Train};
use super::train_command::StartCommand;
use super::train_inputs::{at_its_line, inputs};
use super::train_observer::{Lines, Quiet, opening, summary};
use crate::atomic_write::write_file;
use crate::device::{PrecisionChoice, dtype_named};
use crate::diagnosis::{DataSource, DiagnosisOptions, Silent, diagnose};
use crate::distributed::Ranks;
use crate::evidence::{Evidence, FineTuneKind, RanksEvidence, RanksUpdate, RunSettings};
use crate::fine_tuning::{
    Configuration, FineTuneSettings, Method, MetricsLine, Observer, Origin, Plan, RunCheckpoint, RunEnd, RunFolder,
    RunInputs, RunRecord, prepare, profile, run as run_plan,
};
use crate::interrupt::Interrupt;
use crate::model::ModelSource;
use crate::report::{
    CurvePoint, CurveStep, Curves, EXIT_FAULT, EXIT_HEALTHY, EXIT_INCOMPLETE, RankTable, Report, curves_to_html,
    findings_to_text, to_markdown,
};
use crate::rules::Severity;
use crate::train::OptimizerSettings;
use crate::workflow::ReferenceWorkflow;

/// Settings of `train quick` over the profile for chats: few updates, each small.
const QUICK: [(&str, i64); 5] = [
    ("iters", 40),
    ("max_seq_length", 256),
    ("steps_per_eval", 20),
    ("warmup_steps", 4),
    ("val_batches", 5),
];

/// Runs the command and returns the exit code.
pub fn run(what: &Train) -> Result<u8> {
    match what {
        Train::Quick { model, data, out } => start(&quick(model, data, out)?),
        Train::Start(arguments) => start(&layers(arguments)?),
        Train::Validate { config } => validate(config),
        Train::Resume { folder } => resume(folder),
    }
}

fn quick(model: &str, data: &Path, out: &Path) -> Result<Configuration> {
    let mut configuration = profile("chat")?;
    let mut fixed = Configuration::default();
    for (key, value) in QUICK {
        fixed.set(key, json!(value), Origin::Profile("quick".to_owned()));
    }
    for (key, value) in [
        ("model", json!(model)),
        ("data", json!(data)),
        ("adapter_path", json!(out)),
    ] {
        fixed.set(key, value, Origin::Option(key.to_uppercase()));
    }
    configuration.overlay(fixed);
    Ok(configuration)
}

/// The profile, the file and the command line, each over the one before.
fn layers(arguments: &StartArguments) -> Result<Configuration> {
    let file = match &arguments.config {
        Some(path) => Configuration::read(path)?,
        None => Configuration::default(),
    };
    layered(file, arguments.profile.as_deref(), arguments.configuration())
}

fn layered(file: Configuration, named: Option<&str>, typed: Configuration) -> Result<Configuration> {
    let of_file = file
        .get("profile")
        .and_then(|entry| entry.value.as_str().map(str::to_owned));
    let mut configuration = match named.or(of_file.as_deref()) {
        Some(name) => profile(name)?,
        None => Configuration::default(),
    };
    configuration.overlay(file);
    configuration.overlay(typed);
    Ok(configuration)
}

fn start(configuration: &Configuration) -> Result<u8> {
    // Processes may take long to meet.
    let interrupt = listen_for_interrupt()?;
    let ranks = meet(|_| EXIT_INCOMPLETE)?;
    let ended = start_among(configuration, &interrupt, ranks.as_ref());
    told(ranks, ended)
}

fn start_among(configuration: &Configuration, interrupt: &Interrupt, ranks: Option<&Ranks>) -> Result<u8> {
    let (settings, source) = inputs(configuration, Ranks::leads(ranks))?;
    let settings = placed(settings)?;
    if !Ranks::leads(ranks) {
        let folder = RunFolder::of_another(&settings.output);
        return begin(settings, &source, &folder, interrupt, ranks);
    }
    // Refused before anything is computed.
    let folder = RunFolder::create(&settings.output)?;
    let ended = begin(settings, &source, &folder, interrupt, ranks);
    folder.remove_if_unused();
    ended.map_err(|error| at_its_line(configuration, error))
}

/// The same settings with paths that are true from any folder: a run is resumed and asked from wherever.
fn placed(mut settings: FineTuneSettings) -> Result<FineTuneSettings> {
    if Path::new(&settings.model).exists() {
        settings.model = std::path::absolute(&settings.model)?.display().to_string();
    }
    settings.data = std::path::absolute(&settings.data)?;
    if let Some(adapter) = &mut settings.resume_adapter {
        *adapter = std::path::absolute(&*adapter)?;
    }
    Ok(settings)
}

fn begin(
    settings: FineTuneSettings,
    source: &ModelSource,
    folder: &RunFolder,
    interrupt: &Interrupt,
    ranks: Option<&Ranks>,
) -> Result<u8> {
    let plan = planned(settings, source, ranks)?;
    let before = match judged_by_first(&plan, source, interrupt, ranks)? {
        Judged::Refused => return Ok(EXIT_FAULT),
        Judged::Fit(evidence) => evidence,
    };
    if Ranks::leads(ranks) {
        folder.write_record(&RunRecord::new(plan.settings.to_json(), RunInputs::of(&plan)))?;
    }
    go(&plan, folder, None, before, interrupt, ranks)
}

/// Model and data in memory, the same in every process.
fn planned(settings: FineTuneSettings, source: &ModelSource, ranks: Option<&Ranks>) -> Result<Plan> {
    let plan = prepare(settings, source, ranks.map_or(1, Ranks::size))?;
    if let Some(ranks) = ranks {
        check_plan(ranks, &plan)?;
    }
    Ok(plan)
}

fn resume(path: &Path) -> Result<u8> {
    let interrupt = listen_for_interrupt()?;
    let ranks = meet(|_| EXIT_INCOMPLETE)?;
    let ended = resume_among(path, &interrupt, ranks.as_ref());
    told(ranks, ended)
}

fn resume_among(path: &Path, interrupt: &Interrupt, ranks: Option<&Ranks>) -> Result<u8> {
    let (folder, record) = if Ranks::leads(ranks) {
        RunFolder::resume(path)?
    } else {
        RunFolder::open(path)?
    };
    let note = |line: &str| {
        if Ranks::leads(ranks) {
            note(line);
        }
    };
    let mut configuration = Configuration::from_json(&record.settings, "run.json");
    // The folder may have been moved.
    configuration.set("adapter_path", json!(path), Origin::Option("DIR".to_owned()));
    let (settings, source) = inputs(&configuration, Ranks::leads(ranks))?;
    let plan = planned(settings, &source, ranks)?;
    record.inputs.check(&plan)?;
    let (checkpoint, broken) = RunCheckpoint::newest(&folder.checkpoints())?;
    for error in broken {
        note(&format!("note: {error}; going on from an earlier one"));
    }
    match &checkpoint {
        Some(checkpoint) if plan.is_over(&checkpoint.progress) => {
            return go(&plan, &folder, Some(checkpoint.clone()), None, interrupt, ranks);
        }
        Some(checkpoint) => note(&format!("going on after update {}", checkpoint.progress.update)),
        None => note("there is no checkpoint yet: beginning again"),
    }
    let before = match judged_by_first(&plan, &source, interrupt, ranks)? {
        Judged::Refused => return Ok(EXIT_FAULT),
        Judged::Fit(evidence) => evidence,
    };
    go(&plan, &folder, checkpoint, before, interrupt, ranks)
}

fn validate(config: &Path) -> Result<u8> {
    let configuration = layered(Configuration::read(config)?, None, Configuration::default())?;
    let (settings, source) = inputs(&configuration, true)?;
    print(&super::train_observer::effective(&settings, &configuration))?;
    RunFolder::check_new(&settings.output)?;
    let plan = prepare(settings, &source, 1).map_err(|error| at_its_line(&configuration, error.into()))?;
    print(&opening(&plan, 1))?;
    match judged(&plan, &source, &Interrupt::default())? {
        Judged::Refused => Ok(EXIT_FAULT),
        Judged::Fit(_) => {
            print("\nready: `diagnose train start --config ")?;
            print(&format!("{}`\n", config.display()))?;
            Ok(EXIT_HEALTHY)
        }
    }
}

/// What the rule book says of the inputs.
enum Judged {
    /// They are fit to train with; what is known of them, where it was asked.
    Fit(Option<Box<Evidence>>),
    /// They are not.
    Refused,
}

/// What the first of several processes says of the inputs that all of them have; the others learn whether they are fit.
fn judged_by_first(plan: &Plan, source: &ModelSource, interrupt: &Interrupt, ranks: Option<&Ranks>) -> Result<Judged> {
    let own = if Ranks::leads(ranks) {
        judged(plan, source, interrupt)?
    } else {
        Judged::Fit(None)
    };
    match ranks {
        Some(ranks) if ranks.any(matches!(own, Judged::Refused))? => Ok(Judged::Refused),
        _ => Ok(own),
    }
}

/// Asks the rules that need no training, unless the user does without.
fn judged(plan: &Plan, source: &ModelSource, interrupt: &Interrupt) -> Result<Judged> {
    if !plan.settings.guards {
        return Ok(Judged::Fit(None));
    }
    let evidence = diagnose(&options(plan, source), &ReferenceWorkflow, interrupt, &mut Silent);
    let report = in_commands_of_training(Report::new(&evidence, Vec::new()), None);
    let findings = findings_to_text(&report, width());
    if !findings.is_empty() {
        note(&findings);
    }
    if let Some(refusal) = &evidence.refusal {
        return Err(anyhow!("{}", refusal.error));
    }
    if report.roots().any(|root| root.severity == Severity::Error) {
        note(
            "not trained: the run would not become good\n  hint: mend what is found above, or train all the same with `--no-guards`",
        );
        return Ok(Judged::Refused);
    }
    Ok(Judged::Fit(Some(Box::new(evidence))))
}

/// The report with the commands of its fixes as those of a training, into another folder where `used` has something in it.
fn in_commands_of_training(mut report: Report, used: Option<&Path>) -> Report {
    let typed = StartCommand::typed();
    let given = &report.settings;
    for fix in report.findings.iter_mut().flat_map(|finding| &mut finding.fixes) {
        if let Some(fixed) = &fix.settings {
            fix.command = typed.as_ref().and_then(|typed| typed.with(given, fixed, used));
        }
    }
    report
}

/// The plan as a diagnosis of its inputs.
fn options(plan: &Plan, source: &ModelSource) -> DiagnosisOptions {
    let settings = &plan.settings;
    let default = RunSettings::default();
    DiagnosisOptions {
        source: source.clone(),
        model_name: settings.model.clone(),
        data: DataSource::Path(settings.data.clone()),
        data_name: settings.data.display().to_string(),
        adapter: None,
        trainer: None,
        generator: None,
        prompts: Vec::new(),
        prompts_file: None,
        check_only: true,
        max_tokens: default.max_tokens,
        fine_tune: match settings.method {
            Method::Lora | Method::Dora => FineTuneKind::Lora,
            Method::Full => FineTuneKind::Full,
        },
        lora: settings.lora.clone(),
        steps: plan.updates,
        batch_size: settings.batch_size,
        learning_rate: settings.learning_rate,
        warmup_steps: settings.schedule.warmup_of(plan.updates),
        clip_norm: settings.clip_norm,
        bias_correction: match settings.optimizer {
            OptimizerSettings::Adam(adam) | OptimizerSettings::AdamW(adam) => adam.bias_correction,
            _ => true,
        },
        mask_prompt: settings.supervision.masks_prompts(),
        template: settings.template,
        max_sequence_length: settings.max_sequence_length,
        seed: settings.seed,
        backend: settings.backend,
        cross_check: None,
        precision: PrecisionChoice {
            dtype: settings.dtype.as_deref().and_then(dtype_named),
            keep_packed: settings.keep_packed,
        },
        adapter_folder: None,
    }
}

fn go(
    plan: &Plan,
    folder: &RunFolder,
    checkpoint: Option<RunCheckpoint>,
    before: Option<Box<Evidence>>,
    interrupt: &Interrupt,
    ranks: Option<&Ranks>,
) -> Result<u8> {
    let has_more_to_do = checkpoint
        .as_ref()
        .is_none_or(|checkpoint| !plan.is_over(&checkpoint.progress));
    if has_more_to_do && Ranks::leads(ranks) {
        note(&opening(plan, ranks.map_or(1, Ranks::size)));
    }
    let mut lines = Lines::new(plan.settings.report_every);
    let observer: &mut dyn Observer = if Ranks::leads(ranks) { &mut lines } else { &mut Quiet };
    let before = before.map(|before| *before);
    let ended = run_plan(plan, folder, checkpoint, before, observer, interrupt, ranks).map_err(|error| {
        let folder = folder.path().display();
        anyhow!(
            "{error}\n  note: when that is mended, `diagnose train resume {folder}` goes on from the last checkpoint"
        )
    })?;
    if Ranks::leads(ranks) {
        let written = write_loss_plot(folder, plan, &ended.metrics);
        print(&summary(plan, folder, &ended))?;
        written?;
    }
    let code = match &ended.end {
        RunEnd::Completed | RunEnd::StoppedEarly => EXIT_HEALTHY,
        RunEnd::Interrupted => EXIT_INCOMPLETE,
        RunEnd::EndedByFirst => EXIT_FAULT,
        RunEnd::Diagnosed(evidence) => {
            let report = Report::new(evidence, vec![folder.diagnosis()]);
            let report = in_commands_of_training(report, Some(folder.path()));
            print(&findings_to_text(&report, width()))?;
            write_text(&folder.diagnosis(), &to_markdown(&report))?;
            EXIT_FAULT
        }
    };
    if let Some(ranks) = ranks {
        // A launcher ends those that are left when others have ended, and the first one may write for long.
        ranks.wait_for_all()?;
    }
    Ok(code)
}

/// Draws what was measured; nothing where nothing was.
fn write_loss_plot(folder: &RunFolder, plan: &Plan, metrics: &[MetricsLine]) -> Result<()> {
    let mut course = Curves {
        steps: Vec::new(),
        validation: Vec::new(),
        same_rows: Vec::new(),
        uniform_loss: Some((plan.loaded.configuration.vocab_size as f64).ln()),
        clip_norm: plan.settings.clip_norm.map(f64::from),
    };
    let mut ranks: Vec<RanksUpdate> = Vec::new();
    for line in metrics {
        match line {
            MetricsLine::Update(step) => course.steps.push(CurveStep {
                step: step.step,
                learning_rate: step.learning_rate,
                loss: step.loss,
                gradient_norm: step.gradient_norm,
            }),
            MetricsLine::Validation(record) => course.validation.push(CurvePoint {
                updates: record.update,
                loss: record.loss,
            }),
            MetricsLine::Ranks(update) => {
                // A run that was resumed on another number of processes goes on with other ones.
                ranks.retain(|earlier| earlier.ranks.len() == update.ranks.len());
                ranks.push(update.clone());
            }
        }
    }
    if course.steps.is_empty() {
        return Ok(());
    }
    let name = |path: &Path| path.file_name().unwrap_or(path.as_os_str()).display().to_string();
    let title = format!(
        "{} on {}",
        name(Path::new(&plan.settings.model)),
        name(&plan.settings.data)
    );
    let ranks = ranks.first().map(|first| first.ranks.len()).map(|size| {
        RankTable::new(&RanksEvidence {
            size,
            start: Vec::new(),
            updates: ranks,
            lost: None,
        })
    });
    write_text(&folder.loss_plot(), &curves_to_html(&title, &course, ranks.as_ref()))
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    write_file(path, text.as_bytes()).map_err(|error| anyhow!("cannot write `{}`: {error}", path.display()))
}
