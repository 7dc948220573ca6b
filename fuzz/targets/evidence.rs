//! Saved evidence: what rules and reports make of it.

use std::path::Path;

use mlx_diagnose::evidence::Evidence;
use mlx_diagnose::regression::compare;
use mlx_diagnose::report::{
    FailOn, Report, exit_code, findings_to_text, to_github, to_html, to_json, to_junit, to_markdown, to_text,
};

use super::Verdict;

/// Columns of a terminal.
const WIDTH: usize = 80;

/// What `diagnose replay` does.
pub(super) fn replay(bytes: &[u8]) -> Verdict {
    let evidence = match Evidence::parse(Path::new("evidence.json"), &String::from_utf8_lossy(bytes)) {
        Ok(evidence) => evidence,
        refused => return Verdict::of(refused),
    };
    let report = Report::new(&evidence, Vec::new());
    let report = match compare(&evidence, &evidence) {
        Ok(comparison) => report.against(comparison),
        Err(_) => report,
    };
    to_text(&report, WIDTH);
    findings_to_text(&report, WIDTH);
    to_markdown(&report);
    to_html(&report);
    to_github(&report);
    exit_code(&report, FailOn::Warning);
    to_json(&report).expect("a report is JSON");
    Verdict::of(to_junit(&report))
}
