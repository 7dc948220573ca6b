//! Sides of a comparison whose truth is known.

use mlx_diagnose::compare::{Format, MemorySample, RequestRecord, TestRecord, Unit};

use crate::compare::analysis_records::{Made, answered, figure, memory, test};

pub const MB: u64 = 1_000_000;

/// Within which no measure differs from one request to the next by more than its noise.
pub const JITTER: [f64; 8] = [1.0, 1.01, 0.99, 1.005, 0.995, 1.008, 0.992, 1.0];

/// How one side does.
#[derive(Clone, Copy)]
pub struct Pace {
    pub first: f64,
    pub gap: f64,
    pub at_once: f64,
    pub memory: u64,
    pub load: f64,
}

pub const SLOW: Pace = Pace {
    first: 0.2,
    gap: 0.04,
    at_once: 0.04,
    memory: 1000 * MB,
    load: 4.0,
};

pub const FAST: Pace = Pace {
    first: 0.1,
    gap: 0.02,
    at_once: 0.02,
    memory: 700 * MB,
    load: 2.0,
};

pub fn requests(group: &str, pace: Pace) -> Vec<RequestRecord> {
    let jitter = JITTER.into_iter().enumerate();
    jitter
        .map(|(number, jitter)| answered(group, 10.0 * number as f64, pace.first * jitter, pace.gap * jitter, 11))
        .collect()
}

/// One side of all that decides.
pub fn side(made: Made, format: Format, pace: Pace) -> Made {
    let mut simple = test("simple-generation", format, 0);
    simple.requests = requests("measure", pace);
    let samples = vec![
        memory(0.0, pace.memory / 2),
        memory(1.0, pace.memory),
        memory(2.0, pace.memory - 1),
    ];
    let mut loaded = test("cold-start", format, 0);
    loaded.figures = ["ready-cold", "ready-warm"]
        .map(|name| figure(name, Unit::Seconds, &[pace.load]))
        .to_vec();
    let mut made = made.with(simple, samples.clone()).with(loaded, samples.clone());
    for (round, jitter) in JITTER.into_iter().enumerate().take(5) {
        let mut concurrent = test("concurrency", format, round);
        let pace = Pace {
            gap: pace.at_once * jitter,
            ..pace
        };
        concurrent.requests = requests("concurrency-4", pace);
        concurrent.requests.iter_mut().for_each(|request| {
            let begun = request.due;
            request.due = 0.0;
            request.times.sent = 0.0;
            request.times.ended -= begun;
            request.times.pieces.iter_mut().for_each(|piece| *piece -= begun);
        });
        made = made.with(concurrent, samples.clone());
    }
    made
}

pub fn both(gguf: Pace, mlx: Pace) -> Made {
    let made = Made::of(&["cold-start", "simple-generation", "concurrency"]);
    side(side(made, Format::Gguf, gguf), Format::Mlx, mlx)
}

pub fn simple(requests: &[RequestRecord]) -> Made {
    let made = Made::of(&["simple-generation"]);
    made.with_both(|format| {
        let mut test = test("simple-generation", format, 0);
        test.requests = requests.to_vec();
        (test, vec![memory(0.0, MB)])
    })
}

pub fn warnings(requests: &[RequestRecord]) -> Vec<String> {
    let mut warnings = simple(requests).judged().warnings;
    warnings.retain(|warning| !warning.contains("the noise is not known"));
    warnings
}

/// Each request leaves a MB.
pub fn leaking(format: Format) -> (TestRecord, Vec<MemorySample>) {
    let mut test = test("memory-leak", format, 0);
    test.requests = (0..40)
        .map(|number| answered("leak-cache-off", f64::from(number), 0.1, 0.01, 11))
        .collect();
    let samples = (0..40_u32).map(|number| memory(f64::from(number) + 0.5, (100 + u64::from(number)) * MB));
    (test, samples.collect())
}
