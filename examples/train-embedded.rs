//! Trains a tiny chat model of one architecture: tokenizer and weights, from nothing, on the text in
//! `fixtures/embedded/corpus`. `scripts/embedded/train` makes the one that the program carries and those of the
//! self-test with it.

#![allow(clippy::print_stderr, reason = "a command line tool reports its progress")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use mlx_diagnose::atomic_write::{replace_file, write_file};
use mlx_diagnose::data::{Batch, Batches, DataFiles, Dataset, ExampleSettings, Record, RecordFile, Supervision};
use mlx_diagnose::device::Backend;
use mlx_diagnose::interrupt::Interrupt;
use mlx_diagnose::model::{
    Architecture, CausalModel, ModelConfiguration, Tokenizer, WeightFileError, initialise, save_safetensors,
};
use mlx_diagnose::param_snapshot::ParameterSnapshot;
use mlx_diagnose::train::{
    AdamW, AdamWSettings, Decay, Schedule, TrainSettings, Trainer, TrainingStep, loss_and_gradients, mean_loss,
};
use mlx_rs::Dtype;
use serde_json::{Value, json};
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, TokenizerBuilder};

/// Entries of the vocabulary.
const VOCABULARY: usize = 1000;
/// Ends a text; padding in other programs.
const END_OF_TEXT: &str = "<|endoftext|>";
/// Begins a turn.
const TURN_START: &str = "<|im_start|>";
/// Ends a turn.
const TURN_END: &str = "<|im_end|>";
/// The ChatML format.
const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + \
                             message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}\
                             {{ '<|im_start|>assistant\n' }}{% endif %}";

/// Transformer blocks.
const BLOCKS: usize = 4;
/// Longest context in tokens.
const CONTEXT: usize = 256;

const ROWS_PER_STEP: usize = 32;
const STEPS: usize = 1500;
const WARMUP_STEPS: usize = 100;
const PEAK_LEARNING_RATE: f64 = 3e-3;
const GRADIENT_NORM_LIMIT: f32 = 1.0;
const SEED: u64 = 0;
/// Steps between lines of progress.
const REPORT_EVERY: usize = 50;

fn main() -> Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let usage = || anyhow!("usage: train-embedded llama|qwen2|qwen3 CORPUS_DIR OUTPUT_DIR");
    let [name, corpus, output] = arguments.as_slice() else {
        return Err(usage());
    };
    let specifics = name.to_str().and_then(Specifics::named).ok_or_else(usage)?;
    let files = DataFiles::read(corpus)?;
    std::fs::create_dir_all(output).with_context(|| format!("cannot make `{}`", output.display()))?;
    write_tokenizer(&files.train, output)?;
    let configuration = write_configuration(specifics, output)?;
    let tokenizer = Tokenizer::from_folder(output)?;
    // Every token is a target: a model that learns only answers falls apart behind its own turn end.
    let settings = ExampleSettings {
        supervision: Supervision::AllTokens,
        max_sequence_length: configuration.max_position_embeddings,
    };
    let train_set = Dataset::new(&files.train, &tokenizer, settings)?;
    let valid_file = files.valid.context("the corpus has no valid.jsonl")?;
    let valid_set = Dataset::new(&valid_file, &tokenizer, settings)?;
    let mut model = initialise(&configuration, SEED)?;
    fit(&mut model, &train_set, &valid_set)?;
    save(&model, output)
}

fn fit(model: &mut CausalModel, train_set: &Dataset, valid_set: &Dataset) -> Result<()> {
    let backend = Backend::select();
    let rows: Vec<usize> = (0..valid_set.examples.len()).collect();
    let valid_batch = Batch::new(&valid_set.examples, &rows);
    let mut since = std::time::Instant::now();
    let mut observe = |step: &TrainingStep, _: &CausalModel| {
        if step.step.is_multiple_of(REPORT_EVERY) {
            let seconds = since.elapsed().as_secs_f64();
            eprintln!(
                "step {:>5} of {STEPS}, loss {:.4}, {seconds:.1} s",
                step.step, step.loss
            );
            since = std::time::Instant::now();
        }
        Ok(())
    };
    let settings = AdamWSettings {
        beta2: 0.98,
        weight_decay: 0.05,
        bias_correction: true,
        ..AdamWSettings::default()
    };
    Trainer {
        optimizer: &mut AdamW::new(settings),
        loss: &loss_and_gradients,
        lanes: backend.lanes(),
        others: None,
        settings: TrainSettings {
            steps: STEPS,
            schedule: Schedule {
                warmup_steps: WARMUP_STEPS,
                decay: Decay::Cosine {
                    steps: STEPS - WARMUP_STEPS,
                    end: 0.0,
                },
                ..Schedule::constant(PEAK_LEARNING_RATE)
            },
            clip_norm: Some(GRADIENT_NORM_LIMIT),
        },
        interrupt: &Interrupt::default(),
    }
    .train(
        model,
        &mut Batches::new(&train_set.examples, ROWS_PER_STEP, SEED),
        &mut observe,
    )?;
    eprintln!(
        "validation loss {:.4}",
        mean_loss(model, &valid_batch, &backend.lanes())?
    );
    Ok(())
}

/// Trains a byte-level BPE on the messages and writes the files that Hugging Face's libraries read.
fn write_tokenizer(corpus: &RecordFile, output: &Path) -> Result<()> {
    let mut texts = Vec::new();
    for record in &corpus.records {
        let Record::Chat { messages, .. } = record else {
            return Err(anyhow!("the corpus is not made of conversations"));
        };
        texts.extend(
            messages
                .iter()
                .filter_map(|message| message.content().map(str::to_owned)),
        );
    }
    texts.extend(["user", "assistant", "system", "\n"].map(str::to_owned));
    let mut trainer = BpeTrainerBuilder::new()
        .show_progress(false)
        .vocab_size(VOCABULARY)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(
            [END_OF_TEXT, TURN_START, TURN_END]
                .map(|text| AddedToken::from(text, true))
                .to_vec(),
        )
        .build();
    let mut tokenizer = TokenizerBuilder::<
        BPE,
        tokenizers::NormalizerWrapper,
        ByteLevel,
        tokenizers::PostProcessorWrapper,
        ByteLevelDecoder,
    >::default()
    .with_model(BPE::default())
    .with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(false)))
    .with_decoder(Some(ByteLevelDecoder::default()))
    .build()
    .map_err(|error| anyhow!("{error}"))?;
    tokenizer
        .train(&mut trainer, texts.into_iter())
        .map_err(|error| anyhow!("{error}"))?;
    let text = tokenizer.to_string(true).map_err(|error| anyhow!("{error}"))?;
    write_file(&output.join("tokenizer.json"), format!("{text}\n").as_bytes())?;
    write_json(
        &output.join("tokenizer_config.json"),
        &json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": TURN_END,
            "pad_token": END_OF_TEXT,
            "bos_token": null,
            "add_bos_token": false,
            "clean_up_tokenization_spaces": false,
            "model_max_length": CONTEXT,
            "chat_template": CHAT_TEMPLATE,
        }),
    )
}

/// What sets the model of one architecture apart from the others.
struct Specifics {
    architecture: Architecture,
    key_value_heads: usize,
    rms_norm_eps: f64,
    rope_theta: f64,
    tie_word_embeddings: bool,
    /// Fields that Hugging Face writes for this architecture alone.
    own_fields: Value,
}

impl Specifics {
    /// Those of the architecture that `model_type` names; `None` when there is no recipe for it.
    fn named(model_type: &str) -> Option<Self> {
        let architecture = Architecture::named(model_type)?;
        match model_type {
            "llama" => Some(Self {
                architecture,
                key_value_heads: 4,
                rms_norm_eps: 1e-5,
                rope_theta: 1e4,
                tie_word_embeddings: true,
                own_fields: json!({ "attention_bias": false, "mlp_bias": false }),
            }),
            "qwen2" => Some(Self {
                architecture,
                key_value_heads: 4,
                rms_norm_eps: 1e-6,
                rope_theta: 1e6,
                tie_word_embeddings: true,
                own_fields: json!({
                    "attention_dropout": 0.0,
                    "initializer_range": 0.02,
                    "max_window_layers": BLOCKS,
                    "sliding_window": CONTEXT,
                    "use_sliding_window": false,
                    "use_cache": true,
                }),
            }),
            // As in the published ones, the heads together are wider than the hidden state.
            "qwen3" => Some(Self {
                architecture,
                key_value_heads: 2,
                rms_norm_eps: 1e-6,
                rope_theta: 1e6,
                tie_word_embeddings: false,
                own_fields: json!({
                    "head_dim": 48,
                    "attention_bias": false,
                    "attention_dropout": 0.0,
                    "initializer_range": 0.02,
                    "max_window_layers": BLOCKS,
                    "rope_scaling": null,
                    "sliding_window": null,
                    "use_sliding_window": false,
                    "use_cache": true,
                }),
            }),
            _ => None,
        }
    }
}

fn write_configuration(specifics: Specifics, output: &Path) -> Result<ModelConfiguration> {
    let path = output.join("config.json");
    let mut configuration = json!({
        "model_type": specifics.architecture.model_type(),
        "architectures": [specifics.architecture.class_name()],
        "hidden_act": "silu",
        "hidden_size": 128,
        "num_hidden_layers": BLOCKS,
        "intermediate_size": 384,
        "num_attention_heads": 4,
        "num_key_value_heads": specifics.key_value_heads,
        "rms_norm_eps": specifics.rms_norm_eps,
        "vocab_size": VOCABULARY,
        "rope_theta": specifics.rope_theta,
        "tie_word_embeddings": specifics.tie_word_embeddings,
        "max_position_embeddings": CONTEXT,
    });
    let endings = json!({ "eos_token_id": 2, "bos_token_id": null, "torch_dtype": "bfloat16" });
    for fields in [specifics.own_fields, endings] {
        for (key, value) in fields.as_object().into_iter().flatten() {
            configuration[key] = value.clone();
        }
    }
    write_json(&path, &configuration)?;
    write_json(
        &output.join("generation_config.json"),
        &json!({ "eos_token_id": [2, 0] }),
    )?;
    Ok(ModelConfiguration::read(&path)?)
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    Ok(write_file(path, format!("{value:#}\n").as_bytes())?)
}

fn save(model: &CausalModel, output: &Path) -> Result<()> {
    let tensors = ParameterSnapshot::capture(model)
        .parameters()
        .iter()
        .map(|(name, array)| Ok((name.clone(), array.as_dtype(Dtype::Bfloat16)?)))
        .collect::<Result<BTreeMap<_, _>>>()?;
    let metadata = BTreeMap::from([("format".to_owned(), "mlx".to_owned())]);
    replace_file(
        &output.join("model.safetensors"),
        |temporary| -> Result<(), WeightFileError> { save_safetensors(&tensors, Some(&metadata), temporary) },
    )?;
    Ok(())
}
