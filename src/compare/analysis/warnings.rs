//! What the figures may not be trusted for.

use std::collections::BTreeMap;

use super::comparison::scenarios;
use super::latency::has_failed;
use super::measure::{CONTEXT, LEAK, groups, measured};
use super::parity::Parity;
use super::server_times::both_clocks;
use super::statistics::median;
use super::thresholds::{
    BUSY, CACHED_SHARE, COUNTS_APART, MISSED_SHARE, PROMPT_TOKENS_APART, SECONDS_APART, TEMPLATE_TOKENS, TIMES_APART,
    VALUES_FOR_NOISE,
};
use super::tokens::{CountedBy, answer_tokens};
use super::wording::{counted, figures, seconds};
use crate::compare::{FailureKind, Format, Machine, Outcome, Record, RequestRecord, TestRecord};

/// One sentence for each reason to doubt what was measured of `pair`.
pub(super) fn warnings(record: &Record, pair: &str) -> Vec<String> {
    let of_pair: Vec<&TestRecord> = record.tests.iter().filter(|test| test.key.pair == pair).collect();
    let mut warnings: Vec<String> = busy_machine(&record.machine).into_iter().collect();
    if let Some(parity) = Parity::of(&of_pair) {
        warnings.extend(parity.warnings());
    }
    for scenario in scenarios(record, pair) {
        let of_scenario: Vec<&TestRecord> = of_pair
            .iter()
            .copied()
            .filter(|test| test.key.scenario == scenario)
            .collect();
        warnings.extend(different_prompts(scenario, &of_scenario));
        for format in Format::ALL {
            let tests: Vec<&TestRecord> = of_scenario
                .iter()
                .copied()
                .filter(|test| test.key.format == format)
                .collect();
            let of_side = [
                failed_requests(&tests),
                few_requests(&tests),
                cached_prompts(&tests),
                pieces_counted(&tests),
                counts_that_disagree(&tests),
                times_that_disagree(&tests),
                missed_samples(&tests),
                unknown_memory(&tests),
            ];
            let named = of_side.into_iter().flatten();
            warnings.extend(named.map(|warning| format!("{scenario}, {}: {warning}", format.title())));
        }
    }
    warnings
}

fn busy_machine(machine: &Machine) -> Option<String> {
    let [minute, _, _] = machine.load_average?;
    let limit = BUSY * machine.usable_cores as f64;
    (minute > limit).then(|| {
        format!(
            "the machine was busy when the measurements began: {minute:.1} processes wanted to run on {}",
            counted(machine.usable_cores, "core")
        )
    })
}

/// The same prompts have as many tokens with both formats, unless their templates differ.
fn different_prompts(scenario: &str, tests: &[&TestRecord]) -> Option<String> {
    groups(tests).into_iter().find_map(|group| {
        let tokens = |format| {
            let of_side: Vec<&TestRecord> = tests.iter().copied().filter(|test| test.key.format == format).collect();
            let of_group = measured(&of_side).filter(|request| request.group == group);
            let counts: Vec<f64> = of_group.filter_map(|request| Some(request.usage?.prompt_tokens as f64)).collect();
            median(&counts)
        };
        let (gguf, mlx) = (tokens(Format::Gguf)?, tokens(Format::Mlx)?);
        ((gguf - mlx).abs() > PROMPT_TOKENS_APART).then(|| {
            format!(
                "{scenario}: the same prompts are {gguf} tokens with GGUF and {mlx} with MLX: the chat templates or tokenizers differ"
            )
        })
    })
}

fn failed_requests(tests: &[&TestRecord]) -> Option<String> {
    let mut kinds: BTreeMap<FailureKind, (usize, &str)> = BTreeMap::new();
    for request in measured(tests).filter(|request| has_failed(request)) {
        if let Some(failure) = &request.failure {
            kinds.entry(failure.kind).or_insert((0, &failure.reason)).0 += 1;
        }
    }
    if kinds.is_empty() {
        return None;
    }
    let failed: usize = kinds.values().map(|(count, _)| count).sum();
    let reasons: Vec<String> = kinds
        .values()
        .map(|(count, reason)| format!("{count} as `{reason}`"))
        .collect();
    let all = counted(measured(tests).count(), "request");
    Some(format!("{failed} of {all} failed: {}", reasons.join(", ")))
}

/// Few are told where there was something to measure at all.
fn few_requests(tests: &[&TestRecord]) -> Option<String> {
    let completed: Vec<&TestRecord> = tests
        .iter()
        .copied()
        .filter(|test| test.outcome == Outcome::Completed)
        .collect();
    let fewest = groups(&completed)
        .into_iter()
        // A length of prompt is a point of a curve.
        .filter(|group| !group.starts_with(CONTEXT))
        .map(|group| {
            let of_group = measured(&completed).filter(|request| request.group == group);
            (of_group.filter(|request| request.failure.is_none()).count(), group)
        })
        .min()?;
    let (count, group) = fewest;
    (count < VALUES_FOR_NOISE).then(|| {
        format!(
            "{} in group `{group}`: the noise is not known of so few",
            counted(count, "answered request")
        )
    })
}

fn cached_prompts(tests: &[&TestRecord]) -> Option<String> {
    let cached = |request: &RequestRecord| {
        let usage = request.usage?;
        let cached = usage.cached_tokens?;
        let most = cached as f64 >= CACHED_SHARE * usage.prompt_tokens as f64;
        (cached > 0 && (cached > TEMPLATE_TOKENS || most)).then_some((cached, usage.prompt_tokens))
    };
    // The leak test asks what a cache does.
    let found: Vec<(usize, usize)> = measured(tests)
        .filter(|request| !request.group.starts_with(LEAK))
        .filter_map(cached)
        .collect();
    let (cached, prompt) = found.iter().max()?;
    Some(format!(
        "{} answered from a prompt cache, up to {cached} of {prompt} tokens: times to first token are too short",
        counted(found.len(), "request")
    ))
}

fn pieces_counted(tests: &[&TestRecord]) -> Option<String> {
    let answered = measured(tests).filter(|request| request.failure.is_none());
    let count = answered
        .filter(|request| answer_tokens(request).1 == CountedBy::Pieces)
        .count();
    (count > 0).then(|| {
        format!(
            "pieces of the stream stand for tokens in {}: the server tells no count, and no tokenizer was given",
            counted(count, "answer")
        )
    })
}

fn counts_that_disagree(tests: &[&TestRecord]) -> Option<String> {
    let both = measured(tests)
        .filter(|request| request.failure.is_none())
        .filter_map(|request| Some((request.usage?.completion_tokens, request.counted_tokens?)));
    let apart: Vec<(usize, usize)> = both
        .filter(|&(server, own)| server.abs_diff(own) as f64 > 1.0 + COUNTS_APART * server as f64)
        .collect();
    if apart.is_empty() {
        return None;
    }
    let server: usize = apart.iter().map(|&(server, _)| server).sum();
    let own: usize = apart.iter().map(|&(_, own)| own).sum();
    Some(format!(
        "the server counts {server} tokens in {}, the tokenizer {own}",
        counted(apart.len(), "answer")
    ))
}

fn times_that_disagree(tests: &[&TestRecord]) -> Option<String> {
    let clocks = both_clocks(tests);
    let client = median(&clocks.iter().map(|clocks| clocks.client).collect::<Vec<f64>>())?;
    let server = median(&clocks.iter().map(|clocks| clocks.server).collect::<Vec<f64>>())?;
    let apart = (client - server).abs();
    (apart > (TIMES_APART * client).max(SECONDS_APART)).then(|| {
        format!(
            "an answer took {} by this program's clock and {} by the server's, {}% apart",
            seconds(client),
            seconds(server),
            figures(100.0 * apart / client)
        )
    })
}

fn missed_samples(tests: &[&TestRecord]) -> Option<String> {
    let memory = || tests.iter().filter_map(|test| test.memory.as_ref());
    let missed: usize = memory().map(|memory| memory.missed).sum();
    let all: usize = missed + memory().map(|memory| memory.taken).sum::<usize>();
    (missed as f64 > MISSED_SHARE * all as f64)
        .then(|| format!("{missed} of {all} samples of memory were missed: peaks between them are not seen"))
}

fn unknown_memory(tests: &[&TestRecord]) -> Option<String> {
    let mut unknown: Vec<&str> = Vec::new();
    for reason in tests
        .iter()
        .filter_map(|test| test.memory.as_ref())
        .flat_map(|memory| &memory.unknown)
    {
        if !unknown.contains(&reason.as_str()) {
            unknown.push(reason);
        }
    }
    (!unknown.is_empty()).then(|| format!("the system does not tell everything: {}", unknown.join("; ")))
}
