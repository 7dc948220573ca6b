//! The self-test: its design, its arithmetic on hand-made results, and a few real runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use mlx_diagnose::data::Dataset;
use mlx_diagnose::diagnosis::DiagnosisOptions;
use mlx_diagnose::evidence::Evidence;
use mlx_diagnose::faults::{Family, Fault, FaultError, Needs, NotBuilt, Operator, RunFiles};
use mlx_diagnose::interrupt::Interrupt;
use mlx_diagnose::model::{CausalModel, StopSet};
use mlx_diagnose::rules::{RULES, Severity};
use mlx_diagnose::selftest::{
    Acts, CONTROLS, Catalogue, CatalogueError, Cell, Ending, Expectation, Extent, HarmShown, MEASURES, MONITORS,
    Purpose, Rate, Record, Root, SelftestOptions, Summary, Times, Trial, Trialled, plan, selftest, to_markdown, to_svg,
    to_text,
};
use mlx_diagnose::train::{AdamWSettings, Optimizer};
use mlx_diagnose::workflow::Workflow;
use rstest::rstest;
use serde_json::Value;

struct LearningRate(f64);

impl Workflow for LearningRate {}

impl Fault for LearningRate {
    fn alter(&self, options: &mut DiagnosisOptions, _files: &RunFiles) -> Result<(), FaultError> {
        options.learning_rate = self.0;
        Ok(())
    }
}

struct Stale;

impl Fault for Stale {}

impl Workflow for Stale {
    fn model_for_generation(&self, _trained: &CausalModel, before: &CausalModel) -> CausalModel {
        before.clone()
    }
}

struct OnlyEnds;

impl Fault for OnlyEnds {}

impl Workflow for OnlyEnds {
    fn prepare(&self, mut dataset: Dataset, stop_set: &StopSet) -> Dataset {
        for example in &mut dataset.examples {
            for (token, supervised) in example.tokens.iter().zip(&mut example.supervised) {
                *supervised = *supervised && stop_set.contains(*token);
            }
        }
        dataset
    }
}

struct Panics;

impl Fault for Panics {}

impl Workflow for Panics {
    fn optimizer(&self, _settings: AdamWSettings) -> Box<dyn Optimizer> {
        panic!("no optimizer here")
    }
}

/// Sets the learning rate to zero, which changes nothing that can be cured by anything but another rate.
static RATE_ZERO: Operator = operator(
    "learning-rate-zero",
    Family::Optimizer,
    &[0.0],
    |rate| Box::new(LearningRate(rate)),
    Needs::Adapters,
);
static STALE: Operator = operator(
    "stale-generation",
    Family::Generation,
    &[1.0],
    |_| Box::new(Stale),
    Needs::Adapters,
);
static ONLY_ENDS: Operator = operator(
    "only-ends",
    Family::Mask,
    &[0.5, 1.0],
    |_| Box::new(OnlyEnds),
    Needs::DenseFiles,
);
static PANICS: Operator = operator("panics", Family::Memory, &[1.0], |_| Box::new(Panics), Needs::Adapters);
static HARMLESS: Operator = operator(
    "harmless",
    Family::Data,
    &[1.0],
    |_| Box::new(LearningRate(1e-4)),
    Needs::Adapters,
);

const fn operator(
    name: &'static str,
    family: Family,
    severities: &'static [f64],
    make: fn(f64) -> Box<dyn Fault>,
    needs: Needs,
) -> Operator {
    Operator {
        name,
        family,
        summary: "a fault of the tests",
        citation: "https://example.org",
        severities,
        make,
        needs,
    }
}

static OPERATORS: &[&Operator] = &[&RATE_ZERO, &STALE, &ONLY_ENDS, &PANICS];

static BENIGN: &[&Operator] = &[&HARMLESS];

static EXPECTED: &[Expectation] = &[
    expect("learning-rate-zero", &["parameters-unchanged"], Acts::OnInputs),
    expect(
        "stale-generation",
        &["trained-state-not-used-in-generation"],
        Acts::OnSteps,
    ),
    expect("only-ends", &["labels-only-end-of-text"], Acts::OnInputs),
    expect("panics", &["optimizer-not-stepping"], Acts::OnSteps),
];

const fn expect(operator: &'static str, names: &'static [&'static str], acts: Acts) -> Expectation {
    Expectation {
        operator,
        names,
        least: Severity::Warning,
        acts,
    }
}

static CATALOGUE: Catalogue = Catalogue {
    operators: OPERATORS,
    benign: BENIGN,
    expected: EXPECTED,
    controls: CONTROLS,
    not_built: &[NotBuilt {
        name: "wrong-packing",
        missing: "packed sequences",
    }],
};

#[test]
fn the_catalogue_of_the_program_is_whole() {
    let catalogue = Catalogue::built_in();
    assert_eq!(catalogue.check(), Ok(()));
    let names: BTreeSet<&str> = catalogue.controls.iter().map(|control| control.name).collect();
    assert_eq!(names.len(), catalogue.controls.len());
}

#[test]
fn every_expected_name_is_a_rule() {
    for expectation in Catalogue::built_in().expected {
        for name in expectation.names {
            assert!(
                RULES.iter().any(|rule| rule.name == *name),
                "{} expects {name}, which is no rule",
                expectation.operator
            );
        }
    }
}

#[test]
fn an_operator_that_nothing_is_expected_of_is_refused() {
    let catalogue = Catalogue {
        expected: &EXPECTED[1..],
        ..CATALOGUE
    };
    let error = catalogue.check().unwrap_err();
    assert_eq!(
        error,
        CatalogueError::Unmatched {
            name: "learning-rate-zero".to_owned()
        }
    );
}

#[test]
fn an_unknown_name_is_refused_with_the_nearest_one() {
    let error = CATALOGUE.check_names(&["stale-generatoin".to_owned()]).unwrap_err();
    assert!(
        error.to_string().contains("did you mean `stale-generation`?"),
        "{error}"
    );
}

fn full_plan() -> Vec<Trial> {
    plan(&CATALOGUE, Extent::Full, 0, &[])
}

#[test]
fn every_operator_is_tried_in_six_cells_spread_over_bases_packing_and_slots() {
    for operator in CATALOGUE.all() {
        let cells: BTreeSet<Cell> = full_plan()
            .iter()
            .filter(|trial| trial.is_reference() && trial.operator().is_some_and(|other| other.name == operator.name))
            .map(|trial| trial.cell)
            .collect();
        assert_eq!(cells.len(), 6, "{}", operator.name);
        let models: BTreeSet<_> = cells.iter().map(|cell| cell.model).collect();
        assert_eq!(models.len(), 3, "{}", operator.name);
        let slots: BTreeSet<_> = cells.iter().map(|cell| cell.slot).collect();
        assert!(slots.len() >= 4, "{}: {slots:?}", operator.name);
        let packed = cells.iter().filter(|cell| cell.packed).count();
        let expected = if operator.needs == Needs::DenseFiles { 0 } else { 3 };
        assert_eq!(packed, expected, "{}", operator.name);
    }
}

#[test]
fn healthy_runs_are_at_least_four_hundred_and_every_control_is_among_them() {
    let trials = full_plan();
    let mut runs: BTreeMap<&str, BTreeSet<Cell>> = BTreeMap::new();
    for trial in &trials {
        if let Purpose::Control(control) = trial.purpose {
            assert!(
                runs.entry(control.name).or_default().insert(trial.cell),
                "{}",
                trial.name()
            );
        }
    }
    let total: usize = runs.values().map(BTreeSet::len).sum();
    assert!(total >= 400, "{total}");
    for control in CONTROLS {
        assert!(runs[control.name].len() >= 6, "{}", control.name);
    }
    assert_eq!(runs["ordinary"].len(), Cell::all().len());
}

#[test]
fn a_quick_plan_has_every_operator_once_and_every_healthy_control() {
    let trials = plan(&CATALOGUE, Extent::Quick, 0, &[]);
    let healthy = |trial: &&Trial| matches!(trial.purpose, Purpose::Control(_));
    assert_eq!(trials.iter().filter(healthy).count(), CONTROLS.len());
    let slots: BTreeSet<usize> = trials.iter().map(|trial| trial.cell.slot).collect();
    assert_eq!(slots.len(), mlx_diagnose::selftest::SLOTS);
    let names: Vec<&str> = trials
        .iter()
        .filter_map(Trial::operator)
        .map(|operator| operator.name)
        .collect();
    assert_eq!(names, CATALOGUE.all().map(|operator| operator.name).collect::<Vec<_>>());
}

#[test]
fn pairs_are_of_two_families_and_the_second_acts_on_inputs() {
    let mut pairs = 0;
    for trial in full_plan() {
        if let Purpose::Pair { first, on_inputs } = trial.purpose {
            pairs += 1;
            assert_ne!(first.family, on_inputs.family);
            assert_eq!(CATALOGUE.expectation(on_inputs).unwrap().acts, Acts::OnInputs);
            assert!(trial.cell.has(&trial.needs));
        }
    }
    assert_eq!(pairs, 4, "every operator but the harmless one is a first");
}

#[test]
fn a_seed_decides_the_plan() {
    let names = |seed| -> Vec<String> {
        plan(&CATALOGUE, Extent::Full, seed, &[])
            .iter()
            .map(Trial::name)
            .collect()
    };
    assert_eq!(names(3), names(3));
}

#[test]
fn milder_severities_are_tried_in_fewer_cells() {
    let at = |wanted: f64| {
        let is_wanted = |trial: &&Trial| matches!(trial.purpose, Purpose::Fault { operator, severity } if operator.name == "only-ends" && severity == wanted);
        full_plan().iter().filter(is_wanted).count()
    };
    assert_eq!((at(0.5), at(1.0)), (3, 6));
}

fn cell(index: usize) -> Cell {
    Cell::all()[index]
}

fn record(ending: Ending, roots: &[(&'static str, Severity)]) -> Record {
    Record {
        ending,
        roots: roots.iter().map(|&(name, severity)| Root { name, severity }).collect(),
        error: None,
        monitors: vec![None; MONITORS.len()],
        measured: [None; MEASURES.len()],
        cure: None,
        seconds: 1.0,
        probe_seconds: 0.1,
    }
}

fn trialled(purpose: Purpose, index: usize, record: Record) -> Trialled {
    Trialled {
        trial: Trial {
            cell: cell(index),
            purpose,
            needs: Vec::new(),
        },
        record,
    }
}

fn fault(operator: &'static Operator, index: usize, record: Record) -> Trialled {
    let severity = *operator.severities.last().unwrap();
    trialled(Purpose::Fault { operator, severity }, index, record)
}

fn summary(runs: &[Trialled]) -> Summary {
    let asked = mlx_diagnose::selftest::Asked {
        extent: Extent::Full,
        seed: 0,
        only: Vec::new(),
        planned: runs.len(),
    };
    Summary::new(&CATALOGUE, &asked, runs, Times::new(1.0, runs))
}

/// Six fault runs (found and named, found and misnamed, unknown, missed) and four healthy ones (one warning, one error).
fn hand_made() -> Vec<Trialled> {
    let findings = |name| record(Ending::Findings, &[(name, Severity::Error)]);
    vec![
        fault(&STALE, 0, findings("trained-state-not-used-in-generation")),
        fault(&STALE, 1, findings("trained-state-not-used-in-generation")),
        fault(&STALE, 2, findings("never-stops")),
        fault(&RATE_ZERO, 0, findings("parameters-unchanged")),
        fault(&RATE_ZERO, 1, record(Ending::Abnormal, &[])),
        fault(&RATE_ZERO, 2, record(Ending::Healthy, &[])),
        trialled(
            Purpose::Control(&CONTROLS[0]),
            0,
            record(Ending::Healthy, &[("nothing-supervised", Severity::Info)]),
        ),
        trialled(Purpose::Control(&CONTROLS[0]), 1, record(Ending::Healthy, &[])),
        trialled(
            Purpose::Control(&CONTROLS[1]),
            0,
            record(Ending::Findings, &[("never-stops", Severity::Warning)]),
        ),
        trialled(Purpose::Control(&CONTROLS[1]), 1, findings("loss-not-finite")),
    ]
}

#[test]
fn sensitivity_naming_and_false_alarms_are_counted_by_run() {
    let summary = summary(&hand_made());
    assert_eq!(summary.faults.found, Rate::new(5, 6));
    assert_eq!(summary.faults.named, Rate::new(3, 6));
    assert_eq!(
        (summary.faults.operators_always_found, summary.faults.operators),
        (1, 2)
    );
    assert_eq!(summary.healthy.errors, Rate::new(1, 4));
    assert_eq!(summary.healthy.warnings, Rate::new(1, 4));
    assert_eq!(summary.methods[0].alarmed, Rate::new(2, 4));
    assert!(!summary.is_satisfactory());
}

#[test]
fn the_matrix_holds_every_run_once_in_the_column_of_what_was_named() {
    let matrix = summary(&hand_made()).matrix;
    assert_eq!(matrix.rows, ["learning-rate-zero", "stale-generation", "healthy"]);
    let count = |row: &str, column: &str| {
        let row = matrix.rows.iter().position(|name| *name == row).unwrap();
        let column = matrix.columns.iter().position(|name| *name == column).unwrap();
        matrix.counts[row][column]
    };
    assert_eq!(count("stale-generation", "trained-state-not-used-in-generation"), 2);
    assert_eq!(count("stale-generation", "never-stops"), 1);
    assert_eq!(count("learning-rate-zero", "unknown"), 1);
    assert_eq!(count("learning-rate-zero", "healthy"), 1);
    assert_eq!(count("healthy", "healthy"), 2);
    assert_eq!(count("healthy", "loss-not-finite"), 1);
    assert_eq!(matrix.counts.iter().flatten().sum::<usize>(), hand_made().len());
}

#[test]
fn runs_that_went_wrong_are_listed() {
    let wrong: Vec<String> = summary(&hand_made()).wrong.into_iter().map(|run| run.run).collect();
    assert_eq!(
        wrong,
        [
            "stale-generation at 1 in qwen3-dense-0",
            "learning-rate-zero at 0 in qwen2-dense-0",
            "learning-rate-zero at 0 in qwen3-dense-0",
            "rank-1 in llama-dense-0",
            "rank-1 in qwen2-dense-0",
        ]
    );
}

#[test]
fn a_fault_of_which_only_a_note_is_expected_is_found_by_the_note() {
    static NOTED: &[Expectation] = &[Expectation {
        operator: "stale-generation",
        names: &["never-stops"],
        least: Severity::Info,
        acts: Acts::OnSteps,
    }];
    let catalogue = Catalogue {
        expected: NOTED,
        ..CATALOGUE
    };
    let asked = mlx_diagnose::selftest::Asked {
        extent: Extent::Full,
        seed: 0,
        only: Vec::new(),
        planned: 2,
    };
    let noted = record(
        Ending::Healthy,
        &[("repetition-loop", Severity::Info), ("never-stops", Severity::Info)],
    );
    let runs = [
        fault(&STALE, 0, noted.clone()),
        fault(
            &STALE,
            1,
            record(Ending::Healthy, &[("repetition-loop", Severity::Info)]),
        ),
    ];
    let summary = Summary::new(&catalogue, &asked, &runs, Times::new(1.0, &runs));
    assert_eq!(
        (summary.faults.found, summary.faults.named),
        (Rate::new(1, 2), Rate::new(1, 2))
    );
}

#[test]
fn a_crash_is_neither_found_nor_lost() {
    let mut crashed = record(Ending::Crashed, &[]);
    crashed.error = Some("out of range".to_owned());
    let summary = summary(&[fault(&STALE, 0, crashed)]);
    assert_eq!(summary.faults.found, Rate::new(0, 1));
    assert_eq!(summary.wrong[0].error.as_deref(), Some("out of range"));
    assert!(!summary.is_satisfactory());
}

#[test]
fn a_benign_mutant_counts_for_specificity_alone() {
    let alarmed = record(Ending::Findings, &[("never-stops", Severity::Warning)]);
    let summary = summary(&[
        fault(&HARMLESS, 0, record(Ending::Healthy, &[])),
        fault(&HARMLESS, 1, alarmed),
    ]);
    assert_eq!(summary.faults.found, Rate::new(0, 0));
    assert_eq!(summary.healthy.benign_mutants_alarmed, Rate::new(1, 2));
}

#[test]
fn the_smallest_severity_found_is_below_no_missed_one() {
    let at = |severity: f64, index: usize, ending: Ending| {
        let roots: &[_] = if ending == Ending::Findings {
            &[("labels-only-end-of-text", Severity::Error)]
        } else {
            &[]
        };
        trialled(
            Purpose::Fault {
                operator: &ONLY_ENDS,
                severity,
            },
            index,
            record(ending, roots),
        )
    };
    let found = summary(&[at(0.5, 0, Ending::Findings), at(1.0, 1, Ending::Findings)]);
    assert_eq!(found.operators[0].smallest_found, Some(0.5));
    let missed = summary(&[at(0.5, 0, Ending::Healthy), at(1.0, 1, Ending::Findings)]);
    assert_eq!(missed.operators[0].smallest_found, Some(1.0));
    let never = summary(&[at(0.5, 0, Ending::Findings), at(1.0, 1, Ending::Healthy)]);
    assert_eq!(never.operators[0].smallest_found, None);
}

#[test]
fn harm_compares_longer_runs_with_the_fault_and_without_it() {
    let longer = |operator: Option<&'static Operator>, index: usize, loss: f64| {
        let mut record = record(Ending::Healthy, &[]);
        record.measured[0] = Some(loss);
        trialled(Purpose::Harm(operator), index, record)
    };
    let mut runs = vec![fault(&STALE, 0, record(Ending::Healthy, &[]))];
    for index in 0..6 {
        runs.push(longer(None, index, 1.0));
        runs.push(longer(Some(&STALE), index, 1.5 + index as f64));
    }
    let HarmShown::Shown(harm) = &summary(&runs).operators[0].harm else {
        panic!("no harm was shown");
    };
    assert_eq!((harm.pairs, harm.difference), (6, Some(3.0)));
}

/// The evidence of a healthy run with changes.
fn changed(change: impl FnOnce(&mut Value)) -> Evidence {
    let mut value: Value = serde_json::from_str(include_str!("../../../fixtures/evidence/healthy.json")).unwrap();
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

fn says(monitor: &str, evidence: &Evidence) -> Option<bool> {
    let monitor = MONITORS.iter().find(|known| known.name.trim() == monitor).unwrap();
    (monitor.alarms)(evidence)
}

#[test]
fn the_monitors_judge_a_healthy_run() {
    let healthy = changed(|_| ());
    assert_eq!(says("loss only", &healthy), Some(false));
    assert_eq!(says("PEFT, one tensor", &healthy), Some(false));
    assert_eq!(says("VanishingGradient", &healthy), Some(false));
    assert_eq!(says("ExplodingTensor", &healthy), Some(false));
    // Frozen weights do not change, and `lora_b` starts at zero.
    assert_eq!(says("UnchangedTensor", &healthy), Some(true));
    assert_eq!(says("WeightUpdateRatio", &healthy), Some(true));
    assert_eq!(says("SageMaker, any default rule", &healthy), Some(true));
}

#[rstest]
#[case::a_loss_that_is_not_finite("loss only", "/training/ran/steps/2/loss", Value::Null)]
#[case::a_gradient_that_is_not_finite("ExplodingTensor", "/training/ran/steps/2/gradient_norm", Value::Null)]
#[case::a_gradient_that_vanishes("VanishingGradient", "/training/ran/steps/2/gradient_norm", Value::from(1e-9))]
fn a_monitor_alarms_on_its_own_fault(#[case] monitor: &str, #[case] pointer: &str, #[case] value: Value) {
    let evidence = changed(|evidence| *evidence.pointer_mut(pointer).unwrap() = value);
    assert_eq!(says(monitor, &evidence), Some(true));
}

#[test]
fn the_one_tensor_check_sees_a_tensor_that_stayed() {
    let evidence = changed(|evidence| {
        let first = evidence.pointer_mut("/parameters/ran/changes/0").unwrap();
        first["norm_difference"] = Value::from(0.0);
    });
    assert_eq!(says("PEFT, one tensor", &evidence), Some(true));
}

#[test]
fn a_loss_that_rises_alarms_the_loss_only_monitor() {
    let evidence = changed(|evidence| {
        let steps = evidence
            .pointer_mut("/training/ran/steps")
            .unwrap()
            .as_array_mut()
            .unwrap();
        for (index, step) in steps.iter_mut().enumerate() {
            step["loss"] = Value::from(1.0 + index as f64);
        }
    });
    assert_eq!(says("loss only", &evidence), Some(true));
}

#[test]
fn ten_steps_are_too_few_for_sagemakers_rule_on_the_loss() {
    let losses = |count: usize| {
        changed(|evidence| {
            let steps = evidence
                .pointer_mut("/training/ran/steps")
                .unwrap()
                .as_array_mut()
                .unwrap();
            let step = steps[0].clone();
            *steps = vec![step; count];
        })
    };
    assert_eq!(says("LossNotDecreasing", &losses(10)), None);
    assert_eq!(says("LossNotDecreasing", &losses(11)), Some(true));
}

fn options(only: &[&str]) -> SelftestOptions {
    SelftestOptions {
        extent: Extent::Quick,
        seed: 0,
        only: only.iter().map(ToString::to_string).collect(),
        program: PathBuf::from(env!("CARGO_BIN_EXE_diagnose")),
        out: None,
    }
}

fn real(options: &SelftestOptions) -> Summary {
    selftest(&CATALOGUE, options, &Interrupt::default(), &mut |_, _, _| ()).unwrap()
}

#[test]
fn real_runs_name_their_faults_and_two_with_one_seed_are_equal_apart_from_times() {
    let folder = tempfile::tempdir().unwrap();
    let names = [
        "learning-rate-zero",
        "stale-generation",
        "only-ends",
        "panics",
        "harmless",
        "ordinary",
    ];
    let json = |out: &str| -> Value {
        let options = SelftestOptions {
            out: Some(folder.path().join(out)),
            ..options(&names)
        };
        let summary = real(&options);
        assert!(summary.is_complete());
        let text = fs::read_to_string(folder.path().join(out).join("selftest.json")).unwrap();
        let mut json: Value = serde_json::from_str(&text).unwrap();
        json.as_object_mut().unwrap().remove("times").unwrap();
        json
    };
    let first = json("first");
    assert_eq!(first, json("second"));
    assert_eq!(first["faults"]["found"]["count"], 3, "{first:#}");
    assert_eq!(first["faults"]["named"]["count"], 3, "{first:#}");
    assert_eq!(
        first["cures"]["by_fix"]["count"], 1,
        "a learning rate of zero has a fix"
    );
    assert_eq!(first["healthy"]["errors"]["count"], 0);
    assert_eq!(first["healthy"]["benign_mutants_alarmed"]["count"], 0);
    let wrong: Vec<&Value> = first["wrong"].as_array().unwrap().iter().collect();
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    assert_eq!(wrong[0]["ending"], "crashed");
    assert_eq!(wrong[0]["error"], "no optimizer here");
    for file in ["selftest.md", "matrix.svg"] {
        assert!(folder.path().join("first").join(file).is_file(), "{file}");
    }
}

#[test]
fn a_self_test_that_is_stopped_sums_up_what_was_done() {
    let interrupt = Interrupt::default();
    let mut stop = |done: usize, _planned: usize, _name: &str| {
        if done == 1 {
            interrupt.request();
        }
    };
    let summary = selftest(
        &CATALOGUE,
        &options(&["stale-generation", "ordinary"]),
        &interrupt,
        &mut stop,
    )
    .unwrap();
    assert!(!summary.is_complete());
    assert_eq!(summary.done, 1);
    assert!(to_text(&summary).contains("INCOMPLETE: stopped after 1 of"));
    assert!(to_markdown(&summary, "matrix.svg").contains("**Incomplete**"));
}

#[test]
fn the_reports_show_what_was_found() {
    let summary = summary(&hand_made());
    let text = to_text(&summary);
    assert!(
        text.contains("faults found                     5/6  83.3% [43.6, 97.0]"),
        "{text}"
    );
    assert!(text.contains("never-stops 1"), "{text}");
    let page = to_markdown(&summary, "matrix.svg");
    assert!(page.contains("| faults found | 5/6  83.3% [43.6, 97.0] |"), "{page}");
    assert!(page.contains("`wrong-packing` | packed sequences"), "{page}");
    let svg = to_svg(&summary.matrix);
    assert!(svg.contains(">stale-generation</text>") && svg.ends_with("</svg>\n"));
}
