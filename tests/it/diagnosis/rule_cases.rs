//! The cases of each rule, from `fixtures/rules/NAME.json`.
//!
//! A case says what it changes in the evidence of a healthy run (`fixtures/evidence/healthy.json`): JSON pointers with the
//! values to put there, where `*` stands for every entry of a list. The first case that fires is the rule's snapshot; of
//! the others a case says which words must be in what is printed, where it is about more than that the rule fires.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use mlx_diagnose::evidence::Evidence;
use mlx_diagnose::rules::{Applicability, Finding, Outcome, RULES, Rule};
use serde::Deserialize;
use serde_json::Value;

use crate::diagnosis::rules::{page, snapshots};
use crate::support::golden::root;

/// One situation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// A sentence without a final period.
    #[serde(rename = "case")]
    situation: String,
    /// What differs from the healthy run, in order.
    set: serde_json::Map<String, Value>,
    /// Parts of the page of a case that fires.
    #[serde(default)]
    says: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    fires: Vec<Case>,
    silent: Vec<Case>,
    not_applicable: Vec<Case>,
}

impl Cases {
    fn all(&self) -> impl Iterator<Item = &Case> {
        self.fires.iter().chain(&self.silent).chain(&self.not_applicable)
    }
}

fn cases() -> BTreeMap<&'static str, (&'static Rule, Cases)> {
    RULES
        .iter()
        .map(|rule| {
            let path = root().join(format!("fixtures/rules/{}.json", rule.name));
            let shown = path.display();
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{shown}: {error}"));
            let cases = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{shown}: {error}"));
            (rule.name, (*rule, cases))
        })
        .collect()
}

/// Puts `value` wherever `pointer` leads; `*` leads to every entry of a list.
fn put(target: &mut Value, pointer: &str, value: &Value) -> Result<(), String> {
    let Some(rest) = pointer.strip_prefix('/') else {
        *target = value.clone();
        return Ok(());
    };
    let end = rest.find('/').unwrap_or(rest.len());
    let (key, rest) = rest.split_at(end);
    match target {
        Value::Array(entries) if key == "*" => {
            for entry in entries {
                put(entry, rest, value)?;
            }
            Ok(())
        }
        Value::Array(entries) => {
            let index: usize = key.parse().map_err(|_| format!("`{key}` is no index"))?;
            put(entries.get_mut(index).ok_or(format!("no entry {index}"))?, rest, value)
        }
        Value::Object(fields) => put(fields.get_mut(key).ok_or(format!("no field `{key}`"))?, rest, value),
        _ => Err(format!("`{key}` leads into a plain value")),
    }
}

fn evidence(rule: &str, case: &Case) -> Evidence {
    let mut value: Value = serde_json::from_str(include_str!("../../../fixtures/evidence/healthy.json")).unwrap();
    for (pointer, new) in &case.set {
        put(&mut value, pointer, new)
            .unwrap_or_else(|problem| panic!("{rule}, {}: {pointer}: {problem}", case.situation));
    }
    serde_json::from_value(value).unwrap_or_else(|error| panic!("{rule}, {}: {error}", case.situation))
}

fn finding(rule: &Rule, case: &Case) -> Finding {
    match (rule.check)(&evidence(rule.name, case)) {
        Outcome::Found(finding) => *finding,
        other => panic!("{}, {}: {other:?}", rule.name, case.situation),
    }
}

#[test]
fn every_rule_has_cases_and_every_file_of_cases_has_a_rule() {
    let files: BTreeSet<String> = fs::read_dir(root().join("fixtures/rules"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let rules: BTreeSet<String> = RULES.iter().map(|rule| format!("{}.json", rule.name)).collect();
    assert_eq!(files, rules, "fixtures/rules on the left, the rules on the right");
}

#[test]
fn every_rule_has_a_case_of_each_kind() {
    for (rule, cases) in cases().values() {
        assert!(!cases.fires.is_empty(), "{} has no case that fires", rule.name);
        assert!(!cases.silent.is_empty(), "{} has no silent case", rule.name);
        assert!(
            !cases.not_applicable.is_empty(),
            "{} has no case it cannot judge",
            rule.name
        );
    }
}

#[test]
fn every_case_is_said_once_without_a_final_period() {
    for (rule, cases) in cases().values() {
        let mut said = BTreeSet::new();
        for case in cases.all() {
            let sentence = case.situation.as_str();
            assert!(
                !sentence.is_empty() && !sentence.ends_with('.'),
                "{}: {sentence}",
                rule.name
            );
            assert!(said.insert(sentence), "{}: {sentence}", rule.name);
        }
    }
}

#[test]
fn a_rule_fires_where_its_cases_say() {
    for (rule, cases) in cases().values() {
        for case in &cases.fires {
            let finding = finding(rule, case);
            for text in [&finding.headline, &finding.found, &finding.expected] {
                assert!(!text.ends_with('.') && text.is_ascii(), "{}: {text}", rule.name);
            }
            assert!(
                !finding.headline.starts_with(char::is_uppercase),
                "{}",
                finding.headline
            );
            assert!(!finding.fixes.is_empty(), "{} offers no fix", rule.name);
            for fix in &finding.fixes {
                assert!(!fix.text.ends_with('.'), "{}", fix.text);
                assert_eq!(
                    fix.command.is_some(),
                    fix.applicability != Applicability::HasPlaceholders
                );
            }
        }
    }
}

#[test]
fn a_rule_says_of_a_case_what_the_case_says() {
    for (rule, cases) in cases().values() {
        for case in &cases.fires {
            let page = page(rule, &finding(rule, case));
            for words in &case.says {
                assert!(
                    page.contains(words),
                    "{}, {}: {words:?} is not in\n{page}",
                    rule.name,
                    case.situation
                );
            }
        }
        for case in cases.silent.iter().chain(&cases.not_applicable) {
            assert!(
                case.says.is_empty(),
                "{}, {}: it says nothing",
                rule.name,
                case.situation
            );
        }
    }
}

#[test]
fn a_rule_offers_a_command_in_some_case_when_it_says_so() {
    let wrong: Vec<&str> = cases()
        .values()
        .filter(|(rule, cases)| {
            let mut fixes = cases.fires.iter().flat_map(|case| finding(rule, case).fixes);
            fixes.any(|fix| fix.command.is_some()) != rule.offers_command
        })
        .map(|(rule, _)| rule.name)
        .collect();
    assert!(
        wrong.is_empty(),
        "`offers_command` says another thing than the cases of {}",
        wrong.join(", ")
    );
}

#[test]
fn a_rule_is_silent_where_its_cases_say() {
    for (rule, cases) in cases().values() {
        for case in &cases.silent {
            let outcome = (rule.check)(&evidence(rule.name, case));
            assert_eq!(outcome, Outcome::Pass, "{}, {}", rule.name, case.situation);
        }
    }
}

#[test]
fn a_rule_that_cannot_judge_says_why_where_its_cases_say() {
    for (rule, cases) in cases().values() {
        for case in &cases.not_applicable {
            match (rule.check)(&evidence(rule.name, case)) {
                Outcome::NotApplicable(reason) => {
                    assert!(!reason.is_empty() && !reason.ends_with('.'), "{}: {reason}", rule.name);
                }
                other => panic!("{}, {}: {other:?}", rule.name, case.situation),
            }
        }
    }
}

#[test]
fn the_first_case_that_fires_reads_well() {
    for (rule, cases) in cases().values() {
        let page = page(rule, &finding(rule, &cases.fires[0]));
        snapshots().bind(|| insta::assert_snapshot!(format!("rule_{}", rule.name), page));
    }
}

#[test]
fn a_pointer_reaches_every_entry_of_a_list() {
    let mut value = serde_json::json!({"steps": [{"loss": 1.0}, {"loss": 2.0}]});
    put(&mut value, "/steps/*/loss", &Value::from(0.5)).unwrap();
    put(&mut value, "/steps/1/loss", &Value::Null).unwrap();
    assert_eq!(value, serde_json::json!({"steps": [{"loss": 0.5}, {"loss": null}]}));
    assert!(put(&mut value, "/step/0", &Value::Null).is_err());
}
