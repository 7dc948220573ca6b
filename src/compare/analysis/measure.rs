//! One measure of one format in one scenario, before it is compared.

use super::wording::counted;
use crate::compare::{Plan, RequestRecord, TestRecord, Unit};

/// Beginning of the groups of requests before the measured ones.
pub(in crate::compare) const WARM_UP: &str = "warm-up";
/// Group of the measured requests of a scenario that has one.
pub(super) const MEASURE: &str = "measure";
/// Beginning of the groups of a leak test.
pub(in crate::compare) const LEAK: &str = "leak-";
/// Beginning of the groups of requests at one time.
pub(super) const CONCURRENCY: &str = "concurrency-";
/// Beginning of the groups of a length of prompt.
pub(in crate::compare) const CONTEXT: &str = "context-";
/// Beginning of the groups of a first answer after loading.
pub(super) const FIRST_ANSWER: &str = "first-token-";
/// The scenario of long prompts.
const CONTEXT_STRESS: &str = "context-stress";

/// What a group is called in measures: the longest prompt by its length, as the shorter ones are, though it is what its scenario
/// measures in the main.
pub(in crate::compare) fn group_name(plan: &Plan, scenario: &str, group: &str) -> String {
    if scenario == CONTEXT_STRESS && group == MEASURE {
        format!("{CONTEXT}{}", plan.context_tokens)
    } else {
        group.to_owned()
    }
}

/// Values with what they are.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Measure {
    pub(super) name: String,
    pub(super) title: String,
    pub(super) unit: Unit,
    pub(super) more_is_better: Option<bool>,
    pub(super) values: Vec<f64>,
}

impl Measure {
    pub(super) fn new(
        name: impl Into<String>,
        title: impl Into<String>,
        unit: Unit,
        more_is_better: Option<bool>,
        values: Vec<f64>,
    ) -> Self {
        Self {
            name: name.into(),
            title: title.into(),
            unit,
            more_is_better,
            values,
        }
    }

    /// The same measure of one group: nothing is added for that of a scenario's only one.
    pub(super) fn of_group(mut self, group: &str) -> Self {
        if group != MEASURE {
            self.name = format!("{}-{group}", self.name);
            self.title = format!("{}, {}", self.title, group_title(group));
        }
        self
    }
}

/// What a group is called for people.
pub(in crate::compare) fn group_title(group: &str) -> String {
    let at_a_time = group.strip_prefix(CONCURRENCY).and_then(|count| count.parse().ok());
    if let Some(count) = at_a_time {
        format!("{} at a time", counted(count, "request"))
    } else if let Some(tokens) = group.strip_prefix(CONTEXT) {
        format!("prompts of {tokens} tokens")
    } else {
        match group {
            "first-token-cold" => "first answer, files read from disk".to_owned(),
            "first-token-warm" => "first answer, files in memory".to_owned(),
            "leak-cache-on" => "one after the other with the prompt cache on".to_owned(),
            "leak-cache-off" => "one after the other without prompt cache".to_owned(),
            _ => group.to_owned(),
        }
    }
}

/// The groups of measured requests, in order of appearance.
pub(super) fn groups<'a>(tests: &[&'a TestRecord]) -> Vec<&'a str> {
    let mut groups: Vec<&str> = Vec::new();
    for request in measured(tests) {
        if !groups.contains(&request.group.as_str()) {
            groups.push(&request.group);
        }
    }
    groups
}

/// Requests that are no warm-up.
pub(super) fn measured<'a>(tests: &[&'a TestRecord]) -> impl Iterator<Item = &'a RequestRecord> {
    let requests = tests.iter().flat_map(|test| &test.requests);
    requests.filter(|request| !request.group.starts_with(WARM_UP))
}
