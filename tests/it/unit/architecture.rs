//! The sources keep to the dependency table in the documentation of the library.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::golden::root;

/// The module each row of the table is about, and what it may use.
fn table() -> BTreeMap<String, BTreeSet<String>> {
    let names = |cell: &str| {
        cell.split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    fs::read_to_string(root().join("src/lib.rs"))
        .unwrap()
        .lines()
        .filter_map(|line| line.strip_prefix("//! | `"))
        .map(|row| format!("`{row}"))
        .map(|row| {
            let cells: Vec<&str> = row.split('|').collect();
            (names(cells[0]).remove(0), names(cells[1]).into_iter().collect())
        })
        .collect()
}

/// The files below `path` in order.
pub fn sources(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let mut files: Vec<PathBuf> = fs::read_dir(path)
        .unwrap()
        .flat_map(|entry| sources(&entry.unwrap().path()))
        .collect();
    files.sort();
    files
}

/// The code of a file without its comments.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn module_path(name: &str) -> PathBuf {
    let folder = root().join("src").join(name);
    if folder.is_dir() {
        folder
    } else {
        folder.with_extension("rs")
    }
}

#[test]
fn modules_use_only_what_the_table_allows() {
    let table = table();
    assert!(table.len() > 15, "the table was not read: {table:?}");
    for (module, allowed) in &table {
        for file in sources(&module_path(module)) {
            for used in code(&file).split("crate::").skip(1) {
                let name: String = used
                    .chars()
                    .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
                    .collect();
                let known = table.contains_key(&name);
                assert!(
                    !known || name == *module || allowed.contains(&name),
                    "{} uses `{name}`, which the table in src/lib.rs does not allow",
                    file.display()
                );
            }
        }
    }
}

#[test]
fn every_module_is_in_the_table() {
    let table = table();
    for line in fs::read_to_string(root().join("src/lib.rs")).unwrap().lines() {
        if let Some(name) = line.strip_prefix("pub mod ") {
            assert!(table.contains_key(name.trim_end_matches(';')), "{line}");
        }
    }
}

#[test]
fn evidence_rules_and_reports_know_nothing_of_mlx() {
    for module in ["evidence", "rules", "regression", "report", "thresholds"] {
        for file in sources(&module_path(module)) {
            assert!(!code(&file).contains("mlx_rs"), "{}", file.display());
        }
    }
}

#[test]
fn rules_and_probes_never_see_a_fault_that_is_done_on_purpose() {
    for module in ["evidence", "rules", "probes", "report", "diagnosis"] {
        for file in sources(&module_path(module)) {
            for word in ["::faults", "::selftest"] {
                assert!(!code(&file).contains(word), "{} mentions {word}", file.display());
            }
        }
    }
}

#[test]
fn every_test_that_skips_itself_is_counted() {
    for file in sources(&root().join("tests")) {
        let own = file.ends_with("support/skip.rs") || file.ends_with("unit/architecture.rs");
        assert!(
            own || !code(&file).contains("eprintln!("),
            "{}: `support::skip::because` says why a test is skipped",
            file.display()
        );
    }
}
