use super::Report;
use crate::evidence::RunSettings;
use crate::rules::{Fix, Severity};

/// A fix that needs nobody's help.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Remedy<'report> {
    /// The rule whose finding it removes.
    pub rule: &'static str,
    /// The fix.
    pub fix: &'report Fix,
    /// The settings to run with.
    pub settings: &'report RunSettings,
}

impl Report {
    /// The mechanical fix of the worst root cause; `None` when it has none, or when nothing is held against the run.
    pub fn remedy(&self) -> Option<Remedy<'_>> {
        let root = self.roots().find(|root| root.severity > Severity::Info)?;
        root.fixes.iter().find_map(|fix| {
            Some(Remedy {
                rule: root.name,
                fix,
                settings: fix.mechanical()?,
            })
        })
    }
}
