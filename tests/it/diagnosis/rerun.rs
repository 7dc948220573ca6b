//! The command that a fix offers, read back by a shell and by the program's own command line.

use std::process::Command;

use clap::{Parser, ValueEnum};
use mlx_diagnose::cli::Arguments;
use mlx_diagnose::evidence::{FineTuneKind, RunSettings};
use mlx_diagnose::rules::Rerun;
use rstest::rstest;

/// The words of a command as a POSIX shell passes them on.
fn words(command: &str) -> Vec<String> {
    let script = format!("set -- {command}; printf '%s\\0' \"$@\"");
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{command}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_terminator('\0').map(str::to_owned).collect()
}

/// What the command line makes of a command.
fn read_back(command: &str) -> RunSettings {
    let given = Arguments::try_parse_from(words(command))
        .unwrap_or_else(|error| panic!("{command}: {error}"))
        .diagnose;
    let path = |path: std::path::PathBuf| path.into_os_string().into_string().unwrap();
    RunSettings {
        model: given.model.unwrap_or_else(|| "embedded".to_owned()),
        data: given.data.map_or_else(|| "embedded".to_owned(), path),
        prompts: given.prompts.map(path),
        trainer: given.trainer,
        generator: given.generator,
        adapter: given.adapter.map(|path| path.display().to_string()),
        trained: given.trained.map(|path| path.display().to_string()),
        log: given.log.map(|path| path.display().to_string()),
        dtype: given
            .dtype
            .map(|dtype| dtype.to_possible_value().unwrap().get_name().to_owned()),
        backend: given
            .backend
            .map(|backend| backend.to_possible_value().unwrap().get_name().to_owned()),
        cross_check: given
            .cross_check
            .map(|backend| backend.to_possible_value().unwrap().get_name().to_owned()),
        keep_packed: given.keep_packed,
        check_only: given.check_only,
        fine_tune: if given.full {
            FineTuneKind::Full
        } else {
            FineTuneKind::Lora
        },
        steps: given.steps,
        batch_size: given.batch_size,
        learning_rate: given.learning_rate,
        bias_correction: given.bias_correction,
        warmup_steps: given.warmup_steps,
        clip_norm: given.clip_norm,
        rank: given.rank,
        scale: given.scale,
        dropout: given.dropout,
        layers: given.layers,
        keys: given.keys,
        mask_prompt: !given.no_mask_prompt,
        max_sequence_length: given
            .max_seq_length
            .unwrap_or(RunSettings::default().max_sequence_length),
        max_tokens: given.max_tokens,
        seed: given.seed,
    }
}

/// No field has its default, except those of another kind of fine-tuning.
fn everything_set() -> RunSettings {
    RunSettings {
        model: "models/Tiny Chat".to_owned(),
        data: "data/it's mine; rm -rf $HOME".to_owned(),
        adapter: None,
        trained: None,
        trainer: None,
        generator: None,
        backend: Some("cpu".to_owned()),
        cross_check: Some("torch".to_owned()),
        log: None,
        prompts: Some("-prompts\n.txt".to_owned()),
        dtype: Some("bfloat16".to_owned()),
        keep_packed: true,
        check_only: true,
        fine_tune: FineTuneKind::Lora,
        steps: 7,
        batch_size: 3,
        learning_rate: 2.5e-6,
        bias_correction: true,
        warmup_steps: 2,
        clip_norm: Some(0.1),
        rank: 1,
        scale: 0.1,
        dropout: 0.05,
        layers: Some(2),
        keys: vec!["self_attn.q_proj".to_owned(), "mlp.up_proj".to_owned()],
        mask_prompt: false,
        max_sequence_length: 1024,
        max_tokens: 1,
        seed: u64::MAX,
    }
}

fn all_weights() -> RunSettings {
    RunSettings {
        fine_tune: FineTuneKind::Full,
        scale: 20.0,
        rank: 8,
        dropout: 0.0,
        layers: None,
        keys: Vec::new(),
        ..everything_set()
    }
}

#[rstest]
#[case::nothing_set(RunSettings::default())]
#[case::everything_set(everything_set())]
#[case::all_weights(all_weights())]
#[case::another_trainer(RunSettings { data: "data".to_owned(), trainer: Some("train --on {data}".to_owned()), generator: Some("answer --to {prompt}".to_owned()), steps: 7, learning_rate: 1e-3, rank: 4, ..RunSettings::default() })]
#[case::finished_adapter(RunSettings { model: "base".to_owned(), data: "data".to_owned(), adapter: Some("-adapters of mine".to_owned()), log: Some("out log".to_owned()), ..RunSettings::default() })]
#[case::zeros(RunSettings { learning_rate: 0.0, scale: 0.0, ..RunSettings::default() })]
fn a_command_read_back_means_the_same_run(#[case] settings: RunSettings) {
    let command = Rerun::of(&settings).to_string();
    assert_eq!(read_back(&command), settings, "{command}");
}

#[test]
fn what_nobody_set_is_left_out() {
    let settings = RunSettings::default();
    assert_eq!(Rerun::of(&settings).to_string(), "diagnose");
    assert_eq!(
        Rerun::of(&settings).steps(3).mask_prompt(false).to_string(),
        "diagnose --steps 3 --no-mask-prompt"
    );
}

#[test]
fn every_setting_can_be_changed() {
    let wanted = everything_set();
    let rerun = Rerun::of(&RunSettings {
        model: wanted.model.clone(),
        data: wanted.data.clone(),
        prompts: wanted.prompts.clone(),
        keep_packed: wanted.keep_packed,
        check_only: wanted.check_only,
        dropout: wanted.dropout,
        keys: wanted.keys.clone(),
        max_tokens: wanted.max_tokens,
        seed: wanted.seed,
        ..all_weights()
    })
    .fine_tune(wanted.fine_tune)
    .steps(wanted.steps)
    .batch_size(wanted.batch_size)
    .learning_rate(wanted.learning_rate)
    .bias_correction(wanted.bias_correction)
    .warmup_steps(wanted.warmup_steps)
    .clip_norm(wanted.clip_norm)
    .rank(wanted.rank)
    .scale(wanted.scale)
    .layers(wanted.layers)
    .mask_prompt(wanted.mask_prompt)
    .max_sequence_length(wanted.max_sequence_length)
    .dtype(wanted.dtype.as_deref());
    assert_eq!(read_back(&rerun.to_string()), wanted);
}
