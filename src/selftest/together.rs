//! A trial in several processes, as a user starts them.

use std::path::Path;
use std::time::Duration;

use super::record::Ending;
use crate::diagnosis::DiagnosisOptions;
use crate::evidence::Evidence;
use crate::external::{self, Watched};
use crate::faults::Operator;
use crate::interrupt::Interrupt;
use crate::model::ModelSource;
use crate::rules::Rerun;
use crate::shell_word::quoted;

/// Longest time that such a trial takes: the longest ones wait ten seconds for a process that is lost.
const TIMEOUT: Duration = Duration::from_mins(2);

/// A diagnosis in several processes.
pub struct Together<'trial> {
    /// This program.
    pub program: &'trial Path,
    /// How many.
    pub processes: usize,
    /// What each is asked to do.
    pub options: &'trial DiagnosisOptions,
    /// The fault in all of them, with its severity.
    pub fault: Option<(&'static Operator, f64)>,
    /// A folder of its own.
    pub folder: &'trial Path,
    /// The user's wish to stop.
    pub interrupt: &'trial Interrupt,
}

impl Together<'_> {
    /// What the first of them leaves.
    ///
    /// # Errors
    /// How it ended, and what was printed last, where there is no evidence.
    pub fn diagnose(&self) -> Result<Evidence, (Ending, String)> {
        let not_made = |error: std::io::Error| (Ending::NotMade, error.to_string());
        let (out, prompts) = (self.folder.join("out"), self.folder.join("prompts.txt"));
        std::fs::write(&prompts, self.options.prompts.join("\n")).map_err(not_made)?;
        let command = self.command(&prompts, &out);
        let watched = Watched {
            command: &command,
            log: &self.folder.join("log.txt"),
            timeout: TIMEOUT,
            interrupt: self.interrupt,
        };
        let finished = external::run(&watched, &mut |_| ()).map_err(not_made)?;
        let path = out.join("evidence.json");
        let read = std::fs::read_to_string(&path).map_err(|_| (Ending::Crashed, finished.last_lines.join("\n")))?;
        let mut evidence = Evidence::parse(&path, &read).map_err(|error| (Ending::Crashed, error.to_string()))?;
        // Names without the folders of this trial, as in trials of one process.
        evidence.settings = self.options.settings();
        Ok(evidence)
    }

    fn command(&self, prompts: &Path, out: &Path) -> String {
        let mut settings = self.options.settings();
        if let ModelSource::Folder(folder) = &self.options.source {
            settings.model = folder.display().to_string();
        }
        settings.data = self.folder.join("data").display().to_string();
        settings.prompts = Some(prompts.display().to_string());
        let alone = Rerun::of(&settings).to_string();
        let fault = self.fault.map_or_else(String::new, |(operator, severity)| {
            format!(" --inject {}={severity}", operator.name)
        });
        format!(
            "{} launch -n {} --{} --out {}{fault}",
            quoted(&self.program.display().to_string()),
            self.processes,
            alone.trim_start_matches("diagnose"),
            quoted(&out.display().to_string())
        )
    }
}
