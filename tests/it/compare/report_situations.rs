//! Comparisons as they come out of a run, made by hand.

use std::collections::BTreeMap;

use mlx_diagnose::compare::analysis::{
    Analysis, Comparison, Confidence, Interval, LeakAnalysis, LeakVerdict, NotMeasured, PairAnalysis, Ratio, Samples,
    Summary, Verdict,
};
use mlx_diagnose::compare::{
    AnswerTimes, Failure, FailureKind, Figure, Format, Limits, Machine, MemoryRecord, MemorySample, ModelPair, Outcome,
    Phase, Plan, ProcessSample, RECORD_SCHEMA_VERSION, Record, RequestRecord, ServerDescription, ServerKind,
    ServerTimings, Side, Start, TestKey, TestRecord, Unit, Usage,
};

pub const PAIR: &str = "SmolLM2-135M";

/// Everything that a report is made of.
#[derive(Clone)]
pub struct Situation {
    pub record: Record,
    pub samples: Samples,
    pub analysis: Analysis,
}

impl Situation {
    pub fn pair(&mut self) -> &mut PairAnalysis {
        &mut self.analysis.pairs[0]
    }

    /// The same with the pair called otherwise everywhere.
    pub fn renamed(mut self, name: &str) -> Self {
        name.clone_into(&mut self.pair().pair);
        name.clone_into(&mut self.record.plan.pairs[0].name);
        for test in &mut self.record.tests {
            name.clone_into(&mut test.key.pair);
        }
        self.samples = self
            .samples
            .into_iter()
            .map(|(key, samples)| {
                (
                    TestKey {
                        pair: name.to_owned(),
                        ..key
                    },
                    samples,
                )
            })
            .collect();
        self
    }
}

/// How one format does in a situation.
#[derive(Clone, Copy)]
struct Course {
    first_token: f64,
    token: f64,
    /// Bytes after loading, of which half are anonymous, and bytes that each request adds.
    memory: f64,
    growth: f64,
}

const GGUF: Course = Course {
    first_token: 0.42,
    token: 0.0125,
    memory: 262e6,
    growth: 1024.0,
};

const MLX: Course = Course {
    first_token: 0.21,
    token: 0.0071,
    memory: 331e6,
    growth: 512.0,
};

/// MLX answers in half the time.
pub fn clear_win() -> Situation {
    let mut situation = measured(GGUF, MLX);
    situation.pair().verdict = Verdict {
        better: Some(Format::Mlx),
        confidence: Confidence::High,
        headline: "MLX serves better: 1.8 times the tokens in a second of one answer in 1.3 times the memory".to_owned(),
        reasons: vec![
            "MLX answers sooner: time to first token is 418 ms with GGUF, 209 ms with MLX (0.50 times, 0.48 to 0.52)".to_owned(),
            "MLX writes faster: time per output token is 12.5 ms with GGUF, 7.12 ms with MLX (0.57 times, 0.55 to 0.58)".to_owned(),
        ],
    };
    situation.pair().warnings = vec!["`llama-server` found 24 of 61 tokens of a prompt in its cache".to_owned()];
    situation
}

/// MLX is faster and takes three times the memory.
pub fn contradicting() -> Situation {
    let mut situation = measured(GGUF, Course { memory: 798e6, ..MLX });
    situation.pair().verdict = Verdict {
        better: None,
        confidence: Confidence::Low,
        headline: "the formats are good at different things: GGUF needs less memory, MLX answers sooner".to_owned(),
        reasons: vec![
            "MLX answers sooner: time to first token is 418 ms with GGUF, 209 ms with MLX (0.50 times, 0.48 to 0.52)"
                .to_owned(),
            "GGUF needs less memory: peak memory is 262 MB with GGUF, 798 MB with MLX (3.0 times, 3.0 to 3.0)"
                .to_owned(),
        ],
    };
    situation
}

/// MLX's server grows by 1 MB with every request.
pub fn leak() -> Situation {
    let mut situation = measured(GGUF, Course { growth: 1e6, ..MLX });
    let pair = situation.pair();
    pair.verdict = Verdict {
        better: Some(Format::Gguf),
        confidence: Confidence::Medium,
        headline: "MLX leaks 1.00 MB with each request; GGUF serves better: the two are alike otherwise".to_owned(),
        reasons: vec!["MLX leaks 1.00 MB with each request".to_owned()],
    };
    let leaking = pair.leaks.last_mut().unwrap();
    leaking.verdict = LeakVerdict::Leak;
    "MLX: memory leaks 1.00 MB with each request without prompt cache (999 kB to 1.00 MB)"
        .clone_into(&mut leaking.headline);
    situation
}

/// MLX's model could not be loaded.
pub fn one_side_failed() -> Situation {
    let mut situation = measured(GGUF, MLX);
    let failure = Failure {
        kind: FailureKind::NotLoaded,
        reason: "`mlx_lm.server` has no model `mlx-community/SmolLM2-135M`".to_owned(),
        hint: Some("run `scripts/fetch-smollm2`".to_owned()),
    };
    for test in situation
        .record
        .tests
        .iter_mut()
        .filter(|test| test.key.format == Format::Mlx)
    {
        test.outcome = Outcome::Failed {
            failure: failure.clone(),
        };
        (test.server, test.memory) = (None, None);
        test.phases.clear();
        test.requests.clear();
        test.figures.clear();
        test.notes.clear();
        test.seconds = 0.8;
    }
    situation.samples.retain(|key, _| key.format == Format::Gguf);
    let pair = situation.pair();
    pair.leaks.retain(|leak| leak.format == Format::Gguf);
    for comparison in &mut pair.comparisons {
        (comparison.mlx, comparison.ratio, comparison.better) = (None, None, None);
    }
    pair.verdict = Verdict {
        better: None,
        confidence: Confidence::None,
        headline: "which format serves better cannot be said: only GGUF was measured".to_owned(),
        reasons: Vec::new(),
    };
    pair.not_measured = vec![NotMeasured {
        scenario: "every scenario".to_owned(),
        format: Some(Format::Mlx),
        reason: failure.reason,
        hint: failure.hint,
    }];
    situation
}

/// The user ended it before anything was measured.
pub fn interrupted() -> Situation {
    let mut situation = measured(GGUF, MLX);
    situation.record.interrupted = true;
    situation.record.tests.clear();
    situation.samples.clear();
    *situation.pair() = PairAnalysis {
        pair: PAIR.to_owned(),
        verdict: Verdict {
            better: None,
            confidence: Confidence::None,
            headline: "which format serves better cannot be said: too little was measured".to_owned(),
            reasons: Vec::new(),
        },
        comparisons: Vec::new(),
        leaks: Vec::new(),
        warnings: Vec::new(),
        not_measured: vec![NotMeasured {
            scenario: "simple-generation".to_owned(),
            format: None,
            reason: "the user ended the comparison before it".to_owned(),
            hint: Some("go on with `--resume`".to_owned()),
        }],
    };
    situation
}

/// Both formats in every scenario.
fn measured(gguf: Course, mlx: Course) -> Situation {
    let mut tests = Vec::new();
    let mut samples = Samples::new();
    for scenario in ["simple-generation", "context-stress", "memory-leak", "concurrency"] {
        for round in 0..2 {
            for (format, course) in [(Format::Gguf, gguf), (Format::Mlx, mlx)] {
                let test = test(scenario, round, format, course);
                samples.insert(test.key.clone(), memory(&test, course));
                tests.push(test);
            }
        }
    }
    let seconds = |format, value: fn(&RequestRecord) -> f64| -> Vec<f64> {
        let of_format = |test: &&TestRecord| test.key.format == format && test.key.scenario == "simple-generation";
        let requests = tests.iter().filter(of_format).flat_map(|test| &test.requests);
        requests
            .filter(|request| request.group == "measure")
            .map(value)
            .collect()
    };
    let first_token = |request: &RequestRecord| request.times.pieces[0] - request.due;
    let per_token = |request: &RequestRecord| (request.times.ended - request.times.pieces[0]) / 31.0;
    let comparisons = vec![
        comparison(
            "time-to-first-token",
            "time to first token",
            Unit::Seconds,
            [seconds(Format::Gguf, first_token), seconds(Format::Mlx, first_token)],
        ),
        comparison(
            "time-per-output-token",
            "time per output token, (end - first piece) / (tokens - 1)",
            Unit::Seconds,
            [seconds(Format::Gguf, per_token), seconds(Format::Mlx, per_token)],
        ),
        comparison(
            "peak-memory",
            "peak of charged memory",
            Unit::Bytes,
            [vec![gguf.memory], vec![mlx.memory]],
        ),
    ];
    let analysis = PairAnalysis {
        pair: PAIR.to_owned(),
        verdict: Verdict {
            better: None,
            confidence: Confidence::None,
            headline: String::new(),
            reasons: Vec::new(),
        },
        comparisons,
        leaks: vec![
            steady(Format::Gguf, true, gguf),
            steady(Format::Gguf, false, gguf),
            steady(Format::Mlx, false, mlx),
        ],
        warnings: Vec::new(),
        not_measured: Vec::new(),
    };
    Situation {
        record: Record {
            schema_version: RECORD_SCHEMA_VERSION,
            began: "2026-11-22T01:20:00Z".to_owned(),
            machine: machine(),
            plan: plan(),
            interrupted: false,
            tests,
        },
        samples,
        analysis: Analysis { pairs: vec![analysis] },
    }
}

fn machine() -> Machine {
    Machine {
        tool_version: "0.1.0".to_owned(),
        platform: "linux x86_64".to_owned(),
        system: Some("Debian 13".to_owned()),
        processor: Some("A Processor <of> 3 & 4 GHz".to_owned()),
        usable_cores: 2,
        memory: Some(24_000_000_000),
        load_average: Some([0.25, 0.5, 0.75]),
    }
}

fn plan() -> Plan {
    let side = |server, model: &str| Side {
        server,
        model: model.to_owned(),
        address: None,
        command: None,
        environment: BTreeMap::new(),
        api_key_variable: None,
    };
    Plan {
        pairs: vec![ModelPair {
            name: PAIR.to_owned(),
            gguf: side(ServerKind::LlamaServer, "models/smollm2-135m.Q8_0.gguf"),
            mlx: Side {
                environment: BTreeMap::from([("MLX_CACHE".to_owned(), "secret".to_owned())]),
                ..side(ServerKind::Diagnose, "models/smollm2-135m-8bit")
            },
            tokenizer: None,
            mixture: Some(false),
        }],
        formats: Format::ALL.to_vec(),
        scenarios: ["simple-generation", "context-stress", "memory-leak", "concurrency"]
            .map(str::to_owned)
            .to_vec(),
        rounds: 2,
        repeats: 8,
        warm_ups: 1,
        answer_tokens: 32,
        prompts: vec!["Why is the sky *blue*?".to_owned()],
        context_tokens: 4000,
        leak_requests: 40,
        concurrency: vec![1, 2, 4, 8],
        request_rate: None,
        limits: Limits {
            load: 180.0,
            request: 300.0,
            stall: 60.0,
            test: 1200.0,
        },
        memory_interval_ms: 100,
        seed: 7,
    }
}

fn server(format: Format, scenario: &str, round: usize) -> ServerDescription {
    // A free port is another one each time.
    let port = (41_000 + round).to_string();
    let command = match format {
        Format::Gguf => format!("llama-server -m models/smollm2-135m.Q8_0.gguf --port {port} -np 1"),
        Format::Mlx => format!("mlx-diagnose serve --model models/smollm2-135m-8bit --port {port}"),
    };
    ServerDescription {
        kind: match format {
            Format::Gguf => ServerKind::LlamaServer,
            Format::Mlx => ServerKind::Diagnose,
        },
        version: Some("1.2.3".to_owned()),
        address: format!("http://127.0.0.1:{port}"),
        command: Some(command.split(' ').map(str::to_owned).collect()),
        model: "smollm2-135m".to_owned(),
        quantisation: Some("Q8_0".to_owned()).filter(|_| format == Format::Gguf),
        context_length: Some(if scenario == "context-stress" { 8192 } else { 2048 }),
        start: Start::Process,
        details: BTreeMap::from([("slots".to_owned(), "1".to_owned())]),
    }
}

/// Small differences between repeats, between -1 and 1.
fn noise(index: usize) -> f64 {
    ((index * 37) % 23) as f64 / 11.0 - 1.0
}

fn test(scenario: &str, round: usize, format: Format, course: Course) -> TestRecord {
    let mut requests = vec![request(0, "warm-up", 1, 3.0, 61, course)];
    let mut due = requests[0].times.ended + 0.2;
    let groups: Vec<(String, usize, usize, usize)> = match scenario {
        "context-stress" => vec![("context-4000".to_owned(), 1, 2, 4012)],
        "memory-leak" => vec![("leak-cache-off".to_owned(), 1, 40, 70)],
        "concurrency" => [1, 2, 4, 8]
            .map(|level| (format!("concurrency-{level}"), level, 2 * level, 66))
            .to_vec(),
        _ => vec![("measure".to_owned(), 1, 8, 61)],
    };
    let measure_from = due;
    for (group, level, count, prompt) in groups {
        for index in 0..count {
            let request = request(index + round, &group, level, due, prompt, course);
            if (index + 1) % level == 0 {
                due = request.times.ended + 0.05;
            }
            requests.push(request);
        }
    }
    TestRecord {
        key: TestKey {
            pair: PAIR.to_owned(),
            scenario: scenario.to_owned(),
            format,
            round,
        },
        began: "2026-11-22T01:20:00Z".to_owned(),
        seconds: due + 1.0,
        outcome: Outcome::Completed,
        server: Some(server(format, scenario, round)),
        phases: vec![
            phase("load", 0.0, 2.8),
            phase("warm-up", 3.0, requests[0].times.ended),
            phase("measure", measure_from, due),
            phase("unload", due, due + 0.4),
        ],
        requests,
        figures: if scenario == "simple-generation" {
            vec![Figure {
                name: "ready".to_owned(),
                unit: Unit::Seconds,
                values: vec![2.8],
                note: "from starting the process until `GET /health` says that it is ready".to_owned(),
            }]
        } else {
            Vec::new()
        },
        memory: Some(MemoryRecord {
            interval_ms: 100,
            taken: ((due + 1.0) * 10.0) as usize,
            missed: 1,
            cost_seconds: 0.14,
            holder: Some(format!(
                "{} (4242)",
                if format == Format::Gguf {
                    "llama-server"
                } else {
                    "mlx-diagnose"
                }
            )),
            unknown: Vec::new(),
        }),
        notes: Vec::new(),
    }
}

fn phase(name: &str, begin: f64, end: f64) -> Phase {
    Phase {
        name: name.to_owned(),
        begin,
        end,
    }
}

fn request(index: usize, group: &str, level: usize, due: f64, prompt: usize, course: Course) -> RequestRecord {
    let share = level as f64;
    let reading = course.first_token * (prompt as f64 / 61.0) * share.sqrt();
    let first = due + reading * (1.0 + 0.04 * noise(index));
    let token = course.token * share.sqrt() * (1.0 + 0.02 * noise(index + 5)) * (1.0 + prompt as f64 / 20_000.0);
    let pieces: Vec<f64> = (0..32).map(|number| first + token * f64::from(number)).collect();
    let ended = pieces[31];
    RequestRecord {
        group: group.to_owned(),
        concurrency: level,
        due,
        times: AnswerTimes {
            sent: due,
            headers: Some(due + 0.004),
            pieces,
            ended,
        },
        characters: 120,
        text: "The sky is blue".to_owned(),
        finish_reason: Some("length".to_owned()),
        usage: Some(Usage {
            prompt_tokens: prompt,
            completion_tokens: 32,
            cached_tokens: Some(0),
        }),
        counted_tokens: Some(32),
        timings: Some(ServerTimings {
            generation: Some(ended - first),
            ..ServerTimings::default()
        }),
        failure: None,
    }
}

/// A sample every 100 ms: loading, then growth with each answer.
fn memory(test: &TestRecord, course: Course) -> Vec<MemorySample> {
    (0..(test.seconds * 10.0) as usize)
        .map(|index| {
            let at = index as f64 / 10.0;
            let answered = test.requests.iter().filter(|request| request.times.ended <= at).count();
            let loaded = course.memory * (at / 2.8).min(1.0);
            let bytes = loaded + course.growth * answered as f64 + 0.4e6 * noise(index).max(0.0);
            sample(at, bytes)
        })
        .collect()
}

/// A server of two processes that are charged with so many bytes together.
pub fn sample(at: f64, bytes: f64) -> MemorySample {
    let process = |pid, name: &str, share: f64| ProcessSample {
        pid,
        name: name.to_owned(),
        resident: Some((bytes * share) as u64),
        proportional: Some((bytes * share) as u64),
        anonymous: Some((bytes * share * 0.5) as u64),
        file: Some((bytes * share * 0.45) as u64),
        footprint: None,
        wired: None,
    };
    MemorySample {
        at,
        processes: vec![process(41, "launcher", 0.0625), process(4242, "server", 0.9375)],
        available: Some(20_000_000_000),
        wired: None,
    }
}

fn comparison(measure: &str, title: &str, unit: Unit, [gguf, mlx]: [Vec<f64>; 2]) -> Comparison {
    let (gguf, mlx) = (summary(&gguf), summary(&mlx));
    let estimate = mlx.median / gguf.median;
    Comparison {
        scenario: "simple-generation".to_owned(),
        measure: measure.to_owned(),
        title: title.to_owned(),
        unit,
        more_is_better: Some(false),
        gguf: Some(gguf),
        mlx: Some(mlx),
        ratio: Some(Ratio {
            estimate,
            interval: Some([estimate * 0.97, estimate * 1.03]),
        }),
        better: Some(if estimate < 1.0 { Format::Mlx } else { Format::Gguf }),
    }
}

fn summary(values: &[f64]) -> Summary {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    // The nearest rank is near enough for a report.
    let rank = |share: f64| sorted[(share * (sorted.len() - 1) as f64).round() as usize];
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
    Summary {
        count: values.len(),
        mean,
        standard_deviation: variance.sqrt(),
        minimum: rank(0.0),
        lower_quartile: rank(0.25),
        median: rank(0.5),
        upper_quartile: rank(0.75),
        p90: rank(0.9),
        p95: rank(0.95),
        p99: rank(0.99),
        maximum: rank(1.0),
    }
}

fn steady(format: Format, prompt_cache: bool, course: Course) -> LeakAnalysis {
    let values: Vec<(usize, f64)> = (3..40)
        .map(|request| {
            (
                request,
                course.memory + course.growth * request as f64 + 4e4 * noise(request),
            )
        })
        .collect();
    let slope = |estimate: f64| {
        Some(Interval {
            estimate,
            low: estimate - 900.0,
            high: estimate + 900.0,
        })
    };
    LeakAnalysis {
        format,
        prompt_cache,
        verdict: if prompt_cache {
            LeakVerdict::Settles
        } else {
            LeakVerdict::Steady
        },
        headline: if prompt_cache {
            format!(
                "{}: memory grows while the prompt cache fills, and then no more",
                format.title()
            )
        } else {
            format!("{}: memory does not grow without prompt cache", format.title())
        },
        slope: slope(course.growth),
        slope_of_second_half: slope(course.growth),
        values,
    }
}
