//! The files that a report is made of.

use std::path::PathBuf;

use super::document::{Block, Document};
use super::{html, markdown};
use crate::compare::Record;
use crate::compare::analysis::{Analysis, Samples};

/// One file of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportFile {
    /// Where it belongs in the folder of the results.
    pub path: PathBuf,
    /// What it holds.
    pub text: String,
}

/// `report.md`, `report.html` and the pictures under `plots`, in this order.
///
/// Nothing is written: that is up to the caller.
pub fn report_files(record: &Record, samples: &Samples, analysis: &Analysis) -> Vec<ReportFile> {
    let document = Document::new(record, samples, analysis);
    let blocks = document.sections.iter().flat_map(|section| &section.blocks);
    let plots = blocks.filter_map(|block| match block {
        Block::Plot(plot) => Some(ReportFile {
            path: PathBuf::from(&plot.file),
            text: plot.to_svg(),
        }),
        _ => None,
    });
    let pages = [
        ("report.md", markdown::render(&document)),
        ("report.html", html::render(&document)),
    ];
    let pages = pages.into_iter().map(|(name, text)| ReportFile {
        path: PathBuf::from(name),
        text,
    });
    pages.chain(plots).collect()
}
