//! A run against a stored one: what may move, what may not, and which runs are not compared at all.

use insta::assert_snapshot;
use mlx_diagnose::evidence::{Evidence, Slot};
use mlx_diagnose::regression::{CLASSES, Class, CompareError, Comparison, Tolerance, class_of, compare};
use mlx_diagnose::report::{FailOn, Report, exit_code, to_markdown, to_text};
use rstest::rstest;
use serde_json::{Value, json};

use crate::diagnosis::rules::snapshots;
use crate::support::situations::*;

/// The healthy run with other values at these JSON pointers.
fn with(changes: &[(&str, Value)]) -> Evidence {
    let mut value = serde_json::to_value(healthy()).unwrap();
    for (pointer, new) in changes {
        *value.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = new.clone();
    }
    serde_json::from_value(value).unwrap()
}

fn compared(now: &Evidence) -> Comparison {
    compare(&healthy(), now).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_run_that_is_repeated_to_the_bit_moves_nothing() {
    let comparison = compared(&healthy());
    assert!(comparison.compared > 300, "{}", comparison.compared);
    assert_eq!(comparison.identical, comparison.compared);
    assert_eq!((comparison.moved, comparison.environment), (Vec::new(), Vec::new()));
}

#[rstest]
#[case("/training/ran/steps/3/loss", json!(2.112), "losses")]
#[case("/fit/ran/after/ran/supervised", json!(null), "losses")]
#[case("/fit/ran/after/ran/end_log_odds", json!(2.9), "log-odds and ranks")]
#[case("/training/ran/steps/0/gradient_norm", json!(3.31), "gradient norms and slopes")]
#[case("/parameters/ran/changes/1/norm_after", json!(0.0321), "sizes of parameters and updates")]
#[case("/parameters/ran/changes/1/changed_values", json!(900), "values that changed")]
#[case("/parameters/ran/changed", json!(7), "counts, names and tokens")]
#[case("/parameters/ran/groups/0/name", json!("model.norm"), "counts, names and tokens")]
#[case("/parameters/ran/adapter/identity_difference", json!(0.01), "logit differences")]
#[case("/state/ran/generation/ran/trained_from_base", json!(3.3), "logit differences")]
#[case("/state/ran/divergence/ran/held_out", json!(0.02), "divergences")]
#[case("/training/ran/optimizer_check/ran/readings/0/error", json!(0.1), "errors of the optimizer's readings")]
#[case("/training/ran/optimizer_check/ran/epsilon", json!(1e-6), "fitted powers of ten")]
#[case("/training/ran/steps/5/learning_rate", json!(2e-4), "settings as the run used them")]
#[case("/generation/ran/answers/0/text", json!("Lima is."), "counts, names and tokens")]
#[case("/generation/ran/answers/0/tokens", json!(9), "counts, names and tokens")]
#[case("/generation/ran/answers/2/finish", json!("length"), "counts, names and tokens")]
#[case("/generation/ran/answers/2/voice", json!(0.3), "shares and scores")]
#[case("/data/ran/tokens", json!(577), "counts, names and tokens")]
fn every_kind_of_drift_is_named(#[case] pointer: &str, #[case] value: Value, #[case] class: &str) {
    let comparison = compared(&with(&[(pointer, value)]));
    let [movement] = comparison.moved.as_slice() else {
        panic!("{:?}", comparison.moved)
    };
    assert_eq!((movement.path.as_str(), movement.class), (pointer, class));
    assert_eq!(comparison.identical + 1, comparison.compared);
}

#[rstest]
#[case::another_order_of_summation("/training/ran/steps/5/loss", json!(1.6443))]
#[case::a_logit_that_was_exact("/state/ran/reload/ran/difference_from_live", json!(2e-6))]
#[case::one_update_that_vanished("/parameters/ran/changes/1/changed_values", json!(1023))]
#[case::the_neighbouring_power_of_ten("/training/ran/optimizer_check/ran/epsilon", json!(1e-9))]
fn rounding_moves_nothing(#[case] pointer: &str, #[case] value: Value) {
    let comparison = compared(&with(&[(pointer, value)]));
    assert_eq!(comparison.moved, []);
    assert_eq!(comparison.identical + 1, comparison.compared);
}

#[test]
fn times_memory_costs_and_paths_do_not_count() {
    let now = with(&[
        ("/training/ran/seconds", json!(99.0)),
        ("/training/ran/steps/0/seconds", json!(9.0)),
        ("/training/ran/steps/0/active_memory", json!(1)),
        ("/training/ran/peak_memory", json!(1)),
        ("/baseline/ran/tokens_per_second", json!(1.0)),
        ("/model/ran/load_seconds", json!(9.0)),
        ("/memory", json!({"skipped": {"reason": "the system does not tell"}})),
        ("/costs", json!([])),
        ("/settings/model", json!("/elsewhere/tiny-chat")),
        ("/settings/data", json!("/elsewhere/train.jsonl")),
    ]);
    let comparison = compared(&now);
    assert_eq!(comparison.moved, []);
    assert_eq!(comparison.identical, comparison.compared);
}

#[test]
fn sixteen_bits_have_more_room() {
    let moved = |dtype: &str| {
        let now = with(&[
            ("/environment/dtype", json!(dtype)),
            ("/training/ran/steps/3/loss", json!(2.112)),
        ]);
        compared(&now).moved.len()
    };
    assert_eq!((moved("float32"), moved("bfloat16")), (1, 0));
}

#[test]
fn other_libraries_are_named_and_not_held_against_the_run() {
    let comparison = compared(&with(&[("/environment/mlx_version", json!("0.33.0"))]));
    let [change] = comparison.environment.as_slice() else {
        panic!("{:?}", comparison.environment)
    };
    assert_eq!(
        (change.field, change.stored.as_str(), change.now.as_str()),
        ("mlx_version", "0.32.2", "0.33.0")
    );
    assert_eq!(comparison.moved, []);
}

#[test]
fn a_phase_that_fails_now_is_one_movement() {
    let now = changed(|evidence| evidence.state = Slot::crashed("the disk is full"));
    let comparison = compared(&now);
    let [movement] = comparison.moved.as_slice() else {
        panic!("{:?}", comparison.moved)
    };
    assert_eq!(movement.path, "/state");
    assert_eq!(
        (&movement.stored, &movement.now),
        (&json!("ran"), &json!("crashed: the disk is full"))
    );
}

#[test]
fn a_list_of_another_length_is_one_movement() {
    let comparison = compared(&changed(|evidence| training(evidence).steps.truncate(5)));
    let [movement] = comparison.moved.as_slice() else {
        panic!("{:?}", comparison.moved)
    };
    assert_eq!(movement.path, "/training/ran/steps");
    assert_eq!(
        (&movement.stored, &movement.now),
        (&json!("6 entries"), &json!("5 entries"))
    );
}

#[rstest]
#[case::settings(&[("/settings/rank", json!(16)), ("/settings/clip_norm", json!(null))], "clip_norm null, rank 16", "clip_norm 1.0, rank 8")]
#[case::the_model(&[("/model/ran/layers", json!(3))], "layers of the model 3", "layers of the model 2")]
#[case::the_data(&[("/data/ran/rows", json!(13))], "rows of the data 13", "rows of the data 12")]
#[case::the_prompts(&[("/baseline/ran/answers/0/prompt", json!("Hello?"))], "\"Hello?\"", "\"What is the capital of Peru?\"")]
fn another_run_is_refused_by_what_differs(
    #[case] changes: &[(&str, Value)],
    #[case] found: &str,
    #[case] expected: &str,
) {
    let error = compare(&healthy(), &with(changes)).expect_err("they are different runs");
    assert!(matches!(error, CompareError::OtherRun(_)));
    let lines: Vec<String> = error.to_string().lines().map(str::to_owned).collect();
    assert_eq!(lines[0], "the baseline was stored by another run");
    assert!(
        lines[1].starts_with("  found: ") && lines[1].contains(found),
        "{}",
        lines[1]
    );
    assert!(
        lines[2].starts_with("  expected: ") && lines[2].contains(expected),
        "{}",
        lines[2]
    );
    assert!(lines[3].starts_with("  hint: "), "{}", lines[3]);
}

/// Every path to a number with a fraction, list indices and the keys of slots that ran left out.
fn fractions<'a>(path: &mut Vec<&'a str>, value: &'a Value, found: &mut Vec<Vec<&'a str>>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                if key == "ran" {
                    fractions(path, value, found);
                } else {
                    path.push(key);
                    fractions(path, value, found);
                    path.pop();
                }
            }
        }
        Value::Array(entries) => entries.iter().for_each(|entry| fractions(path, entry, found)),
        Value::Number(number) if number.is_f64() => found.push(path.clone()),
        _ => {}
    }
}

#[test]
fn every_number_with_a_fraction_has_a_class() {
    let evidence = serde_json::to_value(healthy()).unwrap();
    let mut found = Vec::new();
    fractions(&mut Vec::new(), &evidence, &mut found);
    let mut without: Vec<String> = found
        .iter()
        // The settings are part of a run's identity.
        .filter(|path| path[0] != "settings" && class_of(path).tolerance == Tolerance::Exact)
        .map(|path| path.join("/"))
        .collect();
    without.sort();
    without.dedup();
    assert!(
        without.is_empty(),
        "add to CLASSES in src/regression/tolerance.rs: {}",
        without.join(", ")
    );
}

#[test]
fn every_class_has_a_reason() {
    for Class { name, reason, .. } in CLASSES {
        assert!(reason.split_whitespace().count() > 8, "{name}");
    }
}

/// As after an update of MLX that changed a training.
fn drifted() -> Report {
    let now = with(&[
        ("/environment/mlx_version", json!("0.33.0")),
        ("/training/ran/steps/3/loss", json!(2.312)),
        ("/parameters/ran/changed", json!(7)),
        (
            "/generation/ran/answers/3/text",
            json!("A leap year has 366 days, and comes every four years."),
        ),
    ]);
    Report::new(&now, Vec::new()).against(compared(&now))
}

#[test]
fn what_moved_reads_well() {
    colored::control::set_override(false);
    let report = drifted();
    let text = to_text(&report, 96);
    let markdown = to_markdown(&report);
    let part = |text: &str, title: &str, end: &str| -> String {
        let (_, after) = text.split_once(title).expect("the title is there");
        let (part, _) = after.split_once(end).expect("something follows");
        format!("{title}{part}\n")
    };
    let mut settings = snapshots();
    // The fixture grows with the evidence.
    settings.add_filter(r"of \d+ values", "of [COMPARED] values");
    settings.add_filter(r"\d+ equal to", "[IDENTICAL] equal to");
    settings.add_filter(r#""(compared|identical)": \d+"#, r#""$1": "[COUNT]""#);
    settings.bind(|| {
        assert_snapshot!("regression_moved.txt", part(&text, "Against the baseline\n", "\n\n"));
        assert_snapshot!(
            "regression_moved.md",
            part(&markdown, "## Against the baseline\n", "\n## ")
        );
        assert_snapshot!(
            "regression_moved.json",
            serde_json::to_string_pretty(&report.regression).unwrap()
        );
    });
}

#[rstest]
#[case(FailOn::Error, 1)]
#[case(FailOn::Warning, 1)]
#[case(FailOn::Never, 0)]
fn a_run_that_moved_fails_unless_nothing_may_fail(#[case] fail_on: FailOn, #[case] code: u8) {
    assert_eq!(exit_code(&drifted(), fail_on), code);
}
