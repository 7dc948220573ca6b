//! Records of comparisons that never were, made of what a test needs.

use std::collections::BTreeMap;

use mlx_diagnose::compare::analysis::{Analysis, Comparison, PairAnalysis, Samples, analyse};
use mlx_diagnose::compare::{
    AnswerTimes, Failure, FailureKind, Figure, Format, Limits, Machine, MemoryRecord, MemorySample, ModelPair, Outcome,
    Phase, Plan, ProcessSample, RECORD_SCHEMA_VERSION, Record, RequestRecord, ServerKind, ServerTimings, Side, TestKey,
    TestRecord, Unit, Usage,
};

pub const PAIR: &str = "pair";

/// Tests with their samples of memory.
pub struct Made {
    pub record: Record,
    pub samples: Samples,
}

impl Made {
    /// A comparison of one pair in these scenarios, none of which was run yet.
    pub fn of(scenarios: &[&str]) -> Self {
        let side = Side {
            server: ServerKind::OpenAi,
            model: "model".to_owned(),
            address: None,
            command: None,
            environment: BTreeMap::new(),
            api_key_variable: None,
        };
        let plan = Plan {
            pairs: vec![ModelPair {
                name: PAIR.to_owned(),
                gguf: side.clone(),
                mlx: side,
                tokenizer: None,
                mixture: None,
            }],
            scenarios: scenarios.iter().map(|&scenario| scenario.to_owned()).collect(),
            formats: Format::ALL.to_vec(),
            rounds: 1,
            repeats: 8,
            warm_ups: 1,
            answer_tokens: 128,
            prompts: vec!["Why is the sky blue?".to_owned()],
            context_tokens: 4000,
            leak_requests: 40,
            concurrency: vec![1, 4],
            request_rate: None,
            limits: Limits {
                load: 60.0,
                request: 60.0,
                stall: 60.0,
                test: 600.0,
            },
            memory_interval_ms: 100,
            seed: 1,
        };
        let machine = Machine {
            tool_version: "0.1.0".to_owned(),
            platform: "linux x86_64".to_owned(),
            system: None,
            processor: None,
            usable_cores: 2,
            memory: None,
            load_average: None,
        };
        let record = Record {
            schema_version: RECORD_SCHEMA_VERSION,
            began: "2026-01-01T00:00:00Z".to_owned(),
            machine,
            plan,
            interrupted: false,
            tests: Vec::new(),
        };
        Self {
            record,
            samples: Samples::new(),
        }
    }

    /// With one more test, of which memory is as given.
    pub fn with(mut self, test: TestRecord, samples: Vec<MemorySample>) -> Self {
        self.samples.insert(test.key.clone(), samples);
        self.record.tests.push(test);
        self
    }

    /// With the same test on both sides, made by `test`.
    pub fn with_both(self, test: impl Fn(Format) -> (TestRecord, Vec<MemorySample>)) -> Self {
        Format::ALL.into_iter().fold(self, |made, format| {
            let (test, samples) = test(format);
            made.with(test, samples)
        })
    }

    /// What is said of the pair.
    pub fn judged(&self) -> PairAnalysis {
        let Analysis { mut pairs } = analyse(&self.record, &self.samples);
        assert_eq!(pairs.len(), 1);
        pairs.remove(0)
    }
}

/// A finished test without requests.
pub fn test(scenario: &str, format: Format, round: usize) -> TestRecord {
    TestRecord {
        key: TestKey {
            pair: PAIR.to_owned(),
            scenario: scenario.to_owned(),
            format,
            round,
        },
        began: "2026-01-01T00:00:00Z".to_owned(),
        seconds: 100.0,
        outcome: Outcome::Completed,
        server: None,
        phases: Vec::new(),
        requests: Vec::new(),
        figures: Vec::new(),
        memory: Some(MemoryRecord {
            interval_ms: 100,
            taken: 100,
            missed: 0,
            cost_seconds: 0.1,
            holder: None,
            unknown: Vec::new(),
        }),
        notes: Vec::new(),
    }
}

/// An answered request: due and sent at `due`, its first text `first` seconds later and then `tokens - 1` more, each after
/// `gap` seconds, one piece each.
pub fn answered(group: &str, due: f64, first: f64, gap: f64, tokens: usize) -> RequestRecord {
    let pieces: Vec<f64> = (0..tokens).map(|number| due + first + gap * number as f64).collect();
    let concurrency = group
        .strip_prefix("concurrency-")
        .map_or(1, |count| count.parse().unwrap());
    RequestRecord {
        group: group.to_owned(),
        concurrency,
        due,
        times: AnswerTimes {
            sent: due,
            headers: None,
            ended: *pieces.last().unwrap(),
            pieces,
        },
        characters: 4 * tokens,
        text: "text".to_owned(),
        finish_reason: Some("length".to_owned()),
        usage: Some(Usage {
            prompt_tokens: 100,
            completion_tokens: tokens,
            cached_tokens: Some(0),
        }),
        counted_tokens: None,
        timings: None,
        failure: None,
    }
}

/// The same, failed without a word.
pub fn failed(group: &str, due: f64, kind: FailureKind, reason: &str) -> RequestRecord {
    let mut request = answered(group, due, 1.0, 1.0, 1);
    request.times.pieces.clear();
    request.usage = None;
    request.failure = Some(failure(kind, reason));
    request
}

pub fn failure(kind: FailureKind, reason: &str) -> Failure {
    Failure {
        kind,
        reason: reason.to_owned(),
        hint: Some("look at its log".to_owned()),
    }
}

/// Server's own times of a request.
pub fn timings(prompt: f64, generation: f64) -> ServerTimings {
    ServerTimings {
        prompt: Some(prompt),
        generation: Some(generation),
        ..ServerTimings::default()
    }
}

pub fn figure(name: &str, unit: Unit, values: &[f64]) -> Figure {
    Figure {
        name: name.to_owned(),
        unit,
        values: values.to_vec(),
        note: "how it was measured".to_owned(),
    }
}

pub fn phase(name: &str, begin: f64, end: f64) -> Phase {
    Phase {
        name: name.to_owned(),
        begin,
        end,
    }
}

/// One process with so many bytes.
pub fn memory(at: f64, bytes: u64) -> MemorySample {
    MemorySample {
        at,
        processes: vec![ProcessSample {
            pid: 1,
            name: "server".to_owned(),
            resident: Some(2 * bytes),
            proportional: Some(bytes),
            anonymous: Some(bytes / 4),
            file: Some(bytes / 2),
            footprint: None,
            wired: None,
        }],
        available: None,
        wired: None,
    }
}

/// The one comparison of this measure in this scenario.
pub fn compared<'a>(pair: &'a PairAnalysis, scenario: &str, measure: &str) -> &'a Comparison {
    let mut found = pair
        .comparisons
        .iter()
        .filter(|comparison| comparison.scenario == scenario && comparison.measure == measure);
    let names = || {
        pair.comparisons
            .iter()
            .map(|comparison| &comparison.measure)
            .collect::<Vec<_>>()
    };
    let comparison = found
        .next()
        .unwrap_or_else(|| panic!("no {measure} among {:?}", names()));
    assert!(found.next().is_none(), "{measure} is there twice");
    comparison
}
