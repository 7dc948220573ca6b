//! What the figures may not be trusted for.

use std::collections::BTreeMap;

use super::comparison::scenarios;
use super::latency::has_failed;
use super::measure::{CONTEXT, FIRST_ANSWER, LEAK, MEASURE, group_name, group_title, groups, measured};
use super::parity::Parity;
use super::request_speed::{came_at_once, throughput};
use super::server_times::both_clocks;
use super::statistics::median;
use super::thresholds::{
    BUSY, CACHED_SHARE, COUNTS_APART, LENGTH_APART, MISSED_SHARE, PROMPT_TOKENS_APART, ROUNDS_APART, SECONDS_APART,
    TEMPLATE_TOKENS, TIMES_APART, TOKENS_OVER_LIMIT, VALUES_FOR_NOISE,
};
use super::tokens::{CountedBy, answer_tokens, impossible_tokens};
use super::wording::{counted, figures, listed, seconds};
use crate::compare::{FailureKind, Format, Machine, Outcome, Plan, Record, RequestRecord, TestRecord};

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
                rounds_that_disagree(&tests),
                prompts_of_other_lengths(&record.plan, scenario, &tests),
                cached_prompts(&tests),
                answers_at_once(&tests),
                impossible_counts(&tests),
                answers_over_limit(&record.plan, &tests),
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
        // A length of prompt is a point of a curve, and of a first answer only the loading before it is compared.
        .filter(|group| !group.starts_with(CONTEXT) && !group.starts_with(FIRST_ANSWER))
        .map(|group| {
            let of_group = measured(&completed).filter(|request| request.group == group);
            (of_group.filter(|request| request.failure.is_none()).count(), group)
        })
        .min()?;
    let (count, group) = fewest;
    (count < VALUES_FOR_NOISE).then(|| {
        let group = match group {
            MEASURE => String::new(),
            group => format!(" ({})", group_title(group)),
        };
        format!(
            "{}{group}: the noise is not known of so few",
            counted(count, "answered request")
        )
    })
}

/// The group whose rounds are farthest apart: something else computed beside one of them.
fn rounds_that_disagree(tests: &[&TestRecord]) -> Option<String> {
    let completed: Vec<&TestRecord> = tests
        .iter()
        .copied()
        .filter(|test| test.outcome == Outcome::Completed)
        .collect();
    let in_turn = |group: &str| -> Vec<f64> {
        let speeds = completed.iter().filter_map(|test| {
            let of_group: Vec<&RequestRecord> = test.requests.iter().filter(|request| request.group == group).collect();
            throughput(&of_group).filter(|speed| *speed > 0.0)
        });
        speeds.collect()
    };
    let apart = |speeds: &[f64]| {
        let least = speeds.iter().copied().fold(f64::INFINITY, f64::min);
        speeds.iter().copied().fold(0.0, f64::max) / least
    };
    let groups = groups(&completed).into_iter().filter(|group| !group.starts_with(LEAK));
    let (group, speeds) = groups
        .map(|group| (group, in_turn(group)))
        .max_by(|(_, one), (_, other)| apart(one).total_cmp(&apart(other)))?;
    (apart(&speeds) > ROUNDS_APART).then(|| {
        let group = match group {
            MEASURE => String::new(),
            group => format!(" ({})", group_title(group)),
        };
        let speeds: Vec<String> = speeds.into_iter().map(figures).collect();
        let speeds: Vec<&str> = speeds.iter().map(String::as_str).collect();
        format!(
            "the rounds disagree{group}: {} tokens/s in turn; was the machine busy?",
            listed(&speeds)
        )
    })
}

/// Prompts that are called by a length they do not have.
fn prompts_of_other_lengths(plan: &Plan, scenario: &str, tests: &[&TestRecord]) -> Option<String> {
    let apart = measured(tests).filter_map(|request| {
        let tokens: usize = group_name(plan, scenario, &request.group)
            .strip_prefix(CONTEXT)?
            .parse()
            .ok()?;
        let told = request.usage?.prompt_tokens;
        let is_apart = told.abs_diff(tokens) as f64 > LENGTH_APART * tokens as f64;
        is_apart.then(|| format!("that of {tokens} has {told}"))
    });
    let apart: Vec<String> = apart.collect();
    let apart: Vec<&str> = apart.iter().map(String::as_str).collect();
    (!apart.is_empty()).then(|| {
        format!(
            "prompts are shorter or longer than they are called, by the server's count: {}",
            listed(&apart)
        )
    })
}

/// Answers whose pieces say nothing of how fast they were written.
fn answers_at_once(tests: &[&TestRecord]) -> Option<String> {
    let answered = || measured(tests).filter(|request| request.failure.is_none());
    // A token and the end of the text are no burst.
    let count = answered()
        .filter(|request| came_at_once(request) && answer_tokens(request).0 > 2)
        .count();
    (count > 0).then(|| {
        format!(
            "{} of {} came all at once: something between holds the stream back, or the server does not stream; its time to first \
             token is that of the whole answer, and there is no time per output token",
            count,
            counted(answered().count(), "answer")
        )
    })
}

fn impossible_counts(tests: &[&TestRecord]) -> Option<String> {
    let counts: Vec<usize> = measured(tests).filter_map(impossible_tokens).collect();
    let most = *counts.iter().max()?;
    Some(format!(
        "the server counts more tokens than the text can have in {}, up to {}: its count is not used there",
        counted(counts.len(), "answer"),
        figures(most as f64)
    ))
}

fn answers_over_limit(plan: &Plan, tests: &[&TestRecord]) -> Option<String> {
    let tokens = measured(tests).map(|request| answer_tokens(request).0);
    let over: Vec<usize> = tokens
        .filter(|&tokens| tokens > plan.answer_tokens.saturating_add(TOKENS_OVER_LIMIT))
        .collect();
    let most = over.iter().max()?;
    Some(format!(
        "{} longer than the {} that were asked for, up to {most}: the server does not keep `max_tokens`",
        counted(over.len(), "answer"),
        counted(plan.answer_tokens, "token")
    ))
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
        .filter(|request| request.failure.is_none() && impossible_tokens(request).is_none())
        .filter_map(|request| Some((request.usage?.completion_tokens, request.counted_tokens?)));
    let apart: Vec<(usize, usize)> = both
        .filter(|&(server, own)| server.abs_diff(own) as f64 > 1.0 + COUNTS_APART * server as f64)
        .collect();
    if apart.is_empty() {
        return None;
    }
    let server = apart.iter().map(|&(server, _)| server).fold(0, usize::saturating_add);
    let own = apart.iter().map(|&(_, own)| own).fold(0, usize::saturating_add);
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
            "an answer took {} by this program's clock and {} by the server's, {}",
            seconds(client),
            seconds(server),
            // Of a server that makes its times up a percentage can be beyond all numbers.
            match apart / client {
                share if share < 10.0 => format!("{}% apart", figures(100.0 * share)),
                _ => "which cannot be".to_owned(),
            }
        )
    })
}

fn missed_samples(tests: &[&TestRecord]) -> Option<String> {
    let memory = || tests.iter().filter_map(|test| test.memory.as_ref());
    let missed = memory().map(|memory| memory.missed).fold(0, usize::saturating_add);
    let all = memory().map(|memory| memory.taken).fold(missed, usize::saturating_add);
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
