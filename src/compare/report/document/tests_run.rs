//! Every test with its end, and what failed in it.

use std::collections::BTreeSet;

use super::{Block, NOTHING, Prose, Results, Table, number, words};
use crate::compare::report::quantity::{counted, duration};
use crate::compare::report::wording::{failure, outcome};
use crate::compare::{Failure, Outcome, TestKey, TestRecord};

/// A table of all tests, then failed requests, then notes.
pub(super) fn tests(results: Results) -> Vec<Block> {
    let tests = &results.record.tests;
    if tests.is_empty() {
        return vec![Block::Paragraph(Prose::plain("No test was begun."))];
    }
    let columns = vec![
        words("pair"),
        words("scenario"),
        words("format"),
        number("round"),
        words("end"),
        number("took"),
        number("answers"),
        words("reason"),
    ];
    let mut table = Table::new("Every test", columns);
    table.rows.extend(tests.iter().map(row));
    let mut blocks = vec![Block::Table(table)];
    let failed: Vec<Prose> = tests.iter().flat_map(failed_requests).collect();
    if !failed.is_empty() {
        blocks.push(Block::Heading(Prose::plain("Requests that failed")));
        blocks.push(Block::List(failed));
    }
    let notes = notes(tests);
    if !notes.is_empty() {
        blocks.push(Block::Heading(Prose::plain("Notes")));
        blocks.push(Block::List(notes));
    }
    blocks
}

fn row(test: &TestRecord) -> Vec<Prose> {
    let key = &test.key;
    let answered = test.requests.iter().filter(|request| request.failure.is_none()).count();
    let reason = match &test.outcome {
        Outcome::Completed => Prose::plain(NOTHING),
        Outcome::Interrupted => Prose::plain("the user ended it"),
        Outcome::Skipped { reason } => Prose::new(reason),
        Outcome::Failed { failure } => in_words(failure),
    };
    let end = match test.outcome {
        Outcome::Failed { .. } => Prose::strong(outcome(&test.outcome)),
        _ => Prose::plain(outcome(&test.outcome)),
    };
    vec![
        Prose::plain(&key.pair),
        Prose::plain(&key.scenario),
        Prose::plain(key.format.title()),
        Prose::plain((key.round + 1).to_string()),
        end,
        Prose::plain(duration(test.seconds)),
        Prose::plain(format!("{answered} of {}", test.requests.len())),
        reason,
    ]
}

/// What happened, what kind of thing that is, and what may help.
fn in_words(one: &Failure) -> Prose {
    let words = Prose::plain(format!("{}: ", failure(one.kind))).then(Prose::new(&one.reason));
    match &one.hint {
        Some(hint) => words.then(Prose::plain("; hint: ")).then(Prose::new(hint)),
        None => words,
    }
}

fn name(key: &TestKey) -> String {
    format!(
        "{}, {}, {}, round {}",
        key.pair,
        key.scenario,
        key.format.title(),
        key.round + 1
    )
}

/// Failed requests of a test, those that failed alike together.
fn failed_requests(test: &TestRecord) -> Vec<Prose> {
    let mut alike: Vec<(&Failure, usize)> = Vec::new();
    for one in test.requests.iter().filter_map(|request| request.failure.as_ref()) {
        match alike.iter_mut().find(|(known, _)| *known == one) {
            Some((_, count)) => *count += 1,
            None => alike.push((one, 1)),
        }
    }
    let words = alike.into_iter().map(|(one, count)| {
        Prose::plain(format!("{}: {}, ", name(&test.key), counted(count, "request"))).then(in_words(one))
    });
    words.collect()
}

/// Notes of all tests, each once for a scenario and format, in the order of the tests.
fn notes(tests: &[TestRecord]) -> Vec<Prose> {
    let mut said = BTreeSet::new();
    let mut notes = Vec::new();
    for test in tests {
        let key = &test.key;
        for note in &test.notes {
            if said.insert((&key.pair, &key.scenario, key.format, note)) {
                let of = format!("{}, {}, {}: ", key.pair, key.scenario, key.format.title());
                notes.push(Prose::plain(of).then(Prose::new(note)));
            }
        }
    }
    notes
}
