//! `diagnose verify`: every check passes on a sound machine, and a fault of the arithmetic shows where it is.

use std::collections::BTreeSet;
use std::fs;
use std::process::Output;

use mlx_diagnose::evidence::RunEnvironment;
use mlx_diagnose::interrupt::Interrupt;
use mlx_diagnose::report::{EXIT_FAULT, EXIT_HEALTHY, EXIT_INCOMPLETE};
use mlx_diagnose::verification::{
    self, Category, CategoryRecord, CheckRecord, Deviation, Failure, Outcome, VERIFICATION_SCHEMA_VERSION,
    Verification, VerificationOptions, list, to_json, to_junit, to_text, verify,
};
use rstest::rstest;
use serde_json::Value;

use crate::command_line::program::{diagnose, stderr, stdout, text};
use crate::diagnosis::rules::snapshots;
use crate::integration::architecture_parity::GOLDEN_MODELS;
use crate::support::golden::root;
use crate::support::skip;

/// A verification of every kind of outcome, as another machine could have stored it.
fn made_up() -> Verification {
    let check = |name: &str, outcome| CheckRecord {
        name: name.to_owned(),
        seconds: 0.25,
        outcome,
    };
    let passed = Outcome::Passed {
        detail: "15 compared, furthest off: 67 x 129 x 93".to_owned(),
        deviation: Some(Deviation {
            error: 2.5e-7,
            allowed: 5e-6,
            measure: "of the largest value".to_owned(),
        }),
    };
    let failed = Outcome::Failed(Failure {
        headline: "softmaxes are wrong".to_owned(),
        found: vec![
            "logits within 8 of 0: 4.0e-3 off".to_owned(),
            "logits within 8 of 300: not a finite number".to_owned(),
        ],
        expected: Some("errors of at most 1e-5 of the largest value".to_owned()),
        hint: Some(
            "nothing that this device computes can be trusted: update the system, its drivers and MLX, or compute \
             elsewhere with --backend"
                .to_owned(),
        ),
    });
    let skipped = Outcome::Skipped {
        reason: "no GPU is used".to_owned(),
    };
    let not_here = Outcome::Skipped {
        reason: "this program's own operations are for CPUs of Linux, and MLX's are used here".to_owned(),
    };
    let crashed = Outcome::Crashed {
        error: "index out of bounds <&\u{1b}[31m>".to_owned(),
    };
    let arithmetic = vec![check("matrix products", passed), check("softmax", failed)];
    let device = vec![
        check("the GPU agrees with the processor", skipped),
        check("streams", crashed),
    ];
    let kernels = vec![check("norms", not_here.clone()), check("gates", not_here)];
    let environment = RunEnvironment {
        tool_version: "0.1.0".to_owned(),
        mlx_version: "0.32.2".to_owned(),
        platform: "linux x86_64".to_owned(),
        backend: "cpu".to_owned(),
        device: "CPU, 2 cores".to_owned(),
        dtype: "float32".to_owned(),
        packed: false,
        reasons: vec!["CPU: MLX finds no Metal or CUDA device".to_owned()],
    };
    Verification {
        schema_version: VERIFICATION_SCHEMA_VERSION,
        environment,
        interrupted: false,
        seconds: 1.0,
        categories: vec![
            CategoryRecord {
                category: Category::Device,
                checks: device,
            },
            CategoryRecord {
                category: Category::Arithmetic,
                checks: arithmetic,
            },
            CategoryRecord {
                category: Category::Kernels,
                checks: kernels,
            },
        ],
    }
}

/// A verification that the user ended before its first check, and what was told of its progress.
fn verify_nothing() -> (Verification, Vec<String>) {
    let interrupt = Interrupt::default();
    interrupt.request();
    let mut told = Vec::new();
    let mut progress = |done: usize, planned: usize, next: &str| told.push(format!("{done} of {planned}: {next}"));
    let verification = verify(&VerificationOptions::default(), &interrupt, &mut progress).unwrap();
    (verification, told)
}

/// `diagnose verify` on a CPU, printed as JSON.
fn verified(arguments: &[&str], environment: &[(&str, &str)]) -> (Output, Verification) {
    let output = diagnose()
        .args(["verify", "--backend", "cpu", "--format", "json"])
        .args(arguments)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let verification = serde_json::from_slice(&output.stdout);
    let verification = verification.unwrap_or_else(|error| panic!("{error}: {}", stderr(&output)));
    (output, verification)
}

/// `CATEGORY: CHECK` of everything that is wrong.
fn wrong(verification: &Verification) -> BTreeSet<String> {
    let checks = verification
        .categories
        .iter()
        .flat_map(|record| record.checks.iter().map(|check| (record.category, check)));
    checks
        .filter(|(_, check)| matches!(check.outcome, Outcome::Failed(_) | Outcome::Crashed { .. }))
        .map(|(category, check)| format!("{}: {}", category.name(), check.name))
        .collect()
}

#[test]
fn every_category_is_complete_and_passes_here() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("verified");
    let (output, verification) = verified(&["--out", text(&out)], &[]);
    assert_eq!(wrong(&verification), BTreeSet::new(), "{}", to_text(&verification));
    assert_eq!(output.status.code(), Some(EXIT_HEALTHY.into()));
    let categories: Vec<Category> = verification.categories.iter().map(|record| record.category).collect();
    assert_eq!(categories, Category::ALL);
    for record in &verification.categories {
        let tally = record.tally();
        assert!(tally.passed > tally.skipped, "{}: {tally:?}", record.category.name());
        let names: BTreeSet<&str> = record.checks.iter().map(|check| check.name.as_str()).collect();
        assert_eq!(names.len(), record.checks.len(), "two checks of one name");
    }
    let stored = fs::read_to_string(out.join("verification.json")).unwrap();
    assert_eq!(stored, stdout(&output));
    let report = fs::read_to_string(out.join("verification.xml")).unwrap();
    let report = roxmltree::Document::parse(&report).unwrap();
    let cases = report
        .descendants()
        .filter(|node| node.has_tag_name("testcase"))
        .count();
    let tally = verification.tally();
    assert_eq!(cases, tally.passed + tally.skipped);
}

#[test]
fn only_what_is_asked_for_is_verified() {
    let (_, verification) = verified(&["--only", "memory,device"], &[]);
    let categories: Vec<&str> = verification
        .categories
        .iter()
        .map(|record| record.category.name())
        .collect();
    assert_eq!(categories, ["device", "memory"]);
}

#[rstest]
#[case::an_unknown_category(&["--only", "arithmetics"], "did you mean `arithmetic`?")]
#[case::another_library(&["--backend", "torch"], "diagnose --cross-check torch")]
#[case::no_such_device(&["--backend", "metal"], "MLX finds no such device")]
fn what_cannot_be_verified_is_refused(#[case] arguments: &[&str], #[case] words: &str) {
    if arguments.contains(&"metal") && mlx_sys::backend::metal_is_available() {
        return;
    }
    let output = diagnose().arg("verify").args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(EXIT_INCOMPLETE.into()));
    assert!(stderr(&output).contains(words), "{}", stderr(&output));
    assert_eq!(stdout(&output), "");
}

#[test]
fn single_figures_have_the_place_that_they_had() {
    let output = diagnose().args(["verify", "logits", "--help"]).output().unwrap();
    assert!(stdout(&output).contains("--ids"), "{}", stdout(&output));
    let mixed = ["verify", "--only", "device", "logits", "--ids", "1"];
    let output = diagnose().args(mixed).output().unwrap();
    assert_eq!(output.status.code(), Some(EXIT_INCOMPLETE.into()));
}

#[test]
fn what_is_listed_is_what_is_made() {
    let (verification, _) = verify_nothing();
    let listed = list();
    let count = verification.tally().skipped;
    assert!(listed.contains(&format!("\n{count} checks; ")), "{listed}");
    for documented in ["README.md", "docs/verifying.md"] {
        let page = fs::read_to_string(root().join(documented)).unwrap();
        assert!(page.contains(&format!("{count} checks")), "{documented}");
    }
    for record in &verification.categories {
        assert!(listed.contains(record.category.subject()));
        for check in &record.checks {
            // A check with each model ends with its name.
            let own = check.name.rsplit_once(", ").map_or(check.name.as_str(), |(own, _)| own);
            let is_listed = [own, check.name.as_str()].iter().any(|name| listed.contains(name));
            assert!(is_listed, "{}", check.name);
        }
    }
}

#[test]
fn every_architecture_is_verified() {
    let names: Vec<&str> = verification::GOLDEN_MODELS.iter().map(|model| model.name).collect();
    assert_eq!(names, GOLDEN_MODELS);
}

#[test]
fn an_interrupted_verification_says_what_was_not_made() {
    let (verification, told) = verify_nothing();
    assert_eq!(told, Vec::<String>::new(), "progress of checks that were not made");
    assert!(verification.interrupted);
    let tally = verification.tally();
    assert_eq!((tally.passed, tally.failed), (0, 0));
    assert!(tally.skipped > 90);
    let text = to_text(&verification);
    assert!(text.contains("incomplete: interrupted"), "{text}");
    let skipped = "\nSkipped\n  interrupted before it began\n    device: all 5 checks\n    memory: all 4 checks\n";
    assert!(text.contains(skipped), "{text}");
}

#[test]
fn an_interrupted_verification_tells_what_failed_before() {
    colored::control::set_override(false);
    let verification = Verification {
        interrupted: true,
        ..made_up()
    };
    let text = to_text(&verification);
    assert!(
        text.contains("\nincomplete: interrupted before the last check; 2 checks failed\n"),
        "{text}"
    );
}

#[test]
fn the_element_type_is_explained_by_what_is_compared() {
    let (verification, _) = verify_nothing();
    let reasons = &verification.environment.reasons;
    let of_type: Vec<&String> = reasons.iter().filter(|reason| reason.starts_with("float32")).collect();
    assert_eq!(of_type, ["float32: what results are held against was computed in it"]);
}

#[test]
fn the_help_offers_no_backend_that_is_refused() {
    let output = diagnose().args(["verify", "--help"]).output().unwrap();
    assert!(stdout(&output).contains("metal, cuda or cpu"), "{}", stdout(&output));
    assert!(!stdout(&output).contains("torch"), "{}", stdout(&output));
}

#[test]
fn results_beside_other_files_replace_those_of_an_earlier_run_alone() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("notes.txt");
    fs::write(&kept, "mine").unwrap();
    for name in ["verification.json", "verification.xml"] {
        fs::write(folder.path().join(name), "of an earlier run").unwrap();
    }
    let (output, verification) = verified(&["--only", "device", "--out", text(folder.path())], &[]);
    assert_eq!(output.status.code(), Some(EXIT_HEALTHY.into()));
    let stored = fs::read_to_string(folder.path().join("verification.json")).unwrap();
    assert_eq!(serde_json::from_str::<Verification>(&stored).unwrap(), verification);
    assert!(
        fs::read_to_string(folder.path().join("verification.xml"))
            .unwrap()
            .starts_with("<?xml")
    );
    assert_eq!(fs::read_to_string(kept).unwrap(), "mine");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
}

#[test]
fn a_folder_that_cannot_be_written_is_told_before_anything_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a file");
    fs::write(&file, "").unwrap();
    let output = diagnose().args(["verify", "--out", text(&file)]).output().unwrap();
    assert_eq!(output.status.code(), Some(EXIT_INCOMPLETE.into()));
    assert_eq!(stdout(&output), "");
    let told = stderr(&output);
    assert!(told.starts_with("error: cannot write to the folder `"), "{told}");
}

#[test]
fn a_verification_is_shown_as_text() {
    colored::control::set_override(false);
    snapshots().bind(|| insta::assert_snapshot!("verification.txt", to_text(&made_up())));
}

#[test]
fn a_verification_is_stored_as_json_and_read_again() {
    let json = to_json(&made_up()).unwrap();
    snapshots().bind(|| insta::assert_snapshot!("verification.json", json));
    assert_eq!(serde_json::from_str::<Verification>(&json).unwrap(), made_up());
    let mut value: Value = serde_json::from_str(&json).unwrap();
    value["unknown"] = Value::Null;
    assert!(serde_json::from_value::<Verification>(value).is_err());
}

#[test]
fn a_verification_is_well_formed_junit() {
    let junit = to_junit(&made_up()).unwrap();
    let document = roxmltree::Document::parse(&junit).unwrap();
    let root = document.root_element();
    let counts = ["tests", "failures", "errors"].map(|name| root.attribute(name).unwrap());
    assert_eq!(counts, ["6", "1", "1"]);
    let failure = document
        .descendants()
        .find(|node| node.has_tag_name("failure"))
        .unwrap();
    assert_eq!(failure.attribute("message"), Some("softmaxes are wrong"));
    let body = failure.text().unwrap();
    assert!(
        body.contains("found: logits within 8 of 300: not a finite number"),
        "{body}"
    );
    assert!(body.contains("expected: errors of at most 1e-5"), "{body}");
    let skipped = document
        .descendants()
        .find(|node| node.has_tag_name("skipped"))
        .unwrap();
    assert_eq!(skipped.attribute("message"), Some("no GPU is used"));
}

/// Faults are put between MLX and its kernels by the dynamic linker, so that nothing of the program knows of them.
#[cfg(target_os = "linux")]
mod perturbed {
    use super::*;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    /// Compiles a library that puts itself between others; `None` without a C compiler.
    fn library(folder: &Path, source: &str, definition: Option<&str>) -> Option<PathBuf> {
        let built = folder.join("perturbed.so");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let mut command = Command::new(&compiler);
        command.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&built);
        command.args(definition.map(|name| format!("-D{name}")));
        command
            .arg(root().join("tests/it/integration/perturbed").join(source))
            .arg("-ldl");
        match command.status() {
            Ok(status) => {
                assert!(status.success());
                Some(built)
            }
            Err(error) => {
                skip::because(&format!("no C compiler: {compiler}: {error}"));
                None
            }
        }
    }

    /// What fails with a library that is loaded by the linker's variable `variable`.
    fn found_wrong(source: &str, definition: Option<&str>, variable: &str) -> Option<Verification> {
        let folder = tempfile::tempdir().unwrap();
        let library = library(folder.path(), source, definition)?;
        let (output, verification) = verified(&[], &[(variable, text(&library))]);
        assert_eq!(
            output.status.code(),
            Some(EXIT_FAULT.into()),
            "{}",
            to_text(&verification)
        );
        let report = to_text(&verification);
        assert!(
            report.contains("    found: ") && report.contains("    expected: "),
            "{report}"
        );
        Some(verification)
    }

    /// What is wrong in one category, without its name.
    fn wrong_in(category: Category, verification: &Verification) -> BTreeSet<String> {
        let prefix = format!("{}: ", category.name());
        let names = wrong(verification).into_iter();
        names
            .filter_map(|name| name.strip_prefix(&prefix).map(str::to_owned))
            .collect()
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    /// The lines of `found:` of one check.
    fn found(verification: &Verification, category: Category, name: &str) -> Vec<String> {
        let record = verification
            .categories
            .iter()
            .find(|record| record.category == category);
        let check = record.unwrap().checks.iter().find(|check| check.name == name).unwrap();
        match &check.outcome {
            Outcome::Failed(failure) => failure.found.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// What uses no product of MLX is right all the same.
    #[test]
    fn wrong_products_of_mlx_show_in_its_arithmetic() {
        let Some(verification) = found_wrong("products.c", None, "LD_AUDIT") else {
            return;
        };
        assert_eq!(
            wrong_in(Category::Arithmetic, &verification),
            names(&["attention", "matrix products", "matrix products in batches"])
        );
        for untouched in [
            Category::Device,
            Category::Memory,
            Category::Bits,
            Category::Kernels,
            Category::Checkpoints,
        ] {
            assert_eq!(wrong_in(untouched, &verification), names(&[]), "{}", untouched.name());
        }
        let goldens = wrong_in(Category::Goldens, &verification);
        for model in GOLDEN_MODELS {
            assert!(
                goldens.contains(&format!("gradients of transformers, {model}")),
                "{goldens:?}"
            );
        }
    }

    /// Of the passes of a layer only the one for the gradients of its weight turns its left side.
    #[test]
    fn wrong_products_of_the_backward_pass_leave_the_forward_pass_right() {
        let Some(verification) = found_wrong("products.c", Some("ONLY_TURNED_LEFT"), "LD_AUDIT") else {
            return;
        };
        assert_eq!(
            wrong_in(Category::Arithmetic, &verification),
            names(&["matrix products"])
        );
        let found = found(&verification, Category::Arithmetic, "matrix products");
        assert!(found.iter().all(|line| line.contains("left side turned")), "{found:?}");
        let goldens = wrong_in(Category::Goldens, &verification);
        let gradients = wrong_in(Category::Gradients, &verification);
        for model in GOLDEN_MODELS {
            for forward in ["logits", "loss", "greedy answer"] {
                assert!(
                    !goldens.contains(&format!("{forward} of transformers, {model}")),
                    "{goldens:?}"
                );
            }
            assert!(
                goldens.contains(&format!("gradients of transformers, {model}")),
                "{goldens:?}"
            );
            let differences = format!("finite differences of every parameter, {model}");
            assert!(gradients.contains(&differences), "{gradients:?}");
        }
    }

    /// A comparison with it is never true, and a largest number passes over it.
    #[test]
    fn products_that_are_no_numbers_pass_no_check_of_them() {
        let Some(verification) = found_wrong("products.c", Some("FACTOR=(0.0f/0.0f)"), "LD_AUDIT") else {
            return;
        };
        let goldens = wrong_in(Category::Goldens, &verification);
        for check in ["updates of MLX's optimizers", "logits of mlx-lm from packed weights"] {
            assert!(goldens.contains(check), "{goldens:?}");
        }
        let found = found(&verification, Category::Arithmetic, "matrix products in batches");
        assert_eq!(found, ["3 of 17 x 29 x 11: not a finite number"]);
    }

    /// This program's rotary positions ask the C library, and MLX's do not.
    #[test]
    fn a_wrong_sine_shows_in_the_kernel_that_uses_it_and_in_models_with_rotary_positions() {
        let Some(verification) = found_wrong("sine.c", None, "LD_PRELOAD") else {
            return;
        };
        assert_eq!(wrong_in(Category::Kernels, &verification), names(&["rotary positions"]));
        for untouched in [
            Category::Device,
            Category::Memory,
            Category::Arithmetic,
            Category::Checkpoints,
        ] {
            assert_eq!(wrong_in(untouched, &verification), names(&[]), "{}", untouched.name());
        }
        let goldens = wrong_in(Category::Goldens, &verification);
        for model in GOLDEN_MODELS {
            let is_rotary = model != "gpt2";
            let is_wrong = goldens.contains(&format!("logits of transformers, {model}"));
            assert_eq!(is_wrong, is_rotary, "{model}: {goldens:?}");
        }
    }

    /// Elsewhere the program would not use such a device at all.
    #[test]
    fn a_device_that_fails_when_the_program_starts_is_verified_all_the_same() {
        let Some(verification) = found_wrong("products.c", Some("FACTOR=1.5f"), "LD_AUDIT") else {
            return;
        };
        let device = "every device that is found computes";
        assert_eq!(wrong_in(Category::Device, &verification), names(&[device]));
        let found = found(&verification, Category::Device, device);
        assert_eq!(found, ["cpu: its product is 5.0e-1 off"]);
        assert!(wrong_in(Category::Arithmetic, &verification).contains("matrix products"));
        assert_eq!(wrong_in(Category::Kernels, &verification), names(&[]));
    }
}
