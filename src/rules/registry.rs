use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{RULES, Rule};
use crate::suggestion::closest;
use crate::thresholds::TABLE;

/// A rule was asked for that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no rule `{given}`\nhint: {}", self.hint())]
pub struct UnknownRule {
    /// What was asked for.
    pub given: String,
    /// The name that is most like it.
    pub similar: Option<&'static str>,
}

impl UnknownRule {
    fn hint(&self) -> String {
        match self.similar {
            Some(name) => format!("did you mean `{name}`?"),
            None => "`diagnose rules` lists all of them".to_owned(),
        }
    }
}

/// The rule with this name or code; letter case does not matter.
pub fn find(name_or_code: &str) -> Result<&'static Rule, UnknownRule> {
    let given = name_or_code.trim();
    RULES
        .iter()
        .copied()
        .find(|rule| rule.name.eq_ignore_ascii_case(given) || rule.code.eq_ignore_ascii_case(given))
        .ok_or_else(|| UnknownRule {
            given: given.to_owned(),
            similar: closest(&given.to_lowercase(), RULES.iter().map(|rule| rule.name))
                .or_else(|| closest(&given.to_uppercase(), RULES.iter().map(|rule| rule.code))),
        })
}

/// Every rule on a line: code, name and summary.
pub fn table() -> String {
    let width = RULES.iter().map(|rule| rule.name.len()).max().unwrap_or(0);
    let mut table = String::new();
    for rule in RULES {
        let _ = writeln!(table, "{:<9} {:<width$}  {}", rule.code, rule.name, rule.summary);
    }
    table
}

/// The rule's documentation as Markdown, under a title with its name and code.
pub fn explain(name_or_code: &str) -> Result<String, UnknownRule> {
    Ok(page_of(find(name_or_code)?))
}

pub(super) fn page_of(rule: &Rule) -> String {
    let mut page = format!("# {} ({})\n\n{}.\n\n", rule.name, rule.code, capitalised(rule.summary));
    let _ = writeln!(
        page,
        "Phase {}, severity {}, {} since {}.\n",
        rule.phase.name(),
        rule.severity.name(),
        rule.status.name(),
        rule.since
    );
    let _ = writeln!(page, "{}", rule.documentation());
    let mut thresholds = TABLE
        .iter()
        .filter(|threshold| rule.raw_documentation.contains(threshold.name))
        .peekable();
    if thresholds.peek().is_some() {
        let _ = writeln!(page, "\n## Thresholds\n");
    }
    for threshold in thresholds {
        let reason = threshold.reason.trim();
        let _ = writeln!(page, "- `{}` is {}. {reason}", threshold.name, threshold.value);
    }
    if !rule.explains.is_empty() {
        let _ = writeln!(page, "\n## What it explains\n");
        for name in rule.explains {
            let _ = writeln!(page, "- {name}");
        }
    }
    page
}

fn capitalised(sentence: &str) -> String {
    let mut characters = sentence.chars();
    match characters.next() {
        Some(first) => first.to_uppercase().chain(characters).collect(),
        None => String::new(),
    }
}

/// All rules in causal order, as a JSON array.
pub fn catalogue_json() -> Value {
    RULES
        .iter()
        .map(|rule| {
            json!({
                "name": rule.name,
                "code": rule.code,
                "family": rule.family(),
                "phase": rule.phase.name(),
                "severity": rule.severity.name(),
                "status": rule.status.name(),
                "since": rule.since,
                "summary": rule.summary,
                "explains": rule.explains,
                "references": rule.references(),
                "offers_command": rule.offers_command,
                "documentation": rule.documentation(),
            })
        })
        .collect()
}
