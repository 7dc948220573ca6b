use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};

use super::diagnose_arguments::DiagnoseArguments;
use super::run::{check_writable, evidence_json, read_evidence};
use crate::atomic_write::write_file;
use crate::evidence::{Evidence, RunSettings};
use crate::regression::{check_settings, compare};
use crate::report::{Report, Verdict};

/// What a run is compared with, and where it is stored for later ones.
pub struct Baseline {
    stored: Option<Evidence>,
    target: Option<PathBuf>,
}

impl Baseline {
    /// Fails before the work where the stored run was another one or the new one cannot be stored.
    ///
    /// `settings` are those of the new run; `None` when they are not known yet.
    pub fn of(arguments: &DiagnoseArguments, settings: Option<&RunSettings>) -> Result<Self> {
        let stored = arguments.output.baseline.as_deref().map(read_evidence).transpose()?;
        if let (Some(stored), Some(settings)) = (&stored, settings) {
            check_settings(&stored.settings, settings)?;
        }
        if let Some(file) = &arguments.save_baseline {
            let folder = file.parent().filter(|folder| *folder != Path::new(""));
            check_writable(folder.unwrap_or(Path::new(".")))?;
        }
        Ok(Self {
            stored,
            target: arguments.save_baseline.clone(),
        })
    }

    /// The report with the comparison; the report as it is, and why, where the two runs cannot be compared.
    pub fn judge(&self, report: Report, evidence: &Evidence) -> (Report, Result<()>) {
        match self.stored.as_ref().map(|stored| compare(stored, evidence)) {
            None => (report, Ok(())),
            Some(Ok(comparison)) => (report.against(comparison), Ok(())),
            Some(Err(error)) => (report, Err(error.into())),
        }
    }

    /// Stores the run where that was asked for; one that did not come to its end is no measure for others.
    pub fn store(&self, report: &Report, evidence: &Evidence) -> Result<()> {
        let Some(file) = &self.target else {
            return Ok(());
        };
        let shown = file.display();
        if report.verdict == Verdict::Incomplete || evidence.settings.check_only {
            return Err(anyhow!(
                "the baseline `{shown}` was not stored\n  found: an incomplete run, {}\n  expected: a run through all phases",
                report.headline
            ));
        }
        write_file(file, evidence_json(evidence)?.as_bytes()).with_context(|| format!("cannot write `{shown}`"))
    }
}
