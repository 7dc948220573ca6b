//! What a report says in each situation, in each format.

use crate::diagnosis::rules::snapshots;
use crate::support::situations::*;
use insta::assert_snapshot;
use mlx_diagnose::evidence::{Evidence, Slot};
use mlx_diagnose::report::{
    CheckOutcome, FailOn, Report, ReportedFinding, Verdict, exit_code, to_json, to_markdown, to_text,
};
use mlx_diagnose::rules::Severity;
use rstest::rstest;
use std::path::PathBuf;

fn report(evidence: &Evidence) -> Report {
    let outputs = [
        "out/report.html",
        "out/report.json",
        "out/report.md",
        "out/evidence.json",
    ]
    .map(PathBuf::from);
    Report::new(evidence, outputs.to_vec())
}

fn plain_text(report: &Report, width: usize) -> String {
    colored::control::set_override(false);
    to_text(report, width)
}

#[rstest]
#[case("healthy", healthy())]
#[case("stub-adapter", stub_adapter())]
#[case("frozen-optimizer", frozen_optimizer())]
#[case("stale-generation", stale_generation())]
#[case("eos-only-labels", eos_only_labels())]
#[case("learning-rate-one", learning_rate_one())]
#[case("interrupted-in-training", interrupted_in_training())]
#[case("cause-unknown", cause_unknown())]
#[case("notes", information_only())]
#[case("swapped-generator", swapped_generator())]
#[case("gradients-kept", gradients_kept())]
fn a_report_reads_well_in_every_format(#[case] name: &str, #[case] evidence: Evidence) {
    let report = report(&evidence);
    let json = to_json(&report).expect("a report is JSON");
    snapshots().bind(|| {
        assert_snapshot!(format!("report_{name}.txt"), plain_text(&report, 96));
        assert_snapshot!(format!("report_{name}.md"), to_markdown(&report));
        assert_snapshot!(format!("report_{name}.json"), json);
    });
}

/// The loss rose on the very batch it was trained on, by less than divergence, and nothing else is wrong.
fn cause_unknown() -> Evidence {
    changed(|evidence| {
        let training = training(evidence);
        for (step, loss) in training.steps.iter_mut().zip([2.9, 4.1, 3.9, 3.9, 3.7, 3.6]) {
            step.loss = Some(loss);
        }
        fit_after(evidence).supervised = Some(3.914);
    })
}

#[rstest]
#[case(healthy(), Verdict::Healthy, [0, 0, 0])]
#[case(stub_adapter(), Verdict::Findings, [1, 1, 0])]
#[case(cause_unknown(), Verdict::Abnormal, [1, 1, 0])]
#[case(interrupted_in_training(), Verdict::Incomplete, [2, 2, 2])]
#[case(warning_only(), Verdict::Findings, [0, 1, 0])]
#[case(information_only(), Verdict::Healthy, [0, 0, 0])]
fn verdict_and_exit_code_follow_the_worst_finding(
    #[case] evidence: Evidence,
    #[case] verdict: Verdict,
    #[case] exit_codes: [u8; 3],
) {
    let report = report(&evidence);
    assert_eq!(report.verdict, verdict);
    let found = [FailOn::Error, FailOn::Warning, FailOn::Never].map(|limit| exit_code(&report, limit));
    assert_eq!(found, exit_codes);
}

fn warning_only() -> Evidence {
    changed(|evidence| data(evidence).rows_without_supervision = names(["row 03"]))
}

fn information_only() -> Evidence {
    changed(|evidence| loops(&mut generation(evidence).answers[0]))
}

#[test]
fn a_note_is_told_apart_from_findings_and_counted_in_the_headline() {
    let report = report(&information_only());
    assert_eq!(report.roots().count(), 0);
    assert!(report.notes().any(|note| note.name == "repetition-loop"));
    assert_eq!(
        report.headline,
        format!(
            "{} checks passed, {} notes",
            report.count(CheckOutcome::Passed),
            report.notes().count()
        )
    );
    let text = plain_text(&report, 96);
    assert!(!text.contains("\nFindings\n"), "{text}");
    assert!(text.contains("\n  info[GEN002] repetition-loop: "), "{text}");
}

#[test]
fn a_note_that_an_error_explains_stays_with_it() {
    let evidence = {
        let mut evidence = learning_rate_one();
        for (index, answer) in generation(&mut evidence).answers.iter_mut().enumerate() {
            *answer = baseline(&mut healthy()).answers[index].clone();
        }
        loops(&mut generation(&mut evidence).answers[0]);
        evidence
    };
    let report = report(&evidence);
    let is_loop = |finding: &ReportedFinding| finding.name == "repetition-loop" && finding.severity == Severity::Info;
    assert!(report.explained_by("training-diverged").any(is_loop));
    assert!(!report.notes().any(is_loop));
}

#[test]
fn a_batch_larger_than_the_data_is_the_data() {
    let evidence = changed(|evidence| {
        evidence.settings.batch_size = 4;
        data(evidence).rows = 2;
    });
    let text = plain_text(&report(&evidence), 96);
    assert!(text.contains("; 6 steps of 2 rows, "), "{text}");
}

#[test]
fn costs_are_summed_and_compared_with_the_phases() {
    use mlx_diagnose::evidence::ProbeCost;
    let cost = |probe: &str, seconds| ProbeCost {
        probe: probe.to_owned(),
        seconds,
    };
    let evidence = changed(|evidence| evidence.costs = vec![cost("loss-check", 1.32), cost("fuse", 0.4)]);
    let report = report(&evidence);
    // The phases of the fixture take 2.6, 1.6, 0.8, 2.5 and 1.1 seconds.
    let share = report.costs.share.expect("the phases were timed");
    assert!((share - 1.72 / 8.6).abs() < 1e-12, "{share}");
    let text = plain_text(&report, 96);
    let line = "  probes       loss check 1.3 s, fuse 400 ms; 1.7 s in all, 20% of the run\n";
    assert!(text.contains(line), "{text}");
}

#[test]
fn an_incomplete_run_still_lists_what_it_found() {
    let mut evidence = eos_only_labels();
    evidence.state = Slot::crashed("the disk is full\nhint: free some space");
    let report = report(&evidence);
    assert_eq!(report.verdict, Verdict::Incomplete);
    assert_eq!(
        report.headline,
        "the state failed: the disk is full; found so far: labels-only-end-of-text"
    );
    assert_eq!(report.findings[0].name, "labels-only-end-of-text");
}

#[test]
fn a_run_that_measured_nothing_is_not_healthy() {
    let evidence = nothing_measured();
    assert_eq!(report(&evidence).verdict, Verdict::Incomplete);
}

#[rstest]
#[case("training-stopped-early", |evidence: &mut Evidence| {
    training(evidence).stopped_early = Some(mlx_diagnose::evidence::StoppedEarly {
        step: 6,
        reason: "the disk is full".to_owned(),
        found_in: none(),
    });
})]
#[case("optimizer-miscounted", |evidence: &mut Evidence| training(evidence).optimizer.step_count = 1)]
#[case("same-batch-loss-rose", |evidence: &mut Evidence| {
    fit_after(evidence).supervised = Some(3.6);
})]
#[case("tensors-appeared-or-vanished", |evidence: &mut Evidence| {
    parameters(evidence).appeared_or_vanished = names(["model.norm.weight"]);
})]
#[case("change-without-effect", |evidence: &mut Evidence| {
    binding(evidence).trained_from_base = Some(0.0);
    binding(evidence).difference_from_base = Some(0.0);
})]
#[case("answers-collapsed", |evidence: &mut Evidence| {
    for answer in &mut generation(evidence).answers {
        answer.text = " ".to_owned();
    }
})]
#[case("references-less-likely", |evidence: &mut Evidence| {
    for answer in &mut generation(evidence).answers {
        answer.reference_nll = Some(4.4);
    }
})]
#[case("evaluation-changed-parameters", |evidence: &mut Evidence| {
    let Slot::Ran(evaluations) = &mut state(evidence).evaluations else {
        panic!("the fixture has evaluations");
    };
    evaluations[0].changed = names(["model.layers.0.self_attn.q_proj.lora_b"]);
})]
fn an_abnormal_measurement_without_a_rule_is_never_healthy(#[case] name: &str, #[case] change: fn(&mut Evidence)) {
    let report = report(&changed(change));
    assert_eq!(report.verdict, Verdict::Abnormal);
    assert_eq!(
        report.signals.iter().map(|signal| signal.name).collect::<Vec<_>>(),
        [name]
    );
    assert!(report.headline.starts_with("cause unknown: "), "{}", report.headline);
}

#[test]
fn adapter_tensors_may_appear_after_the_snapshot() {
    let evidence = changed(|evidence| {
        parameters(evidence).appeared_or_vanished = adapter(evidence).tensors.clone();
    });
    assert_eq!(report(&evidence).verdict, Verdict::Healthy);
}

#[rstest]
#[case(healthy())]
#[case(stub_adapter())]
#[case(learning_rate_one())]
#[case(interrupted_in_training())]
fn text_stays_within_eighty_columns(#[case] evidence: Evidence) {
    let text = plain_text(&report(&evidence), 80);
    let longest = text.lines().max_by_key(|line| line.chars().count());
    let longest = longest.expect("a report has lines");
    assert!(longest.chars().count() <= 80, "{longest}");
}

#[test]
fn a_wrapped_command_is_the_command_when_pasted() {
    let report = report(&learning_rate_one());
    let command = report.findings[0].fixes[0]
        .command
        .clone()
        .expect("a lower learning rate is a command");
    let text = plain_text(&report, 80);
    let pasted = text
        .replace("\\\n", " ")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    assert!(pasted.contains(&command), "{command} is not in {pasted}");
}

#[test]
fn an_answer_cannot_steer_the_terminal() {
    let evidence = changed(|evidence| {
        generation(evidence).answers[0].text = String::from("\u{1b}[2JLima\u{7} is\r\nthe capital");
    });
    let text = plain_text(&report(&evidence), 96);
    assert!(text.contains("after        [2JLima is the capital\n"), "{text}");
}

#[test]
fn two_reports_on_the_same_evidence_are_equal() {
    let first = to_json(&report(&learning_rate_one())).expect("a report is JSON");
    let second = to_json(&report(&learning_rate_one())).expect("a report is JSON");
    assert_eq!(first, second);
}

#[test]
fn json_has_the_fields_that_programs_rely_on() {
    let json = serde_json::to_value(report(&learning_rate_one())).expect("a report is JSON");
    assert_eq!(json["schema_version"], 4);
    assert_eq!(json["verdict"], "findings");
    let phases = json["phases"].as_array().expect("phases");
    let names: Vec<&str> = phases.iter().filter_map(|phase| phase["name"].as_str()).collect();
    assert_eq!(names, ["baseline", "training", "parameters", "generation", "state"]);
    let findings = json["findings"].as_array().expect("findings");
    let entry_of = |name: &str| {
        findings
            .iter()
            .find(|finding| finding["name"] == name)
            .expect("the finding")
    };
    let (root, folded) = (&findings[0], entry_of("end-of-text-spam"));
    assert_eq!(
        (&root["name"], &root["root"]),
        (&"training-diverged".into(), &true.into())
    );
    assert_eq!(root["explained_by"], serde_json::Value::Null);
    assert_eq!(
        (&folded["name"], &folded["root"]),
        (&"end-of-text-spam".into(), &false.into())
    );
    assert_eq!(folded["explained_by"], "training-diverged");
}
