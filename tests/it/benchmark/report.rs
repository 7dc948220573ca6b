//! What a benchmark leaves: files that keep to their schema, a page and a plot.

use std::fs;
use std::path::Path;

use insta::assert_snapshot;
use mlx_diagnose::bench::{
    BENCH_SCHEMA_VERSION, BaselineError, BenchResults, BenchSettings, FILES, Lacking, Measured, Measurement,
    ModelDescription, PeerComparison, Profile, RESULTS, Samples, Sizes, SubjectResult, SystemDescription, Unit,
    compare, read_results, to_markdown, to_svg, to_text, write_results,
};
use mlx_diagnose::evidence::{Detected, MachineMemory, Slot};
use rstest::rstest;
use serde_json::{Value, json};

use crate::diagnosis::rules::snapshots;
use crate::support::golden::root;

fn figure(name: &str, unit: Unit, values: &[f64], note: &str) -> Measurement {
    Measurement::new(name, unit, Samples::new(values.to_vec()), note).unwrap()
}

fn subject(name: &str, title: &str, outcome: Slot<Measured>) -> SubjectResult {
    SubjectResult {
        name: name.to_owned(),
        title: title.to_owned(),
        seconds: 12.5,
        outcome,
    }
}

fn ran(figures: Vec<Measurement>, lacking: &[(&str, &str)]) -> Slot<Measured> {
    Slot::Ran(Measured {
        figures,
        lacking: lacking
            .iter()
            .map(|(name, reason)| Lacking {
                name: (*name).to_owned(),
                reason: (*reason).to_owned(),
            })
            .collect(),
    })
}

fn system() -> SystemDescription {
    SystemDescription {
        tool_version: "0.0.0".to_owned(),
        profile: Profile::Release,
        mlx_version: "0.32.2".to_owned(),
        backend: "cpu".to_owned(),
        platform: "linux x86_64".to_owned(),
        system: Detected::Found("Linux 12 Debian".to_owned()),
        processor: Detected::Found("A Processor <of> 3 & 4 GHz".to_owned()),
        gpu: Detected::absent("MLX finds no GPU"),
        physical_cores: Detected::Found(1),
        usable_cores: 2,
        product_threads: Detected::Found(2),
        memory: Detected::Found(MachineMemory {
            total: 24_000_000_000,
            available: 20_000_000_000,
            is_unified: false,
        }),
        load_average: Detected::Found([0.25, 0.5, 0.75]),
    }
}

/// Results with a figure of every kind and every way to have none.
pub fn fixed() -> BenchResults {
    let training = vec![
        figure(
            "tokens-per-second",
            Unit::TokensPerSecond,
            &[278.0, 280.0, 281.0, 279.5, 240.0],
            "4 rows of 128 predicted tokens",
        ),
        figure(
            "step",
            Unit::Seconds,
            &[1.84, 1.83, 1.82, 1.832, 2.13],
            "forward, backward and AdamW's update | 4 rows",
        ),
        figure(
            "update",
            Unit::Seconds,
            &[0.0042, 0.0043, 0.0041, 0.0042, 0.0042],
            "AdamW",
        ),
        figure(
            "share-in-products",
            Unit::Share,
            &[0.712, 0.713, 0.711, 0.71, 0.715],
            "of the step",
        ),
    ];
    let decode = vec![figure(
        "decode",
        Unit::TokensPerSecond,
        &[30.9, 31.0, 30.8, 30.7, 31.1],
        "1 answer",
    )];
    let machine = vec![
        figure(
            "memory-read",
            Unit::GigabytesPerSecond,
            &[38.1, 38.0, 37.9, 38.2, 38.3],
            "2 threads",
        ),
        figure(
            "best",
            Unit::GigaflopsPerSecond,
            &[205.0, 204.0, 206.0, 205.5, 204.5],
            "square",
        ),
        figure("peak", Unit::Bytes, &[1.66e9], "one value"),
        figure("training-step", Unit::Joules, &[55.0, 54.0, 56.0], "counters"),
        figure("training-tokens", Unit::TokensPerJoule, &[9.3, 9.4, 9.2], "counters"),
    ];
    BenchResults {
        schema_version: BENCH_SCHEMA_VERSION,
        began: "2026-11-01T12:00:00Z".to_owned(),
        system: system(),
        settings: BenchSettings {
            model: "models/SmolLM2".to_owned(),
            only: Vec::new(),
            repeats: 5,
            warm_ups: 2,
            seed: 0,
            sizes: Sizes::STANDARD,
        },
        model: ModelDescription {
            model_type: "llama".to_owned(),
            values: 134_515_008,
            bytes: 538_060_032,
            bytes_per_token: 538_060_032,
            dtype: "float32".to_owned(),
            packed: false,
        },
        interrupted: true,
        seconds: 100.0,
        subjects: vec![
            subject("training", "training: each part", ran(training, &[])),
            subject(
                "generation",
                "generation: one answer",
                ran(decode, &[("decode-8", "no repeat gave a value")]),
            ),
            subject("machine", "the machine", ran(machine, &[])),
            subject(
                "probes",
                "the cost of probes",
                Slot::skipped("the benchmark was interrupted before it"),
            ),
            subject("loading", "model loading", Slot::crashed("the file is broken")),
        ],
    }
}

fn skipped() -> PeerComparison {
    PeerComparison::Skipped {
        reason: "PyTorch is not installed".to_owned(),
    }
}

/// The fixed results of a program whose steps took twice as long.
fn twice_as_long() -> BenchResults {
    let mut results = fixed();
    let Slot::Ran(measured) = &mut results.subjects[0].outcome else {
        panic!("it ran")
    };
    let step = &mut measured.figures[1];
    *step = Measurement::new(
        "step",
        step.unit,
        step.samples.map(|seconds| 2.0 * seconds),
        step.note.clone(),
    )
    .unwrap();
    results
}

#[test]
fn the_page_and_the_text_of_fixed_figures_are_as_reviewed() {
    let now = twice_as_long();
    let comparison = compare(&fixed(), &now).unwrap();
    let page = to_markdown(&now, Some(&comparison), &skipped(), "benchmark_results.svg");
    snapshots().bind(|| assert_snapshot!("bench_fixed.md", page));
    snapshots().bind(|| assert_snapshot!("bench_fixed.txt", to_text(&now, Some(&comparison))));
}

#[test]
fn the_plot_is_a_picture_with_every_figure_for_light_and_dark_pages() {
    let svg = to_svg(&fixed());
    let document = roxmltree::Document::parse(&svg).unwrap();
    let texts: Vec<&str> = document.descendants().filter_map(|node| node.text()).collect();
    for (subject, figure) in fixed().figures() {
        let name = format!("{subject}: {}", figure.name);
        assert!(texts.iter().any(|text| **text == name), "{name}");
    }
    assert!(texts.iter().any(|text| text.contains("A Processor <of> 3 & 4 GHz")));
    assert!(svg.contains("prefers-color-scheme:dark"));
    let number = |node: roxmltree::Node, name: &str| -> f64 { node.attribute(name).unwrap().parse().unwrap() };
    let svg_node = document.root_element();
    let (width, height) = (number(svg_node, "width"), number(svg_node, "height"));
    for circle in document.descendants().filter(|node| node.has_tag_name("circle")) {
        let (x, y) = (number(circle, "cx"), number(circle, "cy"));
        assert!((0.0..width).contains(&x) && (0.0..height).contains(&y), "{x} {y}");
    }
    let values = fixed()
        .figures()
        .map(|(_, figure)| figure.samples.values().len())
        .sum::<usize>();
    let dots = document
        .descendants()
        .filter(|node| node.attribute("class") == Some("value"));
    assert_eq!(dots.count(), values);
}

/// A bar is as long as its median says: twice the tokens in a second are twice the bar.
#[test]
fn bars_begin_at_zero_and_are_as_long_as_their_medians() {
    let svg = to_svg(&fixed());
    let document = roxmltree::Document::parse(&svg).unwrap();
    let lengths: Vec<f64> = document
        .descendants()
        .filter(|node| node.has_tag_name("rect") && node.attribute("class") == Some("bar"))
        .map(|node| node.attribute("width").unwrap().parse().unwrap())
        .collect();
    // The first panel has the two rates, in this order.
    let medians = [279.5, 30.9];
    assert!(
        (lengths[0] / lengths[1] - medians[0] / medians[1]).abs() < 0.05,
        "{lengths:?}"
    );
}

/// Every fault of `value` by the definition `name` of the schema.
pub fn faults(name: &str, value: &Value) -> Vec<String> {
    let text = fs::read_to_string(root().join("docs/bench/schema.json")).unwrap();
    let mut schema: Value = serde_json::from_str(&text).unwrap();
    schema["oneOf"] = json!([{ "$ref": format!("#/$defs/{name}") }]);
    let validator = jsonschema::validator_for(&schema).unwrap();
    validator
        .iter_errors(value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

/// The definition of the schema for each file of JSON.
pub const DEFINITIONS: [(&str, &str); 2] = [
    ("mlx_benchmark_results.json", "results"),
    ("benchmark_summary.json", "summary"),
];

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn the_files_keep_to_the_schema_and_can_be_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let now = twice_as_long();
    let comparison = compare(&fixed(), &now).unwrap();
    let written = write_results(folder.path(), &now, Some(&comparison), &skipped()).unwrap();
    assert_eq!(written, FILES.map(|name| folder.path().join(name)));
    for (file, definition) in DEFINITIONS {
        assert_eq!(
            faults(definition, &read(&folder.path().join(file))),
            [] as [String; 0],
            "{file}"
        );
    }
    assert_eq!(read_results(folder.path()).unwrap(), now);
    let summary = read(&folder.path().join("benchmark_summary.json"));
    assert_eq!(summary["slower"][0]["name"], "step");
    assert_eq!(summary["pytorch"]["status"], "skipped");
    let names: Vec<String> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.len(), FILES.len(), "{names:?}");
}

#[rstest]
#[case::a_field_too_many("/settings/colour", json!("red"))]
#[case::a_unit_that_is_none("/subjects/0/outcome/ran/figures/0/unit", json!("furlongs"))]
#[case::another_version("/schema_version", json!(2))]
#[case::words_for_a_number("/seconds", json!("long"))]
#[case::no_samples("/subjects/0/outcome/ran/figures/0/samples", json!([]))]
fn the_schema_refuses_what_the_program_never_writes(#[case] pointer: &str, #[case] wrong: Value) {
    let mut value = serde_json::to_value(fixed()).unwrap();
    assert_eq!(faults("results", &value), [] as [String; 0]);
    match value.pointer_mut(pointer) {
        Some(place) => *place = wrong,
        None => value["settings"]["colour"] = wrong,
    }
    assert!(!faults("results", &value).is_empty(), "{pointer}");
}

#[rstest]
#[case::no_folder(None, "no such folder")]
#[case::broken(Some("{\"schema_version\": 1"), "is no result of `diagnose bench`")]
#[case::no_version(Some("{}"), "found: schema version unknown")]
#[case::another_version(Some("{\"schema_version\": 99}"), "found: schema version 99")]
#[case::a_list(Some("[1]"), "found: schema version unknown")]
#[case::fields_missing(Some("{\"schema_version\": 1}"), "missing field")]
fn a_baseline_that_is_none_is_refused(#[case] text: Option<&str>, #[case] words: &str) {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("earlier");
    if let Some(text) = text {
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(RESULTS), text).unwrap();
    }
    let error = read_results(&folder).unwrap_err().to_string();
    assert!(error.contains(words), "{error}");
    assert!(error.contains("\n  found: "), "{error}");
}

#[test]
fn a_baseline_whose_figures_were_changed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut value = serde_json::to_value(fixed()).unwrap();
    value["subjects"][0]["outcome"]["ran"]["figures"][1]["median"] = json!(9.0);
    fs::write(folder.path().join(RESULTS), value.to_string()).unwrap();
    let error = read_results(folder.path()).unwrap_err();
    assert!(matches!(error, BaselineError::Broken { .. }), "{error}");
    assert!(error.to_string().contains("training/step"), "{error}");
}
