//! Every measure of both formats.

use std::collections::BTreeSet;

use super::{Block, NOTHING, Prose, Results, Shown, Table, drawn, number, words};
use crate::compare::analysis::thresholds::{VALUES_FOR_NOISE, VALUES_FOR_PERCENTILES};
use crate::compare::analysis::{Comparison, Summary};
use crate::compare::report::order::{scenarios, tests};
use crate::compare::report::quantity::{ratio, shown, summary};
use crate::compare::{Figure, Format};

/// Pictures of the speeds, then medians beside one another, a table for each scenario.
pub(super) fn comparisons(pairs: &[Shown]) -> Vec<Block> {
    let mut blocks = vec![Block::Paragraph(Prose::plain(
        "Medians, with quartiles (of two or three values the least and the most) and the number of values; the ratio is the \
         median of MLX by that of GGUF, with a bootstrap interval of 95% where both have three values or more.",
    ))];
    for (pair, plots) in pairs {
        blocks.push(Block::Heading(Prose::plain(&pair.pair)));
        blocks.push(drawn(&plots.first_token));
        blocks.push(drawn(&plots.context));
        blocks.extend(plots.concurrency.iter().map(drawn));
        if pair.comparisons.is_empty() {
            let nothing = "Nothing was measured that could be compared.";
            blocks.push(Block::Paragraph(Prose::plain(nothing)));
        }
        for scenario in pair.comparisons.chunk_by(|one, next| one.scenario == next.scenario) {
            let Some(first) = scenario.first() else { continue };
            let name = format!("{}, {}", pair.pair, first.scenario);
            blocks.push(Block::Heading(Prose::plain(&name)));
            blocks.push(Block::Table(table(&name, scenario)));
        }
    }
    blocks
}

fn table(name: &str, comparisons: &[Comparison]) -> Table {
    let columns = vec![
        words("measure"),
        number("GGUF"),
        number("MLX"),
        number("MLX / GGUF"),
        words("wanted"),
        words("better"),
    ];
    let mut table = Table::new(format!("Measures of {name}"), columns);
    table.rows.extend(comparisons.iter().map(|comparison| {
        let side = |side: &Option<Summary>| match side {
            Some(values) => Prose::plain(summary(comparison.unit, values)),
            None => Prose::plain("not measured"),
        };
        vec![
            Prose::new(&comparison.title),
            side(&comparison.gguf),
            side(&comparison.mlx),
            Prose::plain(comparison.ratio.as_ref().map_or_else(|| NOTHING.to_owned(), ratio)),
            Prose::plain(match comparison.more_is_better {
                Some(true) => "more",
                Some(false) => "less",
                None => NOTHING,
            }),
            better(comparison),
        ]
    }));
    table
}

fn better(comparison: &Comparison) -> Prose {
    match comparison.better {
        Some(format) if has_few_values(comparison) => Prose::plain(format!("{}, of few values", format.title())),
        Some(format) => Prose::strong(format.title()),
        None if comparison.more_is_better.is_none() => Prose::plain("not judged"),
        None if comparison.gguf.is_none() || comparison.mlx.is_none() => Prose::plain(NOTHING),
        None => Prose::plain("neither, within the noise"),
    }
}

/// Whether the noise is not known. A measure that has one value for all, such as a perplexity, has its noise elsewhere.
fn has_few_values(comparison: &Comparison) -> bool {
    let fewest = [&comparison.gguf, &comparison.mlx]
        .into_iter()
        .flatten()
        .map(|side| side.count)
        .min();
    let interval = comparison.ratio.and_then(|ratio| ratio.interval);
    interval.is_none() || fewest.is_some_and(|count| (2..VALUES_FOR_NOISE).contains(&count))
}

/// What medians and quartiles do not tell of measures with several values.
pub(super) fn percentiles(results: Results) -> Vec<Block> {
    let mut blocks = Vec::new();
    for pair in &results.analysis.pairs {
        let columns = vec![
            words("scenario"),
            words("measure"),
            words("format"),
            number("n"),
            number("mean"),
            number("standard deviation"),
            number("least"),
            number("p90"),
            number("p95"),
            number("p99"),
            number("most"),
        ];
        let mut table = Table::new(format!("Percentiles of {}", pair.pair), columns);
        for comparison in &pair.comparisons {
            for (format, side) in [(Format::Gguf, &comparison.gguf), (Format::Mlx, &comparison.mlx)] {
                let several = side.iter().filter(|side| side.count > 1);
                table
                    .rows
                    .extend(several.map(|side| percentile_row(comparison, format, side)));
            }
        }
        if !table.rows.is_empty() {
            blocks.push(Block::Heading(Prose::plain(&pair.pair)));
            blocks.push(Block::Table(table));
        }
    }
    blocks
}

fn percentile_row(comparison: &Comparison, format: Format, side: &Summary) -> Vec<Prose> {
    let mut row = vec![
        Prose::plain(&comparison.scenario),
        Prose::code(&comparison.measure),
        Prose::plain(format.title()),
        Prose::plain(side.count.to_string()),
    ];
    let cell = |value: f64| Prose::plain(shown(comparison.unit, value));
    row.extend([side.mean, side.standard_deviation, side.minimum].map(cell));
    let percentiles = VALUES_FOR_PERCENTILES.into_iter().zip([side.p90, side.p95, side.p99]);
    row.extend(percentiles.map(|(least, value)| match side.count {
        count if count < least => Prose::plain(NOTHING),
        _ => cell(value),
    }));
    row.push(cell(side.maximum));
    row
}

/// What scenarios measured themselves and no comparison has taken up.
pub(super) fn figures(results: Results) -> Vec<Block> {
    let mut blocks = Vec::new();
    for pair in &results.analysis.pairs {
        let columns = ["scenario", "figure", "format", "values by round", "how it was measured"].map(words);
        let mut table = Table::new(format!("Other figures of {}", pair.pair), columns.to_vec());
        for scenario in scenarios(results.record) {
            let compared: BTreeSet<&str> = pair
                .comparisons
                .iter()
                .filter(|comparison| comparison.scenario == scenario)
                .map(|comparison| comparison.measure.as_str())
                .collect();
            for format in Format::ALL {
                let tests = tests(results.record, &pair.pair, scenario, format);
                let figures: Vec<&Figure> = tests.iter().flat_map(|test| &test.figures).collect();
                let mut names = BTreeSet::new();
                for figure in &figures {
                    if compared.contains(figure.name.as_str()) || !names.insert(&figure.name) {
                        continue;
                    }
                    let rounds = figures.iter().filter(|other| other.name == figure.name);
                    let values: Vec<String> = rounds.map(|figure| values(figure)).collect();
                    table.rows.push(vec![
                        Prose::plain(scenario),
                        Prose::code(&figure.name),
                        Prose::plain(format.title()),
                        Prose::plain(values.join("; ")),
                        Prose::new(&figure.note),
                    ]);
                }
            }
        }
        if !table.rows.is_empty() {
            blocks.push(Block::Heading(Prose::plain(&pair.pair)));
            blocks.push(Block::Table(table));
        }
    }
    blocks
}

/// The values of one test; where there are many, their number and their ends.
fn values(figure: &Figure) -> String {
    const SHOWN: usize = 6;
    if figure.values.len() <= SHOWN {
        let values: Vec<String> = figure.values.iter().map(|value| shown(figure.unit, *value)).collect();
        return values.join(", ");
    }
    let least = figure.values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = figure.values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!(
        "{} values from {} to {}",
        figure.values.len(),
        shown(figure.unit, least),
        shown(figure.unit, most)
    )
}
