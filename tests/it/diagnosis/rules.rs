//! The rule book as a whole: which cause is named, what every rule must have, and what is printed of it.

use crate::support::situations::*;
use insta::{Settings, assert_snapshot};
use mlx_diagnose::evidence::{Evidence, FineTuneKind, FinishReason, Listing, StoppedEarly};
use mlx_diagnose::rules::{
    FAMILIES, Finding, Outcome, Phase, RULES, Rule, Severity, catalogue_json, diagnose, explain, find, pages,
};
use mlx_diagnose::thresholds::TABLE;
use rstest::rstest;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const HEADINGS: [&str; 5] = [
    "## What it finds",
    "## Why it matters",
    "## Evidence",
    "## How to fix",
    "## References",
];

pub(crate) fn snapshots() -> Settings {
    let mut settings = Settings::clone_current();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings
}

fn rule(name: &str) -> &'static Rule {
    find(name).expect("the rule exists")
}

fn judged(name: &str, evidence: &Evidence) -> Outcome {
    (rule(name).check)(evidence)
}

fn finding(name: &str, evidence: &Evidence) -> Finding {
    match judged(name, evidence) {
        Outcome::Found(finding) => *finding,
        other => panic!("{name} says {other:?}"),
    }
}

/// Names and severities of the roots, then of what they explain with the explanation; notes left out.
fn causes(evidence: &Evidence) -> Vec<String> {
    diagnose(evidence)
        .causes
        .iter()
        .filter(|cause| cause.severity > Severity::Info)
        .map(|cause| match cause.explained_by {
            None => format!("{} {}", cause.severity.name(), cause.rule.name),
            Some(root) => format!("{} {} < {root}", cause.severity.name(), cause.rule.name),
        })
        .collect()
}

/// Adapters that changed every layer by so much of its own size, at a high learning rate, and answers of nothing.
fn spam_after_updates_of(relative: f64) -> Evidence {
    changed(|evidence| {
        evidence.settings.learning_rate = 0.1;
        for step in &mut training(evidence).steps {
            step.learning_rate = 0.1;
        }
        for update in &mut adapter(evidence).updates {
            update.relative = Some(relative);
        }
        generation(evidence).answers.iter_mut().for_each(spams);
    })
}

fn masked_batch() -> Evidence {
    changed(|evidence| {
        evidence.settings.max_sequence_length = 32;
        let data = data(evidence);
        data.rows_without_supervision = names(["row 03", "row 07"]);
        data.rows_truncated = names(["row 03", "row 07"]);
        let training = training(evidence);
        training.steps.truncate(2);
        training.steps[1].supervised_tokens = 0;
        training.steps[1].loss = None;
        training.steps[1].gradient_norm = None;
        training.stopped_early = Some(StoppedEarly {
            step: 2,
            reason: "the loss is NaN".to_owned(),
            found_in: names(["row 03", "row 07"]),
        });
        training.optimizer.step_count = 1;
        training.optimizer.learning_rate_sum = 1e-4;
        fit_after(evidence).supervised = None;
    })
}

fn captured_constants() -> Evidence {
    changed(|evidence| {
        change_nothing(evidence);
        let tensors = parameters(evidence).changes.iter().map(|tensor| tensor.name.clone());
        let starved: Listing = tensors.collect();
        let training = training(evidence);
        training.gradients.always_zero = starved;
        for step in &mut training.steps {
            step.gradient_norm = Some(0.0);
        }
    })
}

fn zero_learning_rate() -> Evidence {
    changed(|evidence| {
        change_nothing(evidence);
        evidence.settings.learning_rate = 0.0;
        let training = training(evidence);
        training.optimizer.learning_rate_sum = 0.0;
        for step in &mut training.steps {
            step.learning_rate = 0.0;
        }
    })
}

fn overflow() -> Evidence {
    changed(|evidence| {
        evidence.environment.dtype = String::from("float16");
        model(evidence).stored_dtype = String::from("float16");
        fit_before(evidence).activation_dtype = String::from("float16");
        let training = training(evidence);
        training.steps.truncate(3);
        training.steps[2].gradient_norm = None;
        training.gradients.non_finite = names(["model.layers.1.self_attn.q_proj.lora_b"]);
        training.optimizer.step_count = 2;
        training.stopped_early = Some(StoppedEarly {
            step: 3,
            reason: "a gradient is infinite".to_owned(),
            found_in: names(["model.layers.1.self_attn.q_proj.lora_b"]),
        });
    })
}

fn lost_tensors() -> Evidence {
    changed(|evidence| {
        let reload = reload(evidence);
        reload.loaded = 6;
        reload.lost = names([
            "model.layers.1.self_attn.v_proj.lora_a",
            "model.layers.1.self_attn.v_proj.lora_b",
        ]);
        reload.difference_from_live = Some(1.482);
    })
}

pub(crate) fn page(rule: &Rule, finding: &Finding) -> String {
    let severity = finding.lowered_severity.unwrap_or(rule.severity);
    let mut page = format!(
        "{}[{}] {}: {}\nfound: {}\nexpected: {}\n",
        severity.name(),
        rule.code,
        rule.name,
        finding.headline,
        finding.found,
        finding.expected
    );
    if let Some(location) = &finding.location {
        let _ = writeln!(page, "where: {location}");
    }
    for fix in &finding.fixes {
        let _ = writeln!(page, "hint: {}", fix.text);
        if let Some(command) = &fix.command {
            let _ = writeln!(page, "  {command}");
        }
    }
    for (key, value) in &finding.evidence {
        let _ = writeln!(page, "{key} = {value}");
    }
    page
}

/// One step, after which `lora_a` of a fresh adapter is what it was.
fn one_step(evidence: &mut Evidence) {
    let training = training(evidence);
    training.steps.truncate(1);
    training.optimizer.step_count = 1;
    training.optimizer.learning_rate_sum = training.steps[0].learning_rate;
    a_stays(evidence);
    let starved: Listing = parameters(evidence)
        .changes
        .iter()
        .filter(|tensor| tensor.changed_values == 0)
        .map(|tensor| tensor.name.clone())
        .collect();
    crate::support::situations::training(evidence).gradients.always_zero = starved;
}

fn a_stays(evidence: &mut Evidence) {
    let parameters = parameters(evidence);
    for tensor in &mut parameters.changes {
        if tensor.name.ends_with(".lora_a") {
            tensor.changed_values = 0;
            tensor.norm_after = Some(tensor.norm_before);
            tensor.norm_difference = Some(0.0);
        }
    }
    parameters.changed = 4;
    parameters.changed_trainable = 4;
}

/// Everything moved, by too little to see in the loss.
fn tiny_learning_rate(evidence: &mut Evidence) {
    evidence.settings.learning_rate = 1e-7;
    let training = training(evidence);
    for (step, loss) in training
        .steps
        .iter_mut()
        .zip([2.914, 3.022, 2.847, 2.991, 3.105, 2.926])
    {
        step.learning_rate = 1e-7;
        step.loss = Some(loss);
    }
    training.optimizer.learning_rate_sum = 6e-7;
    fit_after(evidence).supervised = fit_before(evidence).supervised;
    binding(evidence).trained_from_base = Some(0.0);
    binding(evidence).difference_from_base = Some(0.0);
    let before = baseline(evidence).answers.clone();
    generation(evidence).answers = before;
}

/// The data is known by heart, and the loss moves around nothing.
fn fitted(evidence: &mut Evidence) {
    evidence.settings.learning_rate = 1e-2;
    let training = training(evidence);
    for (step, loss) in training
        .steps
        .iter_mut()
        .zip([0.001, 0.003, 0.001, 0.004, 0.002, 0.003])
    {
        step.learning_rate = 1e-2;
        step.loss = Some(loss);
    }
    fit_before(evidence).supervised = Some(0.001);
    fit_after(evidence).supervised = Some(0.002);
}

type Change = fn(&mut Evidence);

#[test]
fn healthy_controls_have_no_error_and_no_warning() {
    let controls: [(&str, Change); 6] = [
        ("as it is", |_| {}),
        ("a tiny learning rate", tiny_learning_rate),
        ("fitted data", fitted),
        ("one step", one_step),
        ("rank 1 and scale 20", |evidence| {
            evidence.settings.rank = 1;
            adapter(evidence).ranks = vec![1];
        }),
        ("a base that never stops", |evidence| {
            baseline(evidence).answers.iter_mut().for_each(rambles);
            generation(evidence).answers.iter_mut().for_each(rambles);
        }),
    ];
    for (name, change) in controls {
        assert_eq!(causes(&changed(change)), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn no_rule_passes_when_nothing_was_measured() {
    let evidence = nothing_measured();
    for rule in RULES {
        assert!(
            matches!((rule.check)(&evidence), Outcome::NotApplicable(_)),
            "{}",
            rule.name
        );
    }
}

#[rstest]
#[case::stub_adapter(stub_adapter(), &[
    "error adapter-not-attached",
    "error base-not-frozen < adapter-not-attached",
    "error adapter-lost-on-reload < adapter-not-attached",
])]
#[case::frozen_optimizer(frozen_optimizer(), &[
    "error optimizer-not-stepping",
    "error parameters-unchanged < optimizer-not-stepping",
    "error adapter-never-moved < optimizer-not-stepping",
    "error loss-not-decreasing < optimizer-not-stepping",
])]
#[case::stale_generation(stale_generation(), &["error trained-state-not-used-in-generation"])]
#[case::eos_only_labels(eos_only_labels(), &[
    "error labels-only-end-of-text",
    "error end-of-text-spam < labels-only-end-of-text",
])]
#[case::learning_rate_one(learning_rate_one(), &[
    "error training-diverged",
    "error end-of-text-spam < training-diverged",
])]
#[case::learning_rate_one_with_bias_correction(
    {
        let mut evidence = learning_rate_one();
        evidence.settings.bias_correction = true;
        baseline(&mut evidence).answers.iter_mut().for_each(|answer| answer.finish = FinishReason::Stop);
        data(&mut evidence).supervised_tokens = 120;
        generation(&mut evidence).answers.iter_mut().for_each(loops);
        evidence
    },
    &[
        "error training-diverged",
        "error repetition-loop < training-diverged",
        "error never-stops < training-diverged",
    ]
)]
#[case::zero_learning_rate(zero_learning_rate(), &[
    "error parameters-unchanged",
    "error adapter-never-moved < parameters-unchanged",
    "error loss-not-decreasing < parameters-unchanged",
])]
#[case::captured_constants(captured_constants(), &[
    "error gradients-not-flowing",
    "error parameters-unchanged < gradients-not-flowing",
    "error adapter-never-moved < gradients-not-flowing",
    "error loss-not-decreasing < gradients-not-flowing",
])]
#[case::masked_batch(masked_batch(), &[
    "error rows-cut",
    "error nothing-supervised < rows-cut",
    "error loss-not-finite < rows-cut",
])]
#[case::divergence_that_ends_in_nan(
    {
        let mut evidence = learning_rate_one();
        let training = training(&mut evidence);
        training.steps.truncate(4);
        training.steps[3].loss = None;
        training.steps[3].gradient_norm = None;
        fit_after(&mut evidence).supervised = None;
        generation(&mut evidence).answers.clone_from(&healthy_answers());
        evidence
    },
    &["error training-diverged", "error loss-not-finite < training-diverged"]
)]
#[case::spam_that_the_base_does_too(
    changed(|evidence| {
        baseline(evidence).answers.iter_mut().for_each(spams);
        generation(evidence).answers.iter_mut().for_each(spams);
    }),
    &["warning end-of-text-spam"]
)]
#[case::spam_of_adapters_that_outweigh_their_layers(
    spam_after_updates_of(1.6),
    &["error update-too-large", "error end-of-text-spam < update-too-large"]
)]
#[case::spam_beside_large_updates(
    spam_after_updates_of(0.6),
    &["error end-of-text-spam", "warning update-too-large"]
)]
#[case::two_independent_faults(
    {
        let mut evidence = lost_tensors();
        generation(&mut evidence).answers.iter_mut().for_each(spams);
        evidence
    },
    &["error adapter-lost-on-reload", "error end-of-text-spam"]
)]
fn the_root_cause_comes_first_and_folds_its_symptoms(#[case] evidence: Evidence, #[case] expected: &[&str]) {
    assert_eq!(causes(&evidence), expected);
}

fn healthy_answers() -> Vec<mlx_diagnose::evidence::Answer> {
    generation(&mut healthy()).answers.clone()
}

#[test]
fn spam_of_the_base_is_not_explained_by_a_fault_of_training() {
    let mut evidence = learning_rate_one();
    baseline(&mut evidence).answers.iter_mut().for_each(spams);
    assert_eq!(
        causes(&evidence),
        ["error training-diverged", "warning end-of-text-spam"]
    );
}

#[test]
fn a_mild_fault_does_not_excuse_a_worse_one() {
    let mut evidence = overflow();
    data(&mut evidence).rows_without_supervision = names(["row 03"]);
    assert_eq!(
        causes(&evidence),
        ["error loss-not-finite", "warning nothing-supervised"]
    );
}

#[test]
fn a_note_explains_no_error() {
    let mut evidence = overflow();
    data(&mut evidence).rows = 1200;
    data(&mut evidence).rows_without_supervision = names(["row 03"]);
    let diagnosis = diagnose(&evidence);
    let found = |name: &str| diagnosis.causes.iter().find(|cause| cause.rule.name == name);
    let note = found("nothing-supervised").expect("the row is reported");
    let error = found("loss-not-finite").expect("the overflow is found");
    assert!(note.rule.explains.contains(&error.rule.name));
    assert_eq!((note.severity, error.severity), (Severity::Info, Severity::Error));
    assert_eq!(error.explained_by, None);
}

#[test]
fn one_new_loop_is_information_only() {
    let evidence = changed(|evidence| loops(&mut generation(evidence).answers[0]));
    assert_eq!(
        finding("repetition-loop", &evidence).lowered_severity,
        Some(Severity::Info)
    );
}

#[test]
fn updates_lost_to_rounding_are_not_blamed_on_the_optimizer() {
    let evidence = changed(|evidence| {
        change_nothing(evidence);
        evidence.environment.dtype = String::from("bfloat16");
        evidence.settings.fine_tune = FineTuneKind::Full;
        for step in &mut training(evidence).steps {
            step.learning_rate = 1e-6;
        }
        training(evidence).optimizer.learning_rate_sum = 6e-6;
        let parameters = parameters(evidence);
        parameters.adapter = None;
        // Norm weights of 1, where the next bfloat16 number is 1/128 away.
        for tensor in &mut parameters.changes {
            tensor.norm_before = (tensor.values as f64).sqrt();
        }
    });
    assert!(matches!(
        judged("optimizer-not-stepping", &evidence),
        Outcome::NotApplicable(_)
    ));
    assert_eq!(
        finding("parameters-unchanged", &evidence).headline,
        "no parameter changed, because the updates are too small for bfloat16"
    );
}

#[test]
fn an_adapter_that_was_never_loaded_is_found_without_stale_parameters() {
    let mut evidence = stale_generation();
    binding(&mut evidence).stale = none();
    assert_eq!(
        finding("trained-state-not-used-in-generation", &evidence).headline,
        "generation used the base's parameters, not the trained ones"
    );
}

#[test]
fn commands_quote_paths_with_spaces() {
    let mut evidence = learning_rate_one();
    evidence.settings.model = "/Volumes/My Disk/it's here".to_owned();
    let command = finding("training-diverged", &evidence).fixes[0].command.clone();
    let command = command.expect("a lower learning rate is a command");
    assert!(command.starts_with(r"diagnose --model '/Volumes/My Disk/it'\''s here' --data data/train.jsonl "));
}

#[test]
fn names_and_codes_are_unique() {
    let names: BTreeSet<&str> = RULES.iter().map(|rule| rule.name).collect();
    let codes: BTreeSet<&str> = RULES.iter().map(|rule| rule.code).collect();
    assert_eq!(names.len(), RULES.len());
    assert_eq!(codes.len(), RULES.len());
}

#[test]
fn a_code_is_a_known_family_and_three_digits() {
    for rule in RULES {
        let number = rule.code.strip_prefix(rule.family()).expect("the family comes first");
        assert!(
            FAMILIES.iter().any(|family| family.prefix == rule.family()),
            "{}",
            rule.code
        );
        assert_eq!(number.len(), 3, "{}", rule.code);
    }
}

/// Lines stay when their rule goes, so that its code cannot come back with another meaning.
#[test]
fn every_code_was_given_to_one_rule_for_good() {
    let listed = include_str!("../../../src/rules/codes.txt");
    let given: Vec<(&str, &str)> = listed.lines().filter_map(|line| line.split_once(' ')).collect();
    assert_eq!(given.len(), listed.lines().count(), "a line is a code and a name");
    let codes: BTreeSet<&str> = given.iter().map(|(code, _)| *code).collect();
    assert_eq!(codes.len(), given.len(), "a code is listed twice");
    assert!(listed.lines().is_sorted(), "src/rules/codes.txt is sorted by code");
    for (code, name) in &given {
        if let Some(rule) = RULES.iter().find(|rule| rule.code == *code) {
            assert_eq!(rule.name, *name, "{code} was given to another rule");
        }
    }
    let unlisted: Vec<String> = RULES
        .iter()
        .filter(|rule| !codes.contains(rule.code))
        .map(|rule| format!("{} {}", rule.code, rule.name))
        .collect();
    assert!(
        unlisted.is_empty(),
        "add to src/rules/codes.txt:\n{}",
        unlisted.join("\n")
    );
}

#[test]
fn no_rule_keeps_the_text_of_its_scaffold() {
    const MARK: &str = "REPLACE";
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let unfinished: Vec<String> = ["src/rules", "fixtures/rules"]
        .iter()
        .flat_map(|folder| std::fs::read_dir(root.join(folder)).expect("the folder is readable"))
        .map(|entry| entry.expect("the entry is readable").path())
        .filter(|path| std::fs::read_to_string(path).expect("a rule is text").contains(MARK))
        .map(|path| {
            path.strip_prefix(root)
                .expect("it is below the root")
                .display()
                .to_string()
        })
        .collect();
    assert!(unfinished.is_empty(), "{MARK} is left in {}", unfinished.join(" and "));
}

#[test]
fn the_pages_in_docs_are_those_of_the_rules() {
    const REFRESH: &str = "refresh the pages by `cargo run -- rules --docs docs/rules`";
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/rules");
    let pages = pages();
    for page in &pages {
        let stored = std::fs::read_to_string(folder.join(&page.file)).unwrap_or_default();
        assert!(stored == page.text, "docs/rules/{} is stale: {REFRESH}", page.file);
    }
    for entry in std::fs::read_dir(&folder).expect("the folder is readable") {
        let name = entry.expect("the entry is readable").file_name();
        assert!(
            pages.iter().any(|page| name.to_str() == Some(page.file.as_str())),
            "docs/rules/{} is the page of no rule: remove it",
            name.display()
        );
    }
}

#[test]
fn a_rule_is_in_the_file_of_its_name() {
    for rule in RULES {
        let stem = Path::new(rule.file).file_stem().and_then(|stem| stem.to_str());
        assert_eq!(stem, Some(rule.name.replace('-', "_").as_str()));
    }
}

#[test]
fn every_documentation_has_the_headings_in_order() {
    for rule in RULES {
        let documentation = rule.documentation();
        let found: Vec<&str> = documentation.lines().filter(|line| line.starts_with('#')).collect();
        assert_eq!(found, HEADINGS, "{}", rule.name);
        assert!(documentation.is_ascii(), "{}", rule.name);
        assert!(documentation.lines().all(|line| line.len() <= 120), "{}", rule.name);
        assert!(
            rule.references()
                .iter()
                .any(|address| address.starts_with("https://github.com/")),
            "{}",
            rule.name
        );
    }
}

#[test]
fn every_threshold_that_a_documentation_names_exists() {
    let known: BTreeSet<&str> = TABLE.iter().map(|threshold| threshold.name).collect();
    for rule in RULES {
        for span in rule.documentation().split('`').skip(1).step_by(2) {
            let is_constant = span.contains('_') && span.chars().all(|character| matches!(character, 'A'..='Z' | '_'));
            assert!(!is_constant || known.contains(span), "{} names {span}", rule.name);
        }
    }
}

#[test]
fn every_threshold_has_a_reason() {
    for threshold in TABLE {
        assert!(threshold.reason.trim().lines().count() > 0, "{}", threshold.name);
        assert!(threshold.reason.split_whitespace().count() > 8, "{}", threshold.name);
    }
}

#[test]
fn a_rule_explains_only_rules_that_come_after_it() {
    for (index, rule) in RULES.iter().enumerate() {
        for explained in rule.explains {
            let position = RULES.iter().position(|other| other.name == *explained);
            let position = position.unwrap_or_else(|| panic!("{} explains the unknown {explained}", rule.name));
            assert!(position > index, "{} comes before {}", explained, rule.name);
        }
    }
}

#[test]
fn summaries_are_lower_case_without_a_final_period() {
    for rule in RULES {
        let first = rule.summary.chars().next().expect("a summary has text");
        assert!(
            !first.is_uppercase() && !rule.summary.ends_with('.'),
            "{}",
            rule.summary
        );
    }
}

#[test]
fn no_rule_hides_a_threshold() {
    for rule in RULES {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("src/rules")
            .join(format!("{}.rs", rule.name.replace('-', "_")));
        let source = std::fs::read_to_string(&path).expect("the rule's file is readable");
        let code = source.split("\nfn check(").nth(1).expect("a rule has a check");
        for number in float_literals(code) {
            assert!(
                ["0.0", "1.0"].contains(&number.as_str()),
                "{number} in {}",
                path.display()
            );
        }
    }
}

/// Numbers with a decimal point or an exponent outside string literals.
fn float_literals(code: &str) -> Vec<String> {
    let outside_strings: String = code.split('"').step_by(2).collect::<Vec<_>>().join(" ");
    // A range ends one number and begins another.
    outside_strings
        .replace("..", " ")
        .split(|character: char| !(character.is_ascii_alphanumeric() || character == '.' || character == '_'))
        .filter(|word| word.starts_with(|first: char| first.is_ascii_digit()))
        .filter(|word| word.contains('.') || word.contains('e'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_float_literal_is_seen_by_the_search() {
    assert_eq!(float_literals("let x = 0.5 + f(1e-3, \"9.9\");"), ["0.5", "1e"]);
}

#[rstest]
#[case("training-diverged")]
#[case("OPT003")]
#[case("opt003")]
fn a_rule_is_explained_by_name_and_by_code(#[case] given: &str) {
    let page = explain(given).expect("the rule exists");
    snapshots().bind(|| assert_snapshot!("explain_training-diverged", page));
}

#[rstest]
#[case(
    "trainig-diverged",
    "there is no rule `trainig-diverged`\nhint: did you mean `training-diverged`?"
)]
#[case("OPT03", "there is no rule `OPT03`\nhint: did you mean `OPT003`?")]
#[case("zzz", "there is no rule `zzz`\nhint: `diagnose rules` lists all of them")]
fn an_unknown_rule_is_answered_with_a_suggestion(#[case] given: &str, #[case] message: &str) {
    assert_eq!(explain(given).expect_err("there is no such rule").to_string(), message);
}

#[test]
fn the_catalogue_is_an_array_of_all_rules() {
    let catalogue = catalogue_json();
    let entries = catalogue.as_array().expect("an array");
    assert_eq!(entries.len(), RULES.len());
    let rows: Vec<String> = entries
        .iter()
        .map(|entry| {
            format!(
                "{} {} {} {} {}",
                entry["code"].as_str().expect("a code"),
                entry["name"].as_str().expect("a name"),
                entry["phase"].as_str().expect("a phase"),
                entry["severity"].as_str().expect("a severity"),
                entry["summary"].as_str().expect("a summary")
            )
        })
        .collect();
    snapshots().bind(|| assert_snapshot!("rules", rows.join("\n")));
}

#[test]
fn the_catalogue_names_references_and_commands() {
    let catalogue = catalogue_json();
    let entry = catalogue
        .as_array()
        .into_iter()
        .flatten()
        .find(|entry| entry["name"] == "nothing-supervised");
    let entry = entry.expect("the rule is in the catalogue");
    assert_eq!(
        entry["references"],
        serde_json::json!([
            "https://github.com/ml-explore/mlx-lm/pull/1355",
            "https://github.com/huggingface/trl/issues/6668",
            "https://github.com/unslothai/unsloth/issues/2364",
        ])
    );
    assert_eq!(entry["offers_command"], true);
}

#[test]
fn phases_are_named_as_in_json() {
    for phase in Phase::ALL {
        assert_eq!(serde_json::json!(phase), phase.name());
    }
}
