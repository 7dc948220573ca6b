//! Which requests are drawn, and their quartiles.

use crate::compare::analysis::{LEAK, WARM_UP};
use crate::compare::{Format, Record, RequestRecord, TestRecord};
use crate::quantile::quantile;

/// Tests of a pair with a format that have requests, in order.
pub(super) fn tests<'record>(
    record: &'record Record,
    pair: &'record str,
    format: Format,
) -> impl Iterator<Item = &'record TestRecord> {
    let tests = record.tests.iter();
    tests.filter(move |test| test.key.pair == pair && test.key.format == format)
}

/// Requests of a test whose speed counts, failed ones among them: of a leak test only memory does, since its prompts may come
/// from a cache.
pub(super) fn measured(test: &TestRecord) -> impl Iterator<Item = &RequestRecord> {
    let is_left_out = |group: &str| group.starts_with(WARM_UP) || group.starts_with(LEAK);
    test.requests.iter().filter(move |request| !is_left_out(&request.group))
}

/// Those of them that were answered.
pub(super) fn answered(test: &TestRecord) -> impl Iterator<Item = &RequestRecord> {
    measured(test).filter(|request| request.failure.is_none())
}

/// Tokens of the prompt, those from a cache included.
pub(super) fn prompt_tokens(request: &RequestRecord) -> Option<usize> {
    request.usage.map(|usage| usage.prompt_tokens)
}

/// The lower quartile, the median and the upper quartile; `None` without a value.
pub(super) fn quartiles(values: &[f64]) -> Option<[f64; 3]> {
    Some([quantile(values, 0.25)?, quantile(values, 0.5)?, quantile(values, 0.75)?])
}
