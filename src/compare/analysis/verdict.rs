//! Which format serves better, and how sure that is.

use super::deciding::{Aspect, Deciding};
use super::latency::has_failed;
use super::measure::measured;
use super::parity::Parity;
use super::thresholds::{FAILED_SHARE, MEASURES_FOR_CERTAINTY, VALUES_FOR_NOISE, WINS_FOR_ONE_LOSS};
use super::wording::{counted, listed, per_request, ratio};
use super::{Comparison, Confidence, LeakAnalysis, LeakVerdict, Verdict};
use crate::compare::{FailureKind, Format, Outcome, Plan, Record, RequestRecord, TestRecord};

/// What all measures of a pair say together.
pub(super) fn verdict(record: &Record, pair: &str, comparisons: &[Comparison], leaks: &[LeakAnalysis]) -> Verdict {
    let tests: Vec<&TestRecord> = record.tests.iter().filter(|test| test.key.pair == pair).collect();
    let deciding = Deciding::all(comparisons);
    let troubles: Vec<Trouble> = Format::ALL
        .into_iter()
        .flat_map(|format| troubles(&tests, leaks, format))
        .collect();
    let mut reasons: Vec<String> = troubles.iter().map(|trouble| trouble.told.clone()).collect();
    reasons.extend(deciding.iter().map(Deciding::reason));
    reasons.extend(Parity::of(&tests).and_then(|parity| parity.reason()));

    let (better, confidence, said) = if deciding.is_empty() {
        nothing_to_compare(&record.plan, &tests)
    } else {
        judge(&deciding, &troubles)
    };
    Verdict {
        better,
        confidence,
        headline: headline(&troubles, better, &said),
        reasons,
    }
}

/// What counts against a format whatever its speed.
struct Trouble {
    format: Format,
    /// Whether nobody would have it serve.
    grave: bool,
    told: String,
}

fn troubles(tests: &[&TestRecord], leaks: &[LeakAnalysis], format: Format) -> Vec<Trouble> {
    let name = format.title();
    let tests: Vec<&TestRecord> = tests.iter().copied().filter(|test| test.key.format == format).collect();
    let leaking = leaks
        .iter()
        .filter(|leak| leak.format == format && leak.verdict == LeakVerdict::Leak);
    // Without the cache the number is the leak's alone.
    let leak = leaking.min_by_key(|leak| leak.prompt_cache).map(|leak| {
        let slope = leak
            .slope
            .map_or_else(|| "memory".to_owned(), |slope| per_request(slope.estimate));
        (true, format!("{name} leaks {slope}"))
    });
    let all = measured(&tests).count();
    let failed = measured(&tests).filter(|request| server_failed(request)).count();
    let requests = (failed > 0).then(|| {
        let grave = failed as f64 > FAILED_SHARE * all as f64;
        (grave, format!("{name} failed {failed} of {}", counted(all, "request")))
    });
    let broken = tests.iter().filter(|test| broke_off(test)).count();
    let tests = (broken > 0).then(|| (true, format!("{name} broke off {}", counted(broken, "test"))));
    let found = [leak, requests, tests].into_iter().flatten();
    found.map(|(grave, told)| Trouble { format, grave, told }).collect()
}

/// Whether a failure is the server's: a key that is lacking, a program or a model that is not there are the user's.
fn is_servers(kind: FailureKind) -> bool {
    use FailureKind::{BrokenOff, Died, Empty, Malformed, ServerError, Stalled, TimedOut, Unreachable};
    matches!(
        kind,
        Died | BrokenOff | ServerError | Malformed | Empty | Stalled | TimedOut | Unreachable
    )
}

fn server_failed(request: &RequestRecord) -> bool {
    request.failure.as_ref().is_some_and(|failure| is_servers(failure.kind))
}

/// Whether a test ended since the server did not hold. One that was never ready says nothing of its format.
fn broke_off(test: &TestRecord) -> bool {
    let fails = matches!(&test.outcome, Outcome::Failed { failure } if is_servers(failure.kind));
    fails && test.server.is_some()
}

/// No measure that both sides have.
fn nothing_to_compare(plan: &Plan, tests: &[&TestRecord]) -> (Option<Format>, Confidence, String) {
    let unsaid = |why: String| {
        let said = format!("which format serves better cannot be said: {why}");
        (None, Confidence::None, said)
    };
    if let [format] = plan.formats[..] {
        return unsaid(format!("only {} was asked for", format.title()));
    }
    let count = |format: Format, counts: fn(&RequestRecord) -> bool| {
        let tests: Vec<&TestRecord> = tests.iter().copied().filter(|test| test.key.format == format).collect();
        measured(&tests).filter(|request| counts(request)).count()
    };
    let answered = |format| count(format, |request| request.failure.is_none());
    for format in Format::ALL {
        let (name, other) = (format.title(), format.other().title());
        if answered(format) == 0 || answered(format.other()) > 0 {
            continue;
        }
        let failed = count(format.other(), server_failed);
        if failed > 0 {
            let confidence = if failed < VALUES_FOR_NOISE {
                Confidence::Low
            } else {
                Confidence::Medium
            };
            return (
                Some(format),
                confidence,
                format!("{name} serves better: {other} answered no request"),
            );
        }
        return match count(format.other(), has_failed) {
            0 => unsaid(format!("only {name} was measured")),
            refused => unsaid(format!(
                "only {name} was measured, and the server of {other} refused {}",
                counted(refused, "request")
            )),
        };
    }
    unsaid("too little was measured".to_owned())
}

fn judge(deciding: &[Deciding], troubles: &[Trouble]) -> (Option<Format>, Confidence, String) {
    let won = |format: Format| {
        deciding
            .iter()
            .filter(|measure| measure.better() == Some(format))
            .count()
    };
    let points = |format: Format| {
        won(format)
            + troubles
                .iter()
                .filter(|trouble| trouble.format == format.other())
                .count()
    };
    let grave = |format: Format| troubles.iter().any(|trouble| trouble.format == format && trouble.grave);
    let few = deciding.iter().any(|measure| {
        matches!(measure.aspect, Aspect::FirstToken | Aspect::PerToken) && measure.values() < VALUES_FOR_NOISE
    });
    let (leader, follower) = if points(Format::Mlx) > points(Format::Gguf) {
        (Format::Mlx, Format::Gguf)
    } else {
        (Format::Gguf, Format::Mlx)
    };
    let leads = points(leader) > 0 && points(leader) >= WINS_FOR_ONE_LOSS * points(follower);
    let (better, confidence) = if leads && !grave(leader) {
        (
            Some(leader),
            confidence_of_leader(deciding, won(leader), points(follower)),
        )
    } else if points(leader) == 0 {
        (None, Confidence::Medium)
    } else {
        (None, Confidence::Low)
    };
    let confidence = if few || deciding.len() < MEASURES_FOR_CERTAINTY {
        confidence.min(Confidence::Low)
    } else {
        confidence
    };
    let said = match better {
        Some(format) => advantage(deciding, format),
        None if leads && won(leader) > 0 => advantage(deciding, leader),
        None => strengths(deciding),
    };
    (better, confidence, said)
}

fn confidence_of_leader(deciding: &[Deciding], won: usize, against: usize) -> Confidence {
    if against == 0 && won == deciding.len() && won >= MEASURES_FOR_CERTAINTY {
        Confidence::High
    } else if 2 * won > deciding.len() {
        Confidence::Medium
    } else {
        Confidence::Low
    }
}

/// What the better format gives, in numbers.
fn advantage(deciding: &[Deciding], format: Format) -> String {
    let name = format.title();
    let won = |aspect: Aspect| {
        deciding
            .iter()
            .find(|measure| measure.aspect == aspect && measure.better() == Some(format))
    };
    let speed = if let Some(measure) = won(Aspect::Throughput) {
        Some(format!(
            "{} times the tokens in a second",
            ratio(measure.ratio_of(format))
        ))
    } else if let Some(measure) = won(Aspect::PerToken) {
        Some(format!(
            "{} times the tokens in a second of one answer",
            ratio(1.0 / measure.ratio_of(format))
        ))
    } else {
        let sooner = |aspect, what: &str| {
            won(aspect).map(|measure| format!("{what} in {} of the time", ratio(measure.ratio_of(format))))
        };
        sooner(Aspect::FirstToken, "its first token")
            .or_else(|| sooner(Aspect::LongPrompt, "its first token after a long prompt"))
    };
    let memory = deciding
        .iter()
        .find(|measure| measure.aspect == Aspect::Memory && measure.better().is_some());
    let memory = memory.map(|measure| ratio(measure.ratio_of(format)));
    let lost_memory = won(Aspect::Memory).is_none();
    let said = match (speed, memory) {
        (Some(speed), Some(memory)) if lost_memory => format!("{speed} in {memory} times the memory"),
        (Some(speed), Some(memory)) => format!("{speed} in {memory} of the memory"),
        (Some(speed), None) => speed,
        (None, Some(memory)) if !lost_memory => match speeds(deciding) {
            Speeds::NotMeasured => format!("in {memory} of the memory; speed was not measured"),
            Speeds::Alike => format!("alike in speed, in {memory} of the memory"),
            Speeds::Differ => format!("in {memory} of the memory"),
        },
        (None, _) => {
            let loads = won(Aspect::Load).map(|_| "it loads faster".to_owned());
            let parts: Vec<String> = loads.into_iter().chain(alike(deciding)).collect();
            parts.join(", and ")
        }
    };
    // What the other gives for its memory was said.
    let others = deciding.iter().filter(|measure| {
        measure.better() == Some(format.other()) && (measure.aspect != Aspect::Memory || !said.ends_with("the memory"))
    });
    let others: Vec<&str> = others.map(|measure| measure.aspect.praise()).collect();
    let said = if said.is_empty() { said } else { format!(": {said}") };
    let others = match others.as_slice() {
        [] => String::new(),
        _ => format!("; {} {}", format.other().title(), listed(&others)),
    };
    format!("{name} serves better{said}{others}")
}

/// What all measures of speed say together.
enum Speeds {
    NotMeasured,
    Alike,
    Differ,
}

fn speeds(deciding: &[Deciding]) -> Speeds {
    let mut measured = deciding.iter().filter(|measure| measure.aspect.is_speed()).peekable();
    if measured.peek().is_none() {
        Speeds::NotMeasured
    } else if measured.all(|measure| measure.better().is_none()) {
        Speeds::Alike
    } else {
        Speeds::Differ
    }
}

/// What neither format is better in, by name: of what was not measured nothing is known.
fn alike(deciding: &[Deciding]) -> Option<String> {
    let mut names: Vec<&str> = Vec::new();
    for measure in deciding.iter().filter(|measure| measure.better().is_none()) {
        if !names.contains(&measure.aspect.name()) {
            names.push(measure.aspect.name());
        }
    }
    (!names.is_empty()).then(|| format!("the two are alike in {}", listed(&names)))
}

/// What each format is better at.
fn strengths(deciding: &[Deciding]) -> String {
    let of = |format: Format| -> Vec<&str> {
        let won = deciding.iter().filter(|measure| measure.better() == Some(format));
        won.map(|measure| measure.aspect.praise()).collect()
    };
    let sentence = |format: Format, praises: &[&str]| format!("{} {}", format.title(), listed(praises));
    let (gguf, mlx) = (of(Format::Gguf), of(Format::Mlx));
    match (gguf.is_empty(), mlx.is_empty()) {
        (true, true) => {
            let alike = alike(deciding).map_or_else(String::new, |alike| format!(": {alike}"));
            format!("neither format serves better{alike}")
        }
        (false, false) => format!(
            "the formats are good at different things: {}, {}",
            sentence(Format::Gguf, &gguf),
            sentence(Format::Mlx, &mlx)
        ),
        (false, true) => format!("neither format is better in all: {}", sentence(Format::Gguf, &gguf)),
        (true, false) => format!("neither format is better in all: {}", sentence(Format::Mlx, &mlx)),
    }
}

/// Troubles first, then what the measures say.
fn headline(troubles: &[Trouble], better: Option<Format>, said: &str) -> String {
    if troubles.is_empty() {
        return said.to_owned();
    }
    let told: Vec<&str> = troubles.iter().map(|trouble| trouble.told.as_str()).collect();
    let of_better = troubles
        .iter()
        .any(|trouble| better.is_none_or(|format| trouble.format == format));
    let joint = if of_better { "; apart from that " } else { "; " };
    format!("{}{joint}{said}", listed(&told))
}
