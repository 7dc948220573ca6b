use std::cmp::Reverse;

use super::{Finding, Outcome, RULES, Rule, Severity};
use crate::evidence::Evidence;

/// What one rule said.
#[derive(Debug, Clone)]
pub struct Check {
    /// The rule.
    pub rule: &'static Rule,
    /// Its answer.
    pub outcome: Outcome,
}

/// A finding in its place among the others.
#[derive(Debug, Clone)]
pub struct Cause {
    /// The rule that found it.
    pub rule: &'static Rule,
    /// What was found.
    pub finding: Finding,
    /// The rule's severity, or the lower one that the finding gave itself.
    pub severity: Severity,
    /// Name of the root cause that explains it; `None` for a root.
    pub explained_by: Option<&'static str>,
}

impl Cause {
    /// Whether nothing else that was found explains it.
    pub fn is_root(&self) -> bool {
        self.explained_by.is_none()
    }
}

/// What all rules said about one run.
#[derive(Debug, Clone)]
pub struct Diagnosis {
    /// Every rule's answer, in causal order.
    pub checks: Vec<Check>,
    /// Roots first, the worst first and among equals in causal order; then what they explain, in the same order.
    pub causes: Vec<Cause>,
}

/// Asks every rule and lets the causes compete.
///
/// A finding is explained when another finding that is itself present names its rule, directly or through further
/// present findings, and is at least as bad: a mild fault does not excuse a worse one. [`RULES`] is in causal order: a
/// rule explains only rules after it, so no two explain each other.
pub fn diagnose(evidence: &Evidence) -> Diagnosis {
    let checks: Vec<Check> = RULES
        .iter()
        .map(|rule| Check {
            rule,
            outcome: (rule.check)(evidence),
        })
        .collect();
    let mut causes: Vec<Cause> = Vec::new();
    for check in &checks {
        let Outcome::Found(finding) = &check.outcome else {
            continue;
        };
        let severity = finding.lowered_severity.unwrap_or(check.rule.severity);
        let explanation = causes
            .iter()
            .filter(|cause| !finding.predates_training && cause.severity >= severity)
            .filter(|cause| cause.rule.explains.contains(&check.rule.name))
            .min_by_key(|cause| Reverse(cause.severity))
            .map(|cause| cause.explained_by.unwrap_or(cause.rule.name));
        causes.push(Cause {
            rule: check.rule,
            finding: (**finding).clone(),
            severity,
            explained_by: explanation,
        });
    }
    causes.sort_by_key(|cause| (!cause.is_root(), Reverse(cause.severity)));
    Diagnosis { checks, causes }
}
