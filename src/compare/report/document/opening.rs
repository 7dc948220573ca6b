//! What a report opens with: verdicts, leaks, and what neither can be said of.

use super::{Block, NOTHING, Prose, Results, Table, Tone, words};
use crate::compare::analysis::{Confidence, LeakVerdict, PairAnalysis};
use crate::compare::report::quantity::counted;
use crate::compare::report::wording::{better, confidence, leak_verdict};

/// The verdict on each pair with its reasons, and whether memory grows.
pub(super) fn verdicts(results: Results) -> Vec<Block> {
    let mut blocks = Vec::new();
    if results.record.interrupted {
        blocks.push(Block::Finding {
            tone: Tone::Doubtful,
            label: "interrupted".to_owned(),
            text: Prose::plain(interrupted(results)),
        });
    }
    if results.analysis.pairs.is_empty() {
        blocks.push(Block::Paragraph(Prose::plain("No pair of models was compared.")));
    }
    for pair in &results.analysis.pairs {
        blocks.push(Block::Heading(Prose::plain(&pair.pair)));
        blocks.extend(verdict(pair));
    }
    blocks
}

/// How far a comparison came that the user ended.
fn interrupted(results: Results) -> String {
    let count = counted(results.record.tests.len(), "test");
    format!("The user ended it after {count}, before everything that was planned was measured.")
}

fn verdict(pair: &PairAnalysis) -> Vec<Block> {
    let verdict = &pair.verdict;
    let tone = match verdict.confidence {
        Confidence::High | Confidence::Medium => Tone::Good,
        Confidence::Low => Tone::Doubtful,
        Confidence::None => Tone::Neutral,
    };
    let headline = Prose::new(&verdict.headline);
    let mut blocks = vec![
        Block::Finding {
            tone,
            label: better(verdict).to_owned(),
            text: headline,
        },
        Block::Paragraph(Prose::plain(format!("Confidence: {}.", confidence(verdict.confidence)))),
    ];
    if !verdict.reasons.is_empty() {
        blocks.push(Block::List(
            verdict.reasons.iter().map(|reason| Prose::new(reason)).collect(),
        ));
    }
    for leak in &pair.leaks {
        blocks.push(Block::Finding {
            tone: match leak.verdict {
                LeakVerdict::Leak => Tone::Bad,
                LeakVerdict::Settles | LeakVerdict::Steady => Tone::Good,
                LeakVerdict::Grows => Tone::Doubtful,
                LeakVerdict::Unknown => Tone::Neutral,
            },
            label: leak_verdict(leak.verdict).to_owned(),
            text: Prose::new(&leak.headline),
        });
    }
    if pair.leaks.is_empty() {
        let unknown = "Whether memory grows from request to request was not measured.";
        blocks.push(Block::Paragraph(Prose::plain(unknown)));
    }
    blocks
}

/// What could not be measured, with its reason.
pub(super) fn not_measured(results: Results) -> Vec<Block> {
    let columns = ["pair", "scenario", "format", "reason", "what may help"].map(words);
    let mut table = Table::new("What could not be measured", columns.to_vec());
    for pair in &results.analysis.pairs {
        table.rows.extend(pair.not_measured.iter().map(|one| {
            vec![
                Prose::plain(&pair.pair),
                Prose::plain(&one.scenario),
                Prose::plain(one.format.map_or("both", |format| format.title())),
                Prose::new(&one.reason),
                Prose::new(one.hint.as_deref().unwrap_or(NOTHING)),
            ]
        }));
    }
    if table.rows.is_empty() {
        return vec![Block::Paragraph(Prose::plain(
            "Everything that was planned was measured.",
        ))];
    }
    vec![Block::Table(table)]
}

/// What figures may not be trusted for.
pub(super) fn warnings(results: Results) -> Vec<Block> {
    let mut blocks = Vec::new();
    for pair in results.analysis.pairs.iter().filter(|pair| !pair.warnings.is_empty()) {
        blocks.push(Block::Heading(Prose::plain(&pair.pair)));
        blocks.push(Block::List(
            pair.warnings.iter().map(|warning| Prose::new(warning)).collect(),
        ));
    }
    blocks
}
