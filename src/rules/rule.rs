use serde::Serialize;

use super::Outcome;
use crate::evidence::Evidence;

/// The phase whose measurements a rule judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The model as loaded and the answers of the untouched base.
    Baseline,
    /// The rows and the short training run.
    Training,
    /// Parameters before training against after.
    Parameters,
    /// The answers after training.
    Generation,
    /// Which state is live, and whether it survives saving.
    State,
}

impl Phase {
    /// All phases in the order in which they run.
    pub const ALL: [Self; 5] = [
        Self::Baseline,
        Self::Training,
        Self::Parameters,
        Self::Generation,
        Self::State,
    ];

    /// The name as reports print it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Training => "training",
            Self::Parameters => "parameters",
            Self::Generation => "generation",
            Self::State => "state",
        }
    }
}

/// How bad a finding is; the order is from mild to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing; changes neither verdict nor exit code.
    Info,
    /// Likely to spoil the result, or a fault that training did not cause.
    Warning,
    /// The run cannot give what was asked for.
    Error,
}

impl Severity {
    /// The name as reports print it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// How far a rule may be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleStatus {
    /// Name, code and meaning stay.
    Stable,
    /// May still change its meaning or go.
    Preview,
}

impl RuleStatus {
    /// The name as reports print it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Preview => "preview",
        }
    }
}

/// One fault that a run can have, and how to recognise it.
///
/// Declared with `declare_rule!`, one per file, and listed in [`RULES`](super::RULES).
#[derive(Debug)]
pub struct Rule {
    /// The fault's name in kebab case; also the file's name.
    pub name: &'static str,
    /// Family and number, for example `ATTACH001`; never reused.
    pub code: &'static str,
    /// One line without a final period.
    pub summary: &'static str,
    /// The doc comment as written, each line with its leading space.
    pub raw_documentation: &'static str,
    /// The phase whose measurements are judged.
    pub phase: Phase,
    /// Severity of its findings, unless a finding lowers it.
    pub severity: Severity,
    /// How far it may be relied on.
    pub status: RuleStatus,
    /// Version that brought it.
    pub since: &'static str,
    /// Names of the rules whose findings a finding of this rule explains.
    pub explains: &'static [&'static str],
    /// Whether some of its findings offer a command that tries the fix out.
    pub offers_command: bool,
    /// Judges the evidence; no I/O, no clock, no randomness.
    pub check: fn(&Evidence) -> Outcome,
    /// The source file.
    pub file: &'static str,
}

impl Rule {
    /// The letters of the code, for example `ATTACH`.
    pub fn family(&self) -> &'static str {
        self.code.trim_end_matches(|character: char| character.is_ascii_digit())
    }

    /// The documentation as Markdown.
    pub fn documentation(&self) -> String {
        let lines: Vec<&str> = self
            .raw_documentation
            .lines()
            .map(|line| line.strip_prefix(' ').unwrap_or(line))
            .collect();
        lines.join("\n").trim().to_owned()
    }

    /// The addresses under its heading References.
    pub fn references(&self) -> Vec<&'static str> {
        self.raw_documentation
            .lines()
            .skip_while(|line| line.trim() != "## References")
            .filter_map(|line| line.trim().strip_prefix("- <")?.strip_suffix('>'))
            .collect()
    }
}

/// Declares a [`Rule`]; the doc comment becomes its documentation, and `offers_command` is false when left out.
macro_rules! declare_rule {
    (
        $(#[doc = $documentation:literal])+
        $visibility:vis static $identifier:ident = {
            name: $name:literal,
            code: $code:literal,
            summary: $summary:literal,
            phase: $phase:ident,
            severity: $severity:ident,
            status: $status:ident,
            since: $since:literal,
            explains: $explains:expr,
            $(offers_command: $offers_command:literal,)?
        }
    ) => {
        $(#[doc = $documentation])+
        $visibility static $identifier: $crate::rules::Rule = $crate::rules::Rule {
            name: $name,
            code: $code,
            summary: $summary,
            raw_documentation: concat!($($documentation, "\n"),+),
            phase: $crate::rules::Phase::$phase,
            severity: $crate::rules::Severity::$severity,
            status: $crate::rules::RuleStatus::$status,
            since: $since,
            explains: $explains,
            offers_command: false $(|| $offers_command)?,
            check,
            file: file!(),
        };
    };
}
pub(super) use declare_rule;
