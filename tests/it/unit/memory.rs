//! Memory: what MLX counts, what is predicted, and what fits.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use mlx_diagnose::adapter::{LoraSettings, attach};
use mlx_diagnose::device::{MemoryBudget, TrainedPart, TrainingMemory, TrainingSize};
use mlx_diagnose::memory::{MemoryMonitor, MlxMemory, SystemMemory, system_memory};
use mlx_diagnose::model::{CausalModel, ModelConfiguration, initialise, save_safetensors};
use mlx_rs::Array;
use mlx_rs::module::ModuleParameters;
use rstest::rstest;
use serde_json::{Value, json};

/// Share by which the predicted peak may differ from the one that MLX counts.
const PREDICTION: f64 = 0.2;

/// The shape of a small model.
#[derive(Clone, Copy)]
struct Shape {
    architecture: &'static str,
    hidden: usize,
    inner: usize,
    heads: usize,
    key_heads: usize,
    head: usize,
    blocks: usize,
    vocabulary: usize,
}

/// Narrow, with few heads.
const NARROW: Shape = Shape {
    architecture: "llama",
    hidden: 64,
    inner: 128,
    heads: 4,
    key_heads: 2,
    head: 16,
    blocks: 4,
    vocabulary: 256,
};
/// A wide feed-forward layer and as many key heads as query heads.
const WIDE: Shape = Shape {
    architecture: "qwen2",
    hidden: 256,
    inner: 768,
    heads: 4,
    key_heads: 4,
    head: 64,
    blocks: 2,
    vocabulary: 1000,
};
/// More blocks and narrow heads.
const DEEP: Shape = Shape {
    architecture: "mistral",
    hidden: 96,
    inner: 256,
    heads: 6,
    key_heads: 2,
    head: 16,
    blocks: 10,
    vocabulary: 500,
};
/// A vocabulary that outweighs the blocks.
const MANY_TOKENS: Shape = Shape {
    architecture: "llama",
    vocabulary: 20_000,
    ..NARROW
};

fn configuration(shape: Shape) -> (Value, ModelConfiguration) {
    let json = json!({
        "model_type": shape.architecture,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_heads,
        "head_dim": shape.head,
        "num_hidden_layers": shape.blocks,
        "vocab_size": shape.vocabulary,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": true,
        "max_position_embeddings": 1024,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    });
    let configuration = ModelConfiguration::from_json(Path::new("config.json"), json.as_object().unwrap()).unwrap();
    (json, configuration)
}

fn write_model(shape: Shape, folder: &Path) {
    let (json, configuration) = configuration(shape);
    let model = initialise(&configuration, 0).unwrap();
    let tensors: BTreeMap<String, Array> = model
        .parameters()
        .flatten()
        .into_iter()
        .map(|(name, array)| (name.to_string(), array.clone()))
        .collect();
    std::fs::write(folder.join("config.json"), json.to_string()).unwrap();
    save_safetensors(&tensors, None, &folder.join("model.safetensors")).unwrap();
}

/// What a process of its own measures: the counters of this one are those of all tests.
fn measure(shape: Shape, arguments: &str) -> Value {
    let folder = tempfile::tempdir().unwrap();
    write_model(shape, folder.path());
    let output = Command::new(env!("CARGO_BIN_EXE_diagnose"))
        .args(["verify", "training-memory", "--model"])
        .arg(folder.path())
        .args(arguments.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[rstest]
#[case::adapters_on_every_block(NARROW, "--batch-size 4 --sequence-length 64")]
#[case::one_row(NARROW, "--batch-size 1 --sequence-length 128")]
#[case::long_rows(NARROW, "--batch-size 2 --sequence-length 384")]
#[case::a_higher_rank(NARROW, "--batch-size 4 --sequence-length 64 --rank 32")]
#[case::a_wide_model(WIDE, "--batch-size 2 --sequence-length 64")]
#[case::a_deep_model(DEEP, "--batch-size 4 --sequence-length 96")]
#[case::the_last_two_blocks(DEEP, "--batch-size 4 --sequence-length 96 --layers 2")]
#[case::a_large_vocabulary(MANY_TOKENS, "--batch-size 4 --sequence-length 64")]
#[case::short_answers(MANY_TOKENS, "--batch-size 4 --sequence-length 128 --supervised 16")]
#[case::all_weights(NARROW, "--batch-size 4 --sequence-length 128 --full")]
#[case::all_weights_on_few_tokens(WIDE, "--batch-size 1 --sequence-length 16 --full")]
#[case::all_weights_of_a_deep_model(DEEP, "--batch-size 8 --sequence-length 64 --full")]
fn the_predicted_peak_is_that_of_mlx_within_a_fifth(#[case] shape: Shape, #[case] arguments: &str) {
    let report = measure(shape, arguments);
    // Of tiny models the weights are next to nothing, so the share beyond them is what is hard to tell.
    for error in ["error", "error_beyond_the_model"] {
        let off = report[error].as_f64().unwrap();
        assert!(off.abs() <= PREDICTION, "{error}: {off} in {report:#}");
    }
}

#[test]
fn the_measured_peak_is_that_of_the_highest_step_and_above_the_weights() {
    let report = measure(NARROW, "--batch-size 2 --sequence-length 32");
    let peaks: Vec<u64> = report["measured_peaks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|peak| peak.as_u64().unwrap())
        .collect();
    assert_eq!(peaks.len(), 3);
    assert_eq!(report["measured_peak"].as_u64(), peaks.iter().copied().max());
    let weights = report["predicted"]["weights"].as_u64().unwrap();
    let (_, configuration) = configuration(NARROW);
    let values: usize = configuration
        .expected_tensors()
        .into_iter()
        .map(|(_, shape)| shape.iter().product::<usize>())
        .sum();
    assert!(weights >= 4 * values as u64, "{weights} for {values} values");
    assert!(peaks.iter().all(|&peak| peak > weights), "{report:#}");
}

#[test]
fn twice_the_rows_take_twice_the_activations_and_logits() {
    let (_, configuration) = configuration(NARROW);
    let predict = |rows| TrainingMemory::predict(&configuration, 0, size(rows, 128));
    let (one, two) = (predict(2), predict(4));
    assert_eq!(two.activations, 2 * one.activations);
    assert_eq!(two.logits, 2 * one.logits);
    assert_eq!(
        (two.optimizer, two.gradients, two.update),
        (one.optimizer, one.gradients, one.update)
    );
}

fn size(batch_size: usize, tokens: usize) -> TrainingSize {
    TrainingSize {
        part: TrainedPart {
            values: 32_768,
            ranks: 224,
            blocks: 4,
            through_logits: false,
        },
        optimizer_state: TrainingSize::ADAMW,
        batch_size,
        tokens,
        supervised: tokens,
    }
}

#[test]
fn the_batch_that_fits_is_the_largest_one() {
    let (_, configuration) = configuration(NARROW);
    let weights = 1_000_000;
    let memory = SystemMemory {
        total: 100_000_000,
        available: 100_000_000,
    };
    let budget = MemoryBudget::new(memory, None, 0, 40_000_000);
    assert_eq!(budget.limit(), 60_000_000);
    let step = budget.fit(&configuration, weights, size(1000, 128));
    let peak = |rows| TrainingMemory::predict(&configuration, weights, size(rows, 128)).peak();
    assert!(!step.is_whole());
    assert_eq!(step.asked.peak(), peak(1000));
    assert_eq!(step.fitted.unwrap().peak(), peak(step.batch.rows));
    assert!(peak(step.batch.rows) <= budget.limit() && peak(step.batch.rows + 1) > budget.limit());
}

#[test]
fn a_batch_that_fits_is_left_whole_and_a_model_that_does_not_has_no_batch() {
    let (_, configuration) = configuration(NARROW);
    let memory = SystemMemory {
        total: 1_000_000_000,
        available: 1_000_000_000,
    };
    let budget = MemoryBudget::new(memory, None, 0, 0);
    let step = budget.fit(&configuration, 1_000_000, size(4, 64));
    assert!(step.is_whole());
    assert_eq!(step.batch.rows, 4);
    let step = budget.fit(&configuration, 2_000_000_000, size(4, 64));
    assert_eq!((step.batch.rows, step.batch.tokens, step.fitted), (0, 0, None));
}

fn adapted(layers: Option<usize>) -> CausalModel {
    let mut model = initialise(&configuration(DEEP).1, 0).unwrap();
    let settings = LoraSettings {
        layers,
        ..LoraSettings::default()
    };
    attach(&mut model, &settings, 0).unwrap();
    model
}

#[test]
fn the_trained_part_is_read_from_what_is_not_frozen() {
    let all = TrainedPart::of(&adapted(None));
    assert_eq!((all.blocks, all.through_logits), (10, false));
    let last = TrainedPart::of(&adapted(Some(3)));
    assert_eq!((last.blocks, last.through_logits), (3, false));
    assert_eq!(last.values * 10, all.values * 3);

    let whole = initialise(&configuration(DEEP).1, 0).unwrap();
    let full = TrainedPart::of(&whole);
    assert_eq!((full.blocks, full.through_logits), (10, true));
    let values: usize = whole.parameters().flatten().values().map(|array| array.size()).sum();
    assert_eq!(full.values, values as u64);
}

#[test]
fn nothing_to_train_goes_through_no_block() {
    let mut model = initialise(&configuration(NARROW).1, 0).unwrap();
    model.freeze_parameters(true);
    let part = TrainedPart::of(&model);
    assert_eq!((part.values, part.blocks), (0, 0));
    // The last norm lies behind all blocks.
    model.model.norm.unfreeze_parameters(true);
    let part = TrainedPart::of(&model);
    assert_eq!((part.values, part.blocks), (64, 0));
}

#[test]
fn the_monitor_sees_an_array_while_it_lives() {
    const BYTES: u64 = 64_000_000;
    let mut monitor = MemoryMonitor::start(Duration::from_millis(2)).unwrap();
    let array = mlx_rs::ops::zeros::<f32>(&[16_000_000])
        .unwrap()
        .add(Array::from_f32(1.0))
        .unwrap();
    array.eval().unwrap();
    while monitor.samples().last().unwrap().active < BYTES {
        std::thread::sleep(Duration::from_millis(2));
    }
    let step = monitor.step().unwrap();
    assert!(step.active >= BYTES && step.peak >= step.active, "{step:?}");
    assert!(step.lowest_available.unwrap() <= system_memory().unwrap().total);
    assert!(monitor.highest_peak().unwrap() >= step.peak);
    let samples = monitor.samples();
    assert!(
        samples.len() >= 2 && samples.is_sorted_by_key(|sample| sample.at),
        "{samples:?}"
    );
    assert_eq!(array.size(), 16_000_000);
}

#[test]
fn dropping_the_monitor_ends_its_thread_at_once() {
    let started = std::time::Instant::now();
    drop(MemoryMonitor::start(Duration::from_hours(1)).unwrap());
    assert!(started.elapsed() < Duration::from_mins(1));
}

#[test]
fn the_peak_is_never_below_what_is_held() {
    let array = mlx_rs::ops::ones::<f32>(&[1000]).unwrap();
    array.eval().unwrap();
    MlxMemory::read_and_reset_peak().unwrap();
    let memory = MlxMemory::read().unwrap();
    assert!(memory.peak >= memory.active && memory.active >= 4000, "{memory:?}");
    assert_eq!(array.size(), 1000);
}
