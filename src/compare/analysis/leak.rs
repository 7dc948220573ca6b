//! Whether memory grows with every request.
//!
//! A rise alone is none: weights are paged in, allocators make pools, caches fill, collectors wait. Memory leaks where it
//! rises over all requests and without the first of them, still does over the second half, ends above all that it had before,
//! and does not slow down.

use std::collections::BTreeMap;

use super::memory_use::{LOAD, UNLOAD};
use super::statistics::{median, percentile, theil_sen_interval, theil_sen_slope};
use super::thresholds::{
    BEGINNING, CLOSER, HIGH_BEFORE, LEAK_BYTES_PER_REQUEST, LEAK_VALUES, LOW_AT_END, MOST_LEAK_VALUES, NEAREST,
    SETTLED_BYTES,
};
use super::wording::{bytes, counted, per_request};
use super::{Interval, LeakAnalysis, LeakVerdict, Samples, Summary};
use crate::compare::{Format, MemorySample, Record, TestRecord};

pub(super) const CACHE_ON: &str = "leak-cache-on";
pub(super) const CACHE_OFF: &str = "leak-cache-off";

/// What a course of memory says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Growth {
    /// What is said.
    pub verdict: LeakVerdict,
    /// Bytes for each request.
    pub slope: Option<Interval>,
    /// The same over the second half.
    pub slope_of_second_half: Option<Interval>,
    /// Bytes between the first value and the end.
    pub grown: f64,
}

/// Judges a course: number of a request, ascending, and bytes after it, warm-up left out.
pub fn growth(values: &[(usize, f64)], seed: u64) -> Growth {
    let points: Vec<(f64, f64)> = values.iter().map(|&(number, bytes)| (number as f64, bytes)).collect();
    let points = thinned(points);
    let (first_half, second_half) = points.split_at(points.len() / 2);
    let slope = theil_sen_interval(&points, seed);
    let slope_of_second_half = theil_sen_interval(second_half, seed);
    let grown = grown(&points);
    let rest = theil_sen_interval(after_beginning(&points), seed);
    let rises = [slope, rest]
        .iter()
        .all(|slope| slope.is_some_and(|slope| slope.low > LEAK_BYTES_PER_REQUEST));
    // Half of the values have three times the noise, so that their interval only has to exclude zero.
    let still_rises =
        slope_of_second_half.is_some_and(|slope| slope.low > 0.0 && slope.estimate > LEAK_BYTES_PER_REQUEST);
    let verdict = if points.len() < LEAK_VALUES {
        LeakVerdict::Unknown
    } else if rises && still_rises && ends_above(first_half, ending(&points)) && !slows_down(&points) {
        LeakVerdict::Leak
    } else if grown > SETTLED_BYTES {
        LeakVerdict::Settles
    } else {
        LeakVerdict::Steady
    };
    Growth {
        verdict,
        slope,
        slope_of_second_half,
        grown,
    }
}

/// A long course by the medians of neighbours: slopes between all pairs of its values would fill the memory.
fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let together = points.len().div_ceil(MOST_LEAK_VALUES);
    if together <= 1 {
        return points;
    }
    let neighbours = points.chunks(together);
    let middle = |neighbours: &[(f64, f64)]| {
        let places: Vec<f64> = neighbours.iter().map(|&(place, _)| place).collect();
        Some((median(&places)?, median(&values_of(neighbours))?))
    };
    neighbours.filter_map(middle).collect()
}

fn values_of(points: &[(f64, f64)]) -> Vec<f64> {
    points.iter().map(|&(_, bytes)| bytes).collect()
}

/// The last quarter.
fn ending(points: &[(f64, f64)]) -> &[(f64, f64)] {
    &points[points.len() - points.len().div_ceil(4)..]
}

fn after_beginning(points: &[(f64, f64)]) -> &[(f64, f64)] {
    &points[(points.len() as f64 * BEGINNING) as usize..]
}

fn grown(points: &[(f64, f64)]) -> f64 {
    let end = median(&values_of(ending(points)));
    match (points.first(), end) {
        (Some(&(_, first)), Some(end)) => end - first,
        _ => 0.0,
    }
}

/// Whether the end lies above what the first half reached: what a collector gives back again is no leak.
fn ends_above(first_half: &[(f64, f64)], ending: &[(f64, f64)]) -> bool {
    let high = percentile(&values_of(first_half), HIGH_BEFORE);
    let low = percentile(&values_of(ending), LOW_AT_END);
    matches!((high, low), (Some(high), Some(low)) if low > high)
}

/// Whether the course follows the logarithm of the number of requests rather than the number.
fn slows_down(points: &[(f64, f64)]) -> bool {
    let rest = after_beginning(points);
    let logarithmic: Vec<(f64, f64)> = rest.iter().map(|&(number, bytes)| (number.ln_1p(), bytes)).collect();
    match (distance_from_line(&logarithmic), distance_from_line(rest)) {
        (Some(logarithm), Some(line)) => logarithm < CLOSER * line,
        _ => false,
    }
}

/// The mean distance of the values from the line through them (Theil-Sen, with the median as the intercept), without the
/// farthest, among which are steps.
fn distance_from_line(points: &[(f64, f64)]) -> Option<f64> {
    let slope = theil_sen_slope(points)?;
    let above: Vec<f64> = points.iter().map(|&(place, value)| value - slope * place).collect();
    let intercept = median(&above)?;
    let mut distances: Vec<f64> = above.iter().map(|value| (value - intercept).abs()).collect();
    distances.sort_by(f64::total_cmp);
    distances.truncate((distances.len() as f64 * NEAREST).ceil() as usize);
    Summary::of(&distances).map(|summary| summary.mean)
}

/// Whether memory grows, for each format and state of the caches that was measured with `pair`.
pub(super) fn leaks(record: &Record, samples: &Samples, pair: &str) -> Vec<LeakAnalysis> {
    let mut analyses = Vec::new();
    for format in Format::ALL {
        let judged = |group| judge_group(record, samples, pair, format, group);
        let (on, off) = (judged(CACHE_ON), judged(CACHE_OFF));
        if let Some((values, growth)) = &on {
            let without = off.as_ref().map(|(_, growth)| growth);
            analyses.push(with_cache(format, values.clone(), growth, without));
        }
        if let Some((values, growth)) = off {
            let headline = format!("{}: {}", format.title(), headline(&growth, "without prompt cache"));
            analyses.push(analysis(format, false, growth.verdict, headline, values, &growth));
        }
    }
    analyses
}

/// With its cache on a server grows by design; what it does without the cache tells.
fn with_cache(format: Format, values: Vec<(usize, f64)>, growth: &Growth, without: Option<&Growth>) -> LeakAnalysis {
    let grows = || {
        let slope = growth.slope.map_or(0.0, |slope| slope.estimate);
        format!(
            "memory grew by {}, to the last of {}, with the prompt cache on",
            per_request(slope),
            counted(values.len(), "request")
        )
    };
    let (verdict, said) = match (growth.verdict, without.map(|growth| growth.verdict)) {
        (LeakVerdict::Leak, Some(LeakVerdict::Steady | LeakVerdict::Settles)) => (
            LeakVerdict::Grows,
            format!(
                "{} and not without it: it is the cache, whose limit was not reached",
                grows()
            ),
        ),
        (LeakVerdict::Leak, None | Some(LeakVerdict::Unknown)) => (
            LeakVerdict::Grows,
            format!(
                "{}: whether the cache fills or memory leaks, only a run without the cache tells",
                grows()
            ),
        ),
        (verdict, _) => (verdict, headline(growth, "with the prompt cache on")),
    };
    let headline = format!("{}: {said}", format.title());
    analysis(format, true, verdict, headline, values, growth)
}

fn analysis(
    format: Format,
    prompt_cache: bool,
    verdict: LeakVerdict,
    headline: String,
    values: Vec<(usize, f64)>,
    growth: &Growth,
) -> LeakAnalysis {
    LeakAnalysis {
        format,
        prompt_cache,
        verdict,
        headline,
        slope: growth.slope,
        slope_of_second_half: growth.slope_of_second_half,
        values,
    }
}

fn headline(growth: &Growth, state: &str) -> String {
    match (growth.verdict, growth.slope) {
        (LeakVerdict::Leak, Some(slope)) => format!(
            "memory leaks {} {state} ({} to {})",
            per_request(slope.estimate),
            bytes(slope.low),
            bytes(slope.high)
        ),
        (LeakVerdict::Settles, _) => format!("memory grew by {} {state} and then no more", bytes(growth.grown)),
        (LeakVerdict::Steady, _) => format!("memory does not grow {state}"),
        (LeakVerdict::Leak | LeakVerdict::Grows | LeakVerdict::Unknown, _) => {
            format!("too few requests were answered {state} to tell whether memory grows")
        }
    }
}

/// The settled values of a group, and what they say; `None` where the group was not measured.
fn judge_group(
    record: &Record,
    samples: &Samples,
    pair: &str,
    format: Format,
    group: &str,
) -> Option<(Vec<(usize, f64)>, Growth)> {
    let rounds: Vec<Vec<(usize, f64)>> = record
        .tests
        .iter()
        .filter(|test| test.key.pair == pair && test.key.format == format)
        .filter(|test| test.requests.iter().any(|request| request.group == group))
        .map(|test| settled_values(test, samples.get(&test.key).map_or(&[], Vec::as_slice), group))
        .collect();
    if rounds.is_empty() {
        return None;
    }
    let values = laid_over(&rounds);
    let growth = growth(&values, record.plan.seed);
    Some((values, growth))
}

/// One value after each request of `group`: the median in the gap before the next request is sent, or the last sample before
/// that where the gap has none. A request whose time has no sample has no value.
pub fn settled_values(test: &TestRecord, samples: &[MemorySample], group: &str) -> Vec<(usize, f64)> {
    let mut known: Vec<(f64, f64)> = samples
        .iter()
        .filter_map(|sample| Some((sample.at, sample.charged()? as f64)))
        .collect();
    known.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    let events = events(test);
    let requests = test.requests.iter().filter(|request| request.group == group);
    requests
        .enumerate()
        .filter_map(|(number, request)| {
            let (sent, ended) = (request.times.sent, request.times.ended);
            let next = events.get(events.partition_point(|at| *at < ended)).copied();
            let end = next.map_or(known.len(), |next| known.partition_point(|&(at, _)| at < next));
            let within = |begin: f64| {
                let begin = known.partition_point(|&(at, _)| at < begin);
                known.get(begin..end).unwrap_or_default()
            };
            let value = median(&values_of(within(ended))).or_else(|| Some(within(sent).last()?.1))?;
            Some((number, value))
        })
        .collect()
}

/// When requests are sent, and when the model is taken out of memory or loaded anew, ascending.
fn events(test: &TestRecord) -> Vec<f64> {
    let sent = test.requests.iter().map(|request| request.times.sent);
    let changes = test
        .phases
        .iter()
        .filter(|phase| [LOAD, UNLOAD].contains(&phase.name.as_str()));
    let mut events: Vec<f64> = sent.chain(changes.map(|phase| phase.begin)).collect();
    events.sort_by(f64::total_cmp);
    events
}

/// Several rounds as one course: the median after each request, once each round is moved to the height of all, since a server
/// that is loaded anew begins elsewhere.
fn laid_over(rounds: &[Vec<(usize, f64)>]) -> Vec<(usize, f64)> {
    let height = |round: &[(usize, f64)]| median(&round.iter().map(|&(_, bytes)| bytes).collect::<Vec<f64>>());
    let heights: Vec<f64> = rounds.iter().filter_map(|round| height(round)).collect();
    let Some(common) = median(&heights) else {
        return Vec::new();
    };
    let mut by_number: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for round in rounds {
        let Some(height) = height(round) else { continue };
        for &(number, bytes) in round {
            by_number.entry(number).or_default().push(bytes - height + common);
        }
    }
    by_number
        .into_iter()
        .filter_map(|(number, values)| Some((number, median(&values)?)))
        .collect()
}
