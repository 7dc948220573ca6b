use anyhow::Result;

use super::output::note;
use super::progress;
use crate::diagnosis::{DiagnosisOptions, diagnose};
use crate::evidence::Evidence;
use crate::interrupt::Interrupt;
use crate::report::{Remedy, Report};
use crate::workflow::Workflow;

/// Folder within `--out` for the results of the run with the fix.
pub const FIXED_FOLDER: &str = "fixed";

/// Says that a report has no fix to apply, unless there is nothing to fix.
pub fn note_absence(report: &Report) {
    if report.findings.iter().any(|finding| finding.root) {
        note("no fix can be applied without your help; the findings say what to do");
    }
}

/// Runs again with the settings of a fix.
pub fn repeat(
    remedy: &Remedy<'_>,
    options: &DiagnosisOptions,
    workflow: &dyn Workflow,
    interrupt: &Interrupt,
) -> Result<Evidence> {
    note(&format!("applying the fix of {}: {}", remedy.rule, remedy.fix.text));
    let options = options.with_settings(remedy.settings)?;
    Ok(diagnose(&options, workflow, interrupt, &mut *progress::progress()))
}

/// Says what the fix came to.
pub fn note_result(remedy: &Remedy<'_>, before: &Report, after: &Report) {
    note(&format!(
        "the fix of {} was applied: the verdict was {} and is now {}",
        remedy.rule,
        before.verdict.name(),
        after.verdict.name()
    ));
}
