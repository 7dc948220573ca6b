//! What a report says, in the order in which it says it; the formats only differ in how they write it down.

mod comparisons;
mod definitions;
mod memory;
mod opening;
mod prose;
mod set_up;
mod tests_run;

pub(super) use prose::{Prose, Span};

use super::plots::{Drawn, PairPlots, Plot, plots};
use crate::compare::Record;
use crate::compare::analysis::{Analysis, PairAnalysis, Samples};

/// What stands for something that is not known.
const NOTHING: &str = "–";

/// A report without a format.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Document {
    pub(super) title: String,
    /// Of what and when, in one line.
    pub(super) subtitle: Prose,
    pub(super) sections: Vec<Section>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Section {
    /// Unique within the document, in kebab-case.
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) blocks: Vec<Block>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Block {
    /// A heading within a section.
    Heading(Prose),
    /// What is said, in a word or two with a colour, and in a sentence.
    Finding {
        tone: Tone,
        label: String,
        text: Prose,
    },
    Paragraph(Prose),
    List(Vec<Prose>),
    Table(Table),
    Plot(Plot),
}

/// How something is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Bad,
    Doubtful,
    Neutral,
}

/// A table with as many cells in each row as it has columns.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Table {
    /// What it holds, for who hears it.
    pub(super) label: String,
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Vec<Prose>>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Column {
    pub(super) title: &'static str,
    /// Set to the right.
    pub(super) is_number: bool,
}

impl Table {
    fn new(label: impl Into<String>, columns: Vec<Column>) -> Self {
        Self {
            label: label.into(),
            columns,
            rows: Vec::new(),
        }
    }

    /// Names at the left, what they stand for at the right.
    fn facts(label: &str, rows: Vec<(&str, Prose)>) -> Self {
        Self {
            label: label.to_owned(),
            columns: vec![words("what"), words("value")],
            rows: rows
                .into_iter()
                .map(|(name, value)| vec![Prose::plain(name), value])
                .collect(),
        }
    }
}

fn words(title: &'static str) -> Column {
    Column {
        title,
        is_number: false,
    }
}

fn number(title: &'static str) -> Column {
    Column { title, is_number: true }
}

/// Everything that a report is made of.
#[derive(Clone, Copy)]
struct Results<'results> {
    record: &'results Record,
    samples: &'results Samples,
    analysis: &'results Analysis,
}

/// A pair with its pictures.
type Shown<'shown> = (&'shown PairAnalysis, PairPlots);

impl Document {
    /// The report of a comparison, finished or not.
    pub(super) fn new(record: &Record, samples: &Samples, analysis: &Analysis) -> Self {
        let results = Results {
            record,
            samples,
            analysis,
        };
        let pairs: Vec<Shown> = analysis.pairs.iter().zip(plots(record, samples, analysis)).collect();
        let names = analysis.pairs.iter().map(|pair| Prose::plain(&pair.pair));
        let sections = [
            ("verdict", "Verdict", opening::verdicts(results)),
            ("not-measured", "Not measured", opening::not_measured(results)),
            ("warnings", "Warnings", opening::warnings(results)),
            ("comparison", "Comparison", comparisons::comparisons(&pairs)),
            ("percentiles", "Percentiles", comparisons::percentiles(results)),
            ("figures", "Other figures", comparisons::figures(results)),
            ("memory", "Memory", memory::memory(results, &pairs)),
            ("tests", "Tests", tests_run::tests(results)),
            ("plan", "Plan", set_up::plan(record)),
            ("servers", "Servers", set_up::servers(record)),
            ("machine", "Machine", set_up::machine(record)),
            ("definitions", "Definitions", definitions::definitions(record)),
        ];
        Self {
            title: "GGUF against MLX".to_owned(),
            subtitle: Prose::joined(names, ", ").then(Prose::plain(format!("; begun {}", record.began))),
            sections: sections
                .into_iter()
                .filter(|(_, _, blocks)| !blocks.is_empty())
                .map(|(id, title, blocks)| Section { id, title, blocks })
                .collect(),
        }
    }
}

/// The picture, or the sentence that says why there is none.
fn drawn(drawn: &Drawn) -> Block {
    match drawn {
        Ok(plot) => Block::Plot(plot.clone()),
        Err(why) => Block::Paragraph(Prose::new(why)),
    }
}

/// Texts with something between them, where there is any.
fn list(texts: Vec<Prose>, between: &str) -> Prose {
    if texts.is_empty() {
        return Prose::plain(NOTHING);
    }
    Prose::joined(texts, between)
}

/// The text where it is known.
fn or_nothing(text: Option<impl Into<String>>) -> Prose {
    Prose::plain(text.map_or_else(|| NOTHING.to_owned(), Into::into))
}
