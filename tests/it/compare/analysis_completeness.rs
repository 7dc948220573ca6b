//! What a comparison could not measure is told, and keeps it from being complete.

use mlx_diagnose::compare::analysis::{NotMeasured, is_complete};
use mlx_diagnose::compare::{FailureKind, Format, Outcome, TestRecord, Unit};

use crate::compare::analysis_records::{Made, failure, figure, memory, test};
use crate::compare::analysis_sides::{FAST, SLOW, both, leaking};

#[test]
fn what_could_not_be_measured_is_listed_with_its_reason() {
    let outcomes = |scenario: &str, format: Format| match (scenario, format) {
        ("mixture", _) => Outcome::Skipped {
            reason: "the model is no mixture".to_owned(),
        },
        ("cold-start", Format::Mlx) => Outcome::Failed {
            failure: failure(FailureKind::NotLoaded, "the model is not there"),
        },
        ("quality", Format::Gguf) => Outcome::Interrupted,
        _ => Outcome::Completed,
    };
    let mut made = Made::of(&["mixture", "cold-start", "quality"]);
    for scenario in ["mixture", "cold-start", "quality"] {
        made = made.with_both(|format| {
            let mut test = test(scenario, format, 0);
            test.outcome = outcomes(scenario, format);
            test.figures = ["ready-cold", "ready-warm"]
                .map(|name| figure(name, Unit::Seconds, &[1.0]))
                .to_vec();
            (test, vec![memory(0.0, 1)])
        });
    }
    let entry = |scenario: &str, format, reason: &str, hint: Option<&str>| NotMeasured {
        scenario: scenario.to_owned(),
        format,
        reason: reason.to_owned(),
        hint: hint.map(str::to_owned),
    };
    assert_eq!(
        made.judged().not_measured,
        [
            entry("mixture", None, "the model is no mixture", None),
            entry(
                "cold-start",
                Some(Format::Mlx),
                "the model is not there",
                Some("look at its log")
            ),
            entry("quality", Some(Format::Gguf), "it was interrupted", None),
        ]
    );
}

#[test]
fn memory_that_could_not_be_read_and_values_of_one_side_are_listed() {
    let mut made = both(SLOW, FAST);
    for (key, samples) in &mut made.samples {
        if key.scenario == "simple-generation" && key.format == Format::Mlx {
            samples.clear();
        }
    }
    let missing = made.judged().not_measured;
    assert_eq!(missing.len(), 1);
    assert_eq!(
        (missing[0].scenario.as_str(), missing[0].format),
        ("simple-generation", Some(Format::Mlx))
    );
    assert_eq!(
        missing[0].reason,
        "memory: none of the server's processes could be read"
    );
    let mut made = both(SLOW, FAST);
    made.record.tests.iter_mut().for_each(|test| {
        if test.key.format == Format::Gguf {
            test.figures.clear();
        }
    });
    assert_eq!(
        unmeasured(&made),
        [
            (
                "cold-start",
                Some(Format::Gguf),
                "time to load (files read from disk) has no value"
            ),
            (
                "cold-start",
                Some(Format::Gguf),
                "time to load (files in memory) has no value"
            ),
        ]
        .map(|(scenario, format, reason)| (scenario.to_owned(), format, reason.to_owned()))
    );
}

/// What is said not to be measured, without hints.
fn unmeasured(made: &Made) -> Vec<(String, Option<Format>, String)> {
    let missing = made.judged().not_measured.into_iter();
    missing
        .map(
            |NotMeasured {
                 scenario,
                 format,
                 reason,
                 ..
             }| (scenario, format, reason),
        )
        .collect()
}

#[test]
fn what_both_sides_lack_is_listed_too() {
    let mut made = both(SLOW, FAST);
    made.record.tests.iter_mut().for_each(|test| test.figures.clear());
    let missing = unmeasured(&made);
    assert_eq!(
        missing[0],
        (
            "cold-start".to_owned(),
            None,
            "time to load (files read from disk) has no value".to_owned()
        )
    );
    assert_eq!(missing.len(), 2);
    let (mut leak, samples) = leaking(Format::Mlx);
    leak.key.format = Format::Mlx;
    let cached = "whether memory grows with the prompt cache on".to_owned();
    let missing = unmeasured(&both(SLOW, FAST).with(leak, samples));
    assert!(
        missing.contains(&("memory-leak".to_owned(), Some(Format::Mlx), cached)),
        "{missing:?}"
    );
}

#[test]
fn samples_whose_file_is_lost_are_told_from_processes_that_cannot_be_read() {
    let mut made = both(SLOW, FAST);
    let complete = is_complete(&made.record, &made.samples);
    made.samples
        .retain(|key, _| key.scenario != "cold-start" || key.format != Format::Gguf);
    let lost = (
        "cold-start".to_owned(),
        Some(Format::Gguf),
        "memory: the file of its samples is missing".to_owned(),
    );
    assert!(unmeasured(&made).contains(&lost), "{:?}", unmeasured(&made));
    assert_eq!((complete, is_complete(&made.record, &made.samples)), (true, false));
}

#[test]
fn a_comparison_is_complete_only_where_every_test_of_its_plan_was_measured() {
    let complete = |change: &dyn Fn(&mut Made)| {
        let mut made = both(SLOW, FAST);
        change(&mut made);
        is_complete(&made.record, &made.samples)
    };
    assert!(complete(&|_| ()));
    // Killed before the last round, and before anything.
    assert!(!complete(&|made| made.record.plan.rounds = 2));
    assert!(!complete(&|made| made.record.tests.clear()));
    assert!(!complete(&|made| made.record.interrupted = true));
    let fail = |made: &mut Made, count: usize| {
        for request in made.record.tests[0].requests.iter_mut().take(count) {
            request.failure = Some(failure(FailureKind::Stalled, "nothing came"));
        }
    };
    // One of eight requests is more than one in twenty.
    assert!(!complete(&|made| fail(made, 1)));
    assert!(!complete(&|made| fail(made, 8)));
    // A model that is no mixture lacks nothing; a plan of which nothing applies has measured nothing.
    let skip = |test: &mut TestRecord| {
        test.outcome = Outcome::Skipped {
            reason: "no mixture".to_owned(),
        };
    };
    assert!(complete(&|made| skip(&mut made.record.tests[0])));
    assert!(!complete(&|made| made.record.tests.iter_mut().for_each(skip)));
}

#[test]
fn rounds_that_were_not_begun_are_listed() {
    let mut made = both(SLOW, FAST);
    made.record.plan.rounds = 3;
    let missing = unmeasured(&made);
    let entry = |scenario: &str| (scenario.to_owned(), None, "2 rounds of it were not begun".to_owned());
    assert_eq!(missing, ["cold-start", "simple-generation"].map(entry));
}
