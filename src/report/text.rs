use std::fmt::Write as _;

use colored::{ColoredString, Colorize};

use super::costs::{duration, probe_in_words};
use super::regression;
use super::swap::{answered_by, trained_by};
use super::wrap::{printable, wrapped, wrapped_command};
use super::{
    AnswerPair, CheckOutcome, Costs, Indicator, IndicatorStatus, PhaseReport, PhaseStatus, RankTable, Report,
    ReportedFinding, Swap, Verdict,
};
use crate::evidence::{CellState, FineTuneKind};
use crate::rules::Severity;
use crate::rules::wording::{counted, shortest};

/// Narrowest page that still holds the labels and some text.
const NARROWEST: usize = 60;

/// Widest page that is still easy to read.
const WIDEST: usize = 100;

/// Width of the column of labels.
const LABEL: usize = 13;

/// The report for a terminal of `width` columns.
///
/// Colour follows the `colored` crate's switch, which honours `NO_COLOR`; without colour nothing is lost.
pub fn to_text(report: &Report, width: usize) -> String {
    let mut page = Page::new(width);
    page.head(report);
    let check_only = report.settings.judges_only_inputs();
    for (index, phase) in report.phases.iter().enumerate() {
        if !check_only || !phase.figures.is_empty() || phase.status == PhaseStatus::Crashed {
            page.phase(index + 1, phase, check_only);
        }
    }
    if let Some(ranks) = &report.ranks {
        page.ranks(ranks);
    }
    page.answers(&report.answers);
    if let Some(swap) = &report.swap {
        page.swap(swap);
    }
    if !check_only {
        page.indicators(&report.indicators);
    }
    page.findings(report);
    page.notes(report);
    page.signals(report);
    page.regression(report);
    page.end(report);
    page.into_text()
}

/// The findings and notes of the report alone, for a page of `width` columns; empty without any.
pub fn findings_to_text(report: &Report, width: usize) -> String {
    let mut page = Page::new(width);
    page.findings(report);
    page.notes(report);
    page.into_text()
}

/// Lines of labelled text.
pub(super) struct Page {
    text: String,
    width: usize,
}

impl Page {
    /// An empty page of `width` columns.
    pub(super) fn new(width: usize) -> Self {
        Self {
            text: String::new(),
            width: width.clamp(NARROWEST, WIDEST),
        }
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }

    /// The program with its version.
    pub(super) fn heading(&mut self, tool_version: &str) {
        self.line(&format!("mlx-diagnose {tool_version}").bold().to_string());
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    fn blank(&mut self) {
        self.text.push('\n');
    }

    fn title(&mut self, title: &str) {
        self.blank();
        self.line(&title.bold().to_string());
    }

    /// A label and its text, continued under the text.
    pub(super) fn entry(&mut self, indent: usize, label: &str, text: &str) {
        self.painted_entry(indent, label, text, |line| line.normal());
    }

    fn painted_entry(&mut self, indent: usize, label: &str, text: &str, paint: fn(&str) -> ColoredString) {
        let column = indent + LABEL;
        for (index, line) in wrapped(text, self.width.saturating_sub(column)).iter().enumerate() {
            let label = if index == 0 { label } else { "" };
            let padded = format!("{label:<LABEL$}").dimmed();
            self.line(&format!("{:indent$}{padded}{}", "", paint(line)));
        }
    }

    fn head(&mut self, report: &Report) {
        let environment = &report.environment;
        self.heading(&environment.tool_version);
        for (label, text) in subject(report) {
            self.entry(2, label, &text);
        }
        self.entry(
            2,
            "device",
            &format!(
                "{} ({}), {}, MLX {}",
                environment.device, environment.backend, environment.dtype, environment.mlx_version
            ),
        );
        for reason in &environment.reasons {
            self.entry(2, "", reason);
        }
    }

    fn phase(&mut self, number: usize, phase: &PhaseReport, check_only: bool) {
        self.blank();
        let name = capitalised(phase.name.name());
        let title = format!("{number} {name:<12} ").bold();
        let seconds = phase
            .seconds
            .map_or_else(String::new, |seconds| format!(" in {seconds:.1} s"));
        let status = match phase.status {
            PhaseStatus::Ran => format!("ran{seconds}").green(),
            PhaseStatus::Skipped if check_only => "inputs checked".green(),
            PhaseStatus::Skipped => "skipped".yellow(),
            PhaseStatus::Crashed => "failed".red().bold(),
        };
        self.line(&format!("{title}{status}"));
        let reason = phase
            .reason
            .as_ref()
            .filter(|_| !check_only || phase.status == PhaseStatus::Crashed);
        if let Some(reason) = reason {
            for line in reason.lines() {
                self.entry(2, "", line);
            }
        }
        for figure in &phase.figures {
            self.entry(2, figure.label, &figure.text);
        }
    }

    fn ranks(&mut self, ranks: &RankTable) {
        self.title("Ranks");
        let cells = ranks.cells();
        let lines = std::iter::once(RankTable::TITLES.map(str::to_owned)).chain(cells);
        let widths = |lines: &[[String; RankTable::TITLES.len()]]| -> Vec<usize> {
            (0..RankTable::TITLES.len())
                .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
                .collect()
        };
        let lines: Vec<_> = lines.collect();
        let widths = widths(&lines);
        for (index, line) in lines.iter().enumerate() {
            let columns = line.iter().zip(&widths).enumerate();
            let padded: Vec<String> = columns
                .map(|(column, (cell, &width))| match column {
                    // The last one is words.
                    _ if column + 1 == line.len() => cell.clone(),
                    _ => format!("{cell:>width$}"),
                })
                .collect();
            let text = format!("  {}", padded.join("  "));
            self.line(&if index == 0 { text.dimmed().to_string() } else { text });
        }
    }

    fn answers(&mut self, pairs: &[AnswerPair]) {
        const SHOWN: usize = 4;
        if pairs.is_empty() {
            return;
        }
        self.title("Answers");
        let room = self.width - LABEL - 4;
        for pair in pairs.iter().take(SHOWN) {
            let prompt = pair.prompt.split_whitespace().collect::<Vec<_>>().join(" ");
            for line in wrapped(&prompt, self.width - 2) {
                self.line(&format!("  {}", line.cyan()));
            }
            for (label, answer) in [("before", &pair.before), ("after", &pair.after)] {
                if let Some(answer) = answer {
                    self.entry(4, label, &answer.line(room));
                }
            }
        }
        if pairs.len() > SHOWN {
            self.line(&format!(
                "  and {} more in the files",
                counted(pairs.len() - SHOWN, "prompt")
            ));
        }
    }

    fn swap(&mut self, swap: &Swap) {
        const COLUMN: usize = 38;
        self.title("Two by two");
        for (what, name) in swap.names() {
            self.entry(2, what, &printable(name));
        }
        let (rows, columns) = (swap.rows(), swap.columns());
        let mut titles = format!("  {:<LABEL$}", "");
        for generator in &columns {
            let _ = write!(titles, "{:<COLUMN$}", answered_by(*generator));
        }
        self.line(&titles.trim_end().dimmed().to_string());
        for trainer in rows {
            let mut line = format!("  {:<LABEL$}", trained_by(trainer));
            for generator in &columns {
                let cell = swap.cell(trainer, *generator);
                // What a cell that did not run has to say is a finding's, or in the files.
                let text = cell.map_or("", |cell| cell.text.split(':').next().unwrap_or(&cell.text));
                let padded = format!("{text:<COLUMN$}");
                let painted = match cell.map(|cell| cell.state) {
                    Some(CellState::Works) => padded.green(),
                    Some(CellState::Absent) | None => padded.dimmed(),
                    Some(_) => padded.red().bold(),
                };
                line.push_str(&painted.to_string());
            }
            self.line(&line);
        }
        self.entry(2, "side", &swap.text);
        for figure in &swap.beside {
            let text = format!("{}: {} (reference {})", figure.what, figure.theirs, figure.reference);
            self.entry(2, "beside", &text);
        }
        if let Some(prompt) = swap.telling_prompt() {
            self.entry(2, "for example", &printable(&swap.prompts[prompt]));
            for cell in &swap.cells {
                let place = cell.place();
                let room = (self.width - LABEL - 6).saturating_sub(place.chars().count());
                self.entry(2, "", &format!("{place}: {}", cell.answer(prompt, room)));
            }
        }
    }

    fn indicators(&mut self, indicators: &[Indicator]) {
        let widest = |text: fn(&Indicator) -> &str| {
            let lengths = indicators.iter().map(|indicator| text(indicator).chars().count());
            lengths.max().unwrap_or(0)
        };
        let name_width = widest(|indicator| indicator.name);
        let value_width = widest(|indicator| &indicator.value).max("measured".len());
        self.title("Indicators");
        let header = format!("      {:<name_width$}  {:<value_width$}  expected", "", "measured");
        self.line(&header.dimmed().to_string());
        for indicator in indicators {
            let mark = match indicator.status {
                IndicatorStatus::Ok => "ok".green(),
                IndicatorStatus::Attention => "!!".red().bold(),
                IndicatorStatus::NotMeasured => "--".dimmed(),
            };
            let name = format!("{:<name_width$}", indicator.name);
            let value = format!("{:<value_width$}", indicator.value);
            self.line(&format!("  {mark}  {name}  {value}  {}", indicator.expected.dimmed()));
        }
    }

    fn findings(&mut self, report: &Report) {
        for (index, root) in report.roots().enumerate() {
            if index == 0 {
                self.title("Findings");
            } else {
                self.blank();
            }
            self.root(report, root);
        }
    }

    fn root(&mut self, report: &Report, root: &ReportedFinding) {
        self.headline(2, root);
        self.entry(4, "found", &root.found);
        self.entry(4, "expected", &root.expected);
        if let Some(location) = &root.location {
            self.entry(4, "where", location);
        }
        for fix in &root.fixes {
            self.painted_entry(4, "hint:", &fix.text, |line| line.cyan());
            if let Some(command) = &fix.command {
                let indent = 4 + LABEL;
                for line in wrapped_command(command, self.width - indent) {
                    self.line(&format!("{:indent$}{}", "", line.green()));
                }
            }
        }
        let folded: Vec<&ReportedFinding> = report.explained_by(root.name).collect();
        if !folded.is_empty() {
            self.line(&format!("    {}", "explains:".dimmed()));
        }
        for finding in folded {
            self.headline(6, finding);
        }
    }

    fn notes(&mut self, report: &Report) {
        for (index, note) in report.notes().enumerate() {
            if index == 0 {
                self.title("Notes");
            }
            let plain = format!("{} {}:", severity_and_code(note), note.name);
            let text = format!("{plain} {}", note.headline);
            for (index, line) in wrapped(&text, self.width - 4).iter().enumerate() {
                match line.strip_prefix(&plain) {
                    Some(headline) if index == 0 => {
                        self.line(&format!("  {} {}:{headline}", painted_label(note), note.name.bold()));
                    }
                    _ if index == 0 => self.line(&format!("  {line}")),
                    _ => self.line(&format!("    {line}")),
                }
            }
        }
    }

    fn headline(&mut self, indent: usize, finding: &ReportedFinding) {
        let label = painted_label(finding);
        self.line(&format!("{:indent$}{label} {}", "", finding.name.bold()));
        for line in wrapped(&finding.headline, self.width - indent - 2) {
            self.line(&format!("{:indent$}  {line}", ""));
        }
    }

    fn signals(&mut self, report: &Report) {
        let unexplained: Vec<_> = report
            .signals
            .iter()
            .filter(|signal| signal.explained_by.is_none())
            .collect();
        if unexplained.is_empty() {
            return;
        }
        self.title("Signals that no finding explains");
        for signal in unexplained {
            for (index, line) in wrapped(&signal.text, self.width - 6).iter().enumerate() {
                let mark = if index == 0 { "!!".red().bold() } else { "  ".normal() };
                self.line(&format!("  {mark}  {line}"));
            }
        }
    }

    fn regression(&mut self, report: &Report) {
        const SHOWN: usize = 12;
        let Some(comparison) = &report.regression else {
            return;
        };
        self.title("Against the baseline");
        self.entry(2, "compared", &regression::summary(comparison));
        if let Some(changes) = regression::environment(&comparison.environment) {
            self.entry(2, "machine", &changes);
        }
        for movement in comparison.moved.iter().take(SHOWN) {
            let mark = "!!".red().bold();
            self.line(&format!("  {mark}  {}", movement.path));
            for line in wrapped(&regression::moved(movement), self.width - 8) {
                self.line(&format!("        {line}"));
            }
        }
        if comparison.moved.len() > SHOWN {
            self.line(&format!(
                "      and {} more in the JSON",
                counted(comparison.moved.len() - SHOWN, "value")
            ));
        }
    }

    fn end(&mut self, report: &Report) {
        self.blank();
        let verdict = report.verdict.name();
        let painted = match report.verdict {
            Verdict::Healthy => verdict.green().bold(),
            Verdict::Findings => verdict.red().bold(),
            Verdict::Abnormal | Verdict::Incomplete => verdict.yellow().bold(),
        };
        for (index, line) in wrapped(&format!("{verdict}: {}", report.headline), self.width)
            .iter()
            .enumerate()
        {
            match line.strip_prefix(verdict) {
                Some(rest) if index == 0 => self.line(&format!("{painted}{rest}")),
                _ => self.line(&format!("  {line}")),
            }
        }
        self.entry(2, "checks", &checks_in_words(report));
        if !report.costs.probes.is_empty() {
            self.entry(2, "probes", &costs_in_words(&report.costs));
        }
        if let Some(finding) = report.roots().chain(report.notes()).next() {
            self.entry(2, "more", &format!("`diagnose explain {}`", finding.name));
        }
        for (index, output) in report.outputs.iter().enumerate() {
            let label = if index == 0 { "files" } else { "" };
            self.entry(2, label, &output.display().to_string());
        }
    }
}

fn severity_and_code(finding: &ReportedFinding) -> String {
    format!("{}[{}]", finding.severity.name(), finding.code)
}

fn painted_label(finding: &ReportedFinding) -> ColoredString {
    let label = severity_and_code(finding);
    match finding.severity {
        Severity::Error => label.red().bold(),
        Severity::Warning => label.yellow().bold(),
        Severity::Info => label.blue().bold(),
    }
}

fn costs_in_words(costs: &Costs) -> String {
    let probes: Vec<String> = costs
        .probes
        .iter()
        .map(|cost| format!("{} {}", probe_in_words(cost), duration(cost.seconds)))
        .collect();
    format!("{}; {}", probes.join(", "), costs.in_all())
}

fn checks_in_words(report: &Report) -> String {
    format!(
        "{} passed, {} found something, {} not applicable",
        report.count(CheckOutcome::Passed),
        report.count(CheckOutcome::Found),
        report.count(CheckOutcome::NotApplicable)
    )
}

/// What is judged, in labelled lines.
pub(super) fn subject(report: &Report) -> Vec<(&'static str, String)> {
    let settings = &report.settings;
    match &settings.log {
        Some(log) if settings.is_log_alone() => vec![("log", log.clone())],
        _ => vec![
            ("model", settings.model.clone()),
            ("data", settings.data.clone()),
            ("training", training_in_words(report)),
        ],
    }
}

/// What was trained and how, on one line.
fn training_in_words(report: &Report) -> String {
    let settings = &report.settings;
    let what = match settings.fine_tune {
        FineTuneKind::Lora => format!(
            "LoRA rank {}, scale {}, {}",
            settings.rank,
            shortest(settings.scale),
            match settings.layers {
                Some(layers) => format!("last {}", counted(layers, "layer")),
                None => "all layers".to_owned(),
            }
        ),
        FineTuneKind::Full => "all weights".to_owned(),
    };
    if let Some(trainer) = &settings.trainer {
        return format!(
            "{what}; {} of {}, learning rate {}, seed {}; by `{trainer}`",
            counted(settings.steps, "step"),
            counted(report.rows_per_step, "row"),
            shortest(settings.learning_rate),
            settings.seed
        );
    }
    if let Some(folder) = settings.adapter.as_ref().or(settings.trained.as_ref()) {
        return format!("{what}; finished, from {folder}");
    }
    format!(
        "{what}; {} of {}, learning rate {}, seed {}",
        counted(settings.steps, "step"),
        counted(report.rows_per_step, "row"),
        shortest(settings.learning_rate),
        settings.seed
    )
}

fn capitalised(name: &str) -> String {
    let mut characters = name.chars();
    characters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}
