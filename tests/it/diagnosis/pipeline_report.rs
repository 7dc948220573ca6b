//! The report for continuous integration: `JUnit`'s XML and the workflow commands of GitHub Actions.

use crate::diagnosis::rules::snapshots;
use crate::support::situations::*;
use insta::assert_snapshot;
use mlx_diagnose::evidence::{Evidence, Slot};
use mlx_diagnose::regression::compare;
use mlx_diagnose::report::{CheckOutcome, FailOn, PhaseStatus, Report, Verdict, exit_code, to_github, to_junit};
use mlx_diagnose::rules::{RULES, Severity};
use quick_junit::{NonSuccessKind, TestCaseStatus};
use rstest::rstest;

fn report(evidence: &Evidence) -> Report {
    Report::new(evidence, Vec::new())
}

/// The report as a program reads it that knows only the XML.
fn read_back(report: &Report) -> quick_junit::Report {
    let xml = to_junit(report).unwrap();
    quick_junit::Report::deserialize_from_str(&xml).unwrap_or_else(|error| panic!("{error}\n{xml}"))
}

fn case<'a>(document: &'a quick_junit::Report, name: &str) -> &'a quick_junit::TestCase {
    let mut cases = document.test_suites.iter().flat_map(|suite| &suite.test_cases);
    cases
        .find(|case| case.name.as_str() == name)
        .unwrap_or_else(|| panic!("no {name}"))
}

fn moved() -> Report {
    let now = changed(|evidence| data(evidence).largest_id += 1);
    report(&now).against(compare(&healthy(), &now).unwrap())
}

fn unexplained() -> Evidence {
    changed(|evidence| training(evidence).optimizer.step_count = 1)
}

#[rstest]
#[case::healthy("healthy", healthy())]
#[case::learning_rate_one("learning-rate-one", learning_rate_one())]
#[case::interrupted("interrupted-in-training", interrupted_in_training())]
fn a_pipeline_reads_what_was_found(#[case] name: &str, #[case] evidence: Evidence) {
    let report = report(&evidence);
    snapshots().bind(|| assert_snapshot!(format!("report_{name}.github"), to_github(&report)));
}

#[test]
fn a_test_report_reads_well() {
    let xml = to_junit(&report(&learning_rate_one())).unwrap();
    snapshots().bind(|| assert_snapshot!("report_learning-rate-one.junit", xml));
}

#[rstest]
#[case::healthy(report(&healthy()))]
#[case::stub_adapter(report(&stub_adapter()))]
#[case::frozen_optimizer(report(&frozen_optimizer()))]
#[case::stale_generation(report(&stale_generation()))]
#[case::eos_only_labels(report(&eos_only_labels()))]
#[case::learning_rate_one(report(&learning_rate_one()))]
#[case::interrupted(report(&interrupted_in_training()))]
#[case::unexplained(report(&unexplained()))]
#[case::moved(moved())]
fn the_test_report_counts_what_the_report_counts(#[case] report: Report) {
    let document = read_back(&report);
    let count = |wanted: fn(&TestCaseStatus) -> bool| {
        let cases = document.test_suites.iter().flat_map(|suite| &suite.test_cases);
        cases.filter(|case| wanted(&case.status)).count()
    };
    let held_against = report
        .findings
        .iter()
        .filter(|finding| finding.severity > Severity::Info);
    let is_unexplained = report.signals.iter().any(|signal| signal.explained_by.is_none());
    let has_moved = report
        .regression
        .as_ref()
        .is_some_and(|comparison| !comparison.moved.is_empty());
    let failures = held_against.count() + usize::from(is_unexplained) + usize::from(has_moved);
    let phases = |status| report.phases.iter().filter(|phase| phase.status == status).count();
    let errors = phases(PhaseStatus::Crashed) + usize::from(report.verdict == Verdict::Incomplete);
    let skipped = phases(PhaseStatus::Skipped) + report.count(CheckOutcome::NotApplicable);
    assert_eq!(
        (document.failures, document.errors, document.skipped),
        (failures, errors, skipped)
    );
    assert_eq!(
        count(|status| matches!(
            status,
            TestCaseStatus::NonSuccess {
                kind: NonSuccessKind::Failure,
                ..
            }
        )),
        failures
    );
    assert_eq!(
        count(|status| matches!(
            status,
            TestCaseStatus::NonSuccess {
                kind: NonSuccessKind::Error,
                ..
            }
        )),
        errors
    );
    assert_eq!(
        count(|status| matches!(status, TestCaseStatus::Skipped { .. })),
        skipped
    );
    let of_the_run = 2 + report.phases.len() + usize::from(report.regression.is_some());
    assert_eq!(document.tests, RULES.len() + of_the_run);
    // Who reads only the XML must not call a run good that the exit code calls bad.
    let is_bad = exit_code(&report, FailOn::Warning) != 0;
    assert_eq!(failures + errors > 0, is_bad);
}

#[test]
fn a_failed_test_has_the_code_the_headline_the_evidence_and_the_fixes() {
    let document = read_back(&report(&learning_rate_one()));
    let root = case(&document, "training-diverged");
    let TestCaseStatus::NonSuccess {
        message,
        ty,
        description,
        ..
    } = &root.status
    else {
        panic!("{root:?}");
    };
    assert_eq!(ty.as_deref(), Some("OPT003"));
    assert!(
        message.as_deref().unwrap().starts_with("training drove the loss"),
        "{message:?}"
    );
    let description = description.as_deref().unwrap();
    for words in [
        "found: ",
        "expected: ",
        "hint: lower the learning rate",
        "  diagnose",
        "more: diagnose explain",
    ] {
        assert!(description.contains(words), "{words} is not in {description}");
    }
    let folded = case(&document, "end-of-text-spam");
    let TestCaseStatus::NonSuccess { description, .. } = &folded.status else {
        panic!("{folded:?}");
    };
    assert!(
        description
            .as_deref()
            .unwrap()
            .contains("explained by: training-diverged")
    );
}

#[test]
fn a_note_is_a_test_that_passed_and_said_something() {
    let document = read_back(&report(&changed(|evidence| {
        loops(&mut generation(evidence).answers[0]);
    })));
    let note = case(&document, "repetition-loop");
    assert!(matches!(note.status, TestCaseStatus::Success { .. }), "{note:?}");
    assert!(
        note.system_out.as_deref().unwrap().starts_with("info[GEN002] "),
        "{note:?}"
    );
}

const HOSTILE: &str = "50%\u{1b}[31m,\u{202e}a:b\r\n::error::forged ##[error]x ]]> <b> \u{fffe}";

fn hostile() -> Evidence {
    changed(|evidence| {
        HOSTILE.clone_into(&mut evidence.settings.model);
        evidence.state = Slot::crashed(HOSTILE);
        data(evidence).rows_without_supervision = names([HOSTILE]);
        for answer in &mut generation(evidence).answers {
            HOSTILE.clone_into(&mut answer.text);
            HOSTILE.clone_into(&mut answer.prompt);
        }
    })
}

#[test]
fn no_text_can_forge_a_test_or_break_the_xml() {
    let xml = to_junit(&report(&hostile())).unwrap();
    roxmltree::Document::parse(&xml).unwrap_or_else(|error| panic!("{error}\n{xml}"));
    assert!(!xml.contains(['\u{1b}', '\u{202e}', '\u{fffe}']), "{xml}");
}

#[test]
fn no_text_can_forge_a_workflow_command() {
    let mut evidence = hostile();
    evidence.interrupted = Some(format!("##[group]y\n::warning::z {HOSTILE}"));
    let text = to_github(&report(&evidence));
    let (plain, commands) = text
        .trim_end()
        .split('\n')
        .collect::<Vec<_>>()
        .split_last()
        .map(|(last, rest)| {
            (
                (*last).to_owned(),
                rest.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>(),
            )
        })
        .unwrap();
    let levels = ["::error title=", "::warning title=", "::notice title="];
    for command in &commands {
        assert!(levels.iter().any(|level| command.starts_with(level)), "{command}");
        assert!(
            !command.contains("::error::forged") || command.starts_with("::"),
            "{command}"
        );
    }
    assert!(!plain.starts_with("::") && !plain.contains("##["), "{plain}");
    assert!(text.contains("50%25[31m,a:b%0A::error::forged"), "{text}");
    assert!(!text.contains(['\u{1b}', '\u{202e}', '\r']), "{text}");
}

#[rstest]
#[case::healthy(report(&healthy()), 0, 0)]
#[case::stub_adapter(report(&stub_adapter()), 1, 0)]
#[case::warning_only(report(&changed(|evidence| data(evidence).rows_without_supervision = names(["row 03"]))), 0, 1)]
#[case::unexplained(report(&unexplained()), 1, 0)]
#[case::interrupted(report(&interrupted_in_training()), 1, 0)]
#[case::moved(moved(), 1, 0)]
fn annotations_are_one_for_each_root(#[case] report: Report, #[case] errors: usize, #[case] warnings: usize) {
    let text = to_github(&report);
    let count = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
    assert_eq!((count("::error "), count("::warning ")), (errors, warnings), "{text}");
    let healthy = usize::from(report.verdict == Verdict::Healthy && errors == 0);
    assert_eq!(count("::notice "), report.notes().count() + healthy, "{text}");
    let last = text.lines().next_back().unwrap();
    assert_eq!(last, format!("{}: {}", report.verdict.name(), report.headline));
}

#[test]
fn what_a_root_explains_is_in_its_message() {
    let text = to_github(&report(&learning_rate_one()));
    let root = text
        .lines()
        .find(|line| line.starts_with("::error title=OPT003 training-diverged::"))
        .unwrap();
    assert!(root.contains("%0Aexplains: "), "{root}");
    assert!(root.contains("end-of-text-spam (EOS002)"), "{root}");
    assert!(!text.contains("title=EOS002"), "{text}");
}
