//! Trains the tiny chat model that the program carries: tokenizer and weights, from nothing, on the text in
//! `fixtures/embedded/corpus`. `scripts/embedded/train` runs it.

#![allow(clippy::print_stderr, reason = "a command line tool reports its progress")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use mlx_diagnose::atomic_write::{replace_file, write_file};
use mlx_diagnose::data::{Batch, Batches, DataFiles, Dataset, ExampleSettings, Record, RecordFile};
use mlx_diagnose::device::Backend;
use mlx_diagnose::interrupt::Interrupt;
use mlx_diagnose::model::{CausalModel, ModelConfiguration, Tokenizer, WeightFileError, initialise, save_safetensors};
use mlx_diagnose::param_snapshot::ParameterSnapshot;
use mlx_diagnose::train::{
    AdamW, AdamWSettings, Schedule, TrainSettings, Trainer, TrainingStep, loss_and_gradients, mean_loss,
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

const ROWS_PER_STEP: usize = 32;
const STEPS: usize = 1500;
const WARMUP_STEPS: usize = 100;
const PEAK_LEARNING_RATE: f64 = 3e-3;
const GRADIENT_NORM_LIMIT: f32 = 1.0;
const SEED: u64 = 0;
/// Steps between lines of progress.
const REPORT_EVERY: usize = 50;

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(corpus), Some(output), None) = (arguments.next(), arguments.next(), arguments.next()) else {
        return Err(anyhow!("usage: train-embedded CORPUS_DIR OUTPUT_DIR"));
    };
    let files = DataFiles::read(&corpus)?;
    std::fs::create_dir_all(&output).with_context(|| format!("cannot make `{}`", output.display()))?;
    write_tokenizer(&files.train, &output)?;
    let configuration = write_configuration(&output)?;
    let tokenizer = Tokenizer::from_folder(&output)?;
    // Every token is a target: a model that learns only answers falls apart behind its own turn end.
    let settings = ExampleSettings {
        mask_prompt: false,
        max_sequence_length: configuration.max_position_embeddings,
    };
    let train_set = Dataset::new(&files.train, &tokenizer, settings)?;
    let valid_file = files.valid.context("the corpus has no valid.jsonl")?;
    let valid_set = Dataset::new(&valid_file, &tokenizer, settings)?;
    let mut model = initialise(&configuration, SEED)?;
    fit(&mut model, &train_set, &valid_set)?;
    save(&model, &output)
}

fn fit(model: &mut CausalModel, train_set: &Dataset, valid_set: &Dataset) -> Result<()> {
    let backend = Backend::select();
    let rows: Vec<usize> = (0..valid_set.examples.len()).collect();
    let valid_batch = Batch::new(&valid_set.examples, &rows);
    let mut since = std::time::Instant::now();
    let mut observe = |step: &TrainingStep| {
        if step.step.is_multiple_of(REPORT_EVERY) {
            let seconds = since.elapsed().as_secs_f64();
            eprintln!(
                "step {:>5} of {STEPS}, loss {:.4}, {seconds:.1} s",
                step.step, step.loss
            );
            since = std::time::Instant::now();
        }
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
        settings: TrainSettings {
            steps: STEPS,
            schedule: Schedule {
                peak: PEAK_LEARNING_RATE,
                warmup_steps: WARMUP_STEPS,
                decay_steps: Some(STEPS),
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
    eprintln!("validation loss {:.4}", mean_loss(model, &valid_batch)?);
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
            "model_max_length": 256,
            "chat_template": CHAT_TEMPLATE,
        }),
    )
}

fn write_configuration(output: &Path) -> Result<ModelConfiguration> {
    let path = output.join("config.json");
    write_json(
        &path,
        &json!({
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "hidden_act": "silu",
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "intermediate_size": 384,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "rms_norm_eps": 1e-5,
            "vocab_size": VOCABULARY,
            "rope_theta": 10000.0,
            "tie_word_embeddings": true,
            "max_position_embeddings": 256,
            "attention_bias": false,
            "mlp_bias": false,
            "eos_token_id": 2,
            "bos_token_id": null,
            "torch_dtype": "bfloat16",
        }),
    )?;
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
