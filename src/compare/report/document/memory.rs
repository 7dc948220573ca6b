//! What servers take of memory, and whether it grows.

use std::collections::BTreeSet;

use super::{Block, NOTHING, Prose, Results, Shown, Table, drawn, list, number, words};
use crate::compare::analysis::{Interval, PairAnalysis};
use crate::compare::report::order::{scenarios, tests};
use crate::compare::report::quantity::{interval, shown};
use crate::compare::report::wording::{caches, leak_verdict};
use crate::compare::{Format, MemorySample, ProcessSample, TestRecord, Unit};

/// A table of peaks, pictures of the course, and what the leak tests say.
pub(super) fn memory(results: Results, pairs: &[Shown]) -> Vec<Block> {
    let mut blocks = Vec::new();
    for (pair, plots) in pairs {
        blocks.push(Block::Heading(Prose::plain(&pair.pair)));
        let peaks = peaks(results, &pair.pair);
        if !peaks.rows.is_empty() {
            blocks.push(Block::Table(peaks));
        }
        let unknown = unknown(results, &pair.pair);
        if !unknown.is_empty() {
            blocks.push(Block::List(unknown));
        }
        blocks.extend(plots.memory.iter().map(drawn));
        if !pair.leaks.is_empty() {
            blocks.push(Block::Table(leaks(pair)));
        }
        blocks.push(drawn(&plots.leak));
    }
    blocks
}

/// One row for each scenario and format, of the round with the highest peak.
fn peaks(results: Results, pair: &str) -> Table {
    let columns = vec![
        words("scenario"),
        words("format"),
        number("peak, charged"),
        number("anonymous then"),
        number("files then"),
        number("wired then, whole machine"),
        words("grew most at loading"),
        number("samples"),
        number("missed"),
        number("cost of sampling"),
    ];
    let mut table = Table::new(format!("Memory of {pair}"), columns);
    for scenario in scenarios(results.record) {
        for format in Format::ALL {
            let tests = tests(results.record, pair, scenario, format);
            table.rows.extend(peak(results, &tests, scenario, format));
        }
    }
    table
}

fn peak(results: Results, tests: &[&TestRecord], scenario: &str, format: Format) -> Option<Vec<Prose>> {
    let watched: Vec<_> = tests.iter().filter_map(|test| test.memory.as_ref()).collect();
    if watched.is_empty() {
        return None;
    }
    let samples = tests.iter().filter_map(|test| results.samples.get(&test.key)).flatten();
    let peak = samples.max_by_key(|sample| sample.charged());
    let bytes = |bytes: Option<u64>| {
        let text = bytes.map_or_else(|| NOTHING.to_owned(), |bytes| shown(Unit::Bytes, bytes as f64));
        Prose::plain(text)
    };
    let sum = |number: fn(&ProcessSample) -> Option<u64>| {
        let processes = peak
            .map(|sample| &sample.processes)
            .filter(|processes| !processes.is_empty());
        processes.and_then(|processes| {
            processes
                .iter()
                .map(number)
                .try_fold(0_u64, |sum, bytes| Some(sum.saturating_add(bytes?)))
        })
    };
    // `NAME (PID)`, of which each round has another PID.
    let name = |holder: &'_ String| {
        holder
            .rsplit_once(" (")
            .map_or(holder.as_str(), |(name, _)| name)
            .to_owned()
    };
    let holders: BTreeSet<String> = watched
        .iter()
        .filter_map(|memory| memory.holder.as_ref())
        .map(name)
        .collect();
    let holders: Vec<Prose> = holders.into_iter().map(Prose::code).collect();
    Some(vec![
        Prose::plain(scenario),
        Prose::plain(format.title()),
        bytes(peak.and_then(MemorySample::charged)),
        bytes(sum(|process| process.anonymous)),
        bytes(sum(|process| process.file)),
        bytes(peak.and_then(|sample| sample.wired)),
        list(holders, ", "),
        Prose::plain(together(watched.iter().map(|memory| memory.taken)).to_string()),
        Prose::plain(together(watched.iter().map(|memory| memory.missed)).to_string()),
        Prose::plain(shown(
            Unit::Seconds,
            watched.iter().map(|memory| memory.cost_seconds).sum(),
        )),
    ])
}

fn together(counts: impl Iterator<Item = usize>) -> usize {
    counts.fold(0, usize::saturating_add)
}

/// What the system does not tell, each once.
fn unknown(results: Results, pair: &str) -> Vec<Prose> {
    let tests = results.record.tests.iter().filter(|test| test.key.pair == pair);
    let unknown: BTreeSet<&String> = tests
        .filter_map(|test| test.memory.as_ref())
        .flat_map(|memory| &memory.unknown)
        .collect();
    unknown.into_iter().map(|unknown| Prose::new(unknown)).collect()
}

fn leaks(pair: &PairAnalysis) -> Table {
    let columns = vec![
        words("format"),
        words("caches"),
        words("verdict"),
        number("slope"),
        number("slope of the second half"),
        number("requests"),
    ];
    let mut table = Table::new(format!("Growth of memory of {}", pair.pair), columns);
    let slope = |slope: &Option<Interval>| match slope {
        Some(slope) => Prose::plain(interval(Unit::BytesPerRequest, slope)),
        None => Prose::plain(NOTHING),
    };
    table.rows.extend(pair.leaks.iter().map(|leak| {
        vec![
            Prose::plain(leak.format.title()),
            Prose::plain(caches(leak.prompt_cache)),
            Prose::strong(leak_verdict(leak.verdict)),
            slope(&leak.slope),
            slope(&leak.slope_of_second_half),
            Prose::plain(leak.values.len().to_string()),
        ]
    }));
    table
}
