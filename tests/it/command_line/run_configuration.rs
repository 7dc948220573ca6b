//! Configurations of runs: layers, every wrong value at once with its line, and mlx-lm's own files.

use mlx_diagnose::data::Supervision;
use mlx_diagnose::fine_tuning::{
    Configuration, ConfigurationFileError, FineTuneSettings, Method, Origin, PROFILES, RunLength, ScheduleShape,
    SettingsError, profile,
};
use mlx_diagnose::train::{Decay, DecayScope, OptimizerSettings};
use rstest::rstest;
use serde_json::json;

use crate::support::golden::root;

const LEAST: &str = "model: some/model\ndata: rows\n";

fn read(text: &str) -> Result<Configuration, ConfigurationFileError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.yml");
    std::fs::write(&path, text).unwrap();
    Configuration::read(&path)
}

fn settings(text: &str) -> (FineTuneSettings, Vec<String>) {
    FineTuneSettings::read(&read(text).unwrap()).unwrap()
}

fn refused(text: &str) -> SettingsError {
    FineTuneSettings::read(&read(text).unwrap()).unwrap_err()
}

#[test]
fn the_least_configuration_has_defaults_for_everything_else() {
    let (settings, notes) = settings(LEAST);
    assert_eq!(settings.method, Method::Lora);
    assert_eq!(settings.length, RunLength::Epochs(3.0));
    assert_eq!((settings.batch_size, settings.accumulation), (4, 1));
    assert_eq!(settings.decay_scope, DecayScope::Matrices);
    assert_eq!(settings.supervision, Supervision::LastAnswer);
    assert!(settings.guards);
    assert_eq!(notes, [""; 0]);
}

#[test]
fn mlx_lm_s_example_is_read_with_its_meanings() {
    let text = r#"
model: "mlx-community/Llama-3.2-1B-Instruct"
train: true
fine_tune_type: lora
optimizer: adamw
optimizer_config:
  adamw:
    betas: [0.9, 0.98]
    eps: 1e-6
    weight_decay: 0.05
    bias_correction: true
  sgd: {momentum: 0.9}
data: "rows"
seed: 7
num_layers: 16
batch_size: 2
iters: 1000
val_batches: -1
learning_rate: 1e-5
steps_per_report: 5
steps_per_eval: 200
grad_accumulation_steps: 4
resume_adapter_file: null
adapter_path: "adapters"
save_every: 50
test: false
max_seq_length: 1024
grad_checkpoint: false
lora_parameters:
  keys: ["self_attn.q_proj", "self_attn.v_proj"]
  rank: 16
  scale: 10.0
  dropout: 0.05
lr_schedule:
  name: cosine_decay
  warmup: 100
  warmup_init: 1e-7
  arguments: [1e-5, 1000, 1e-7]
"#;
    let (settings, notes) = settings(text);
    assert_eq!(notes, [""; 0]);
    assert_eq!(settings.length, RunLength::Batches(1000));
    assert_eq!(settings.lora.layers, Some(16));
    assert_eq!(settings.lora.keys, ["self_attn.q_proj", "self_attn.v_proj"]);
    assert_eq!((settings.lora.rank, settings.lora.scale), (16, 10.0));
    assert_eq!(settings.validation.batches, None);
    assert_eq!(settings.schedule.warmup_steps, 100);
    assert_eq!(settings.schedule.warmup_init, Some(1e-7));
    let decay = Decay::Cosine { steps: 1000, end: 1e-7 };
    assert_eq!(settings.schedule.shape, ScheduleShape::Given(decay));
    let OptimizerSettings::AdamW(adam) = settings.optimizer else {
        panic!("{:?}", settings.optimizer);
    };
    assert_eq!((adam.beta2, adam.epsilon, adam.weight_decay), (0.98, 1e-6, 0.05));
    assert_eq!(settings.seed, 7);
}

#[test]
fn every_wrong_value_is_told_at_once_with_its_line() {
    let error = refused(
        "model: m\ndata: d\nbatch_size: 0\nlearning_rate: -1\nlora_parameters:\n  rank: many\n  dropout: 1\nepocs: 3\noptimizer: adamx\n",
    );
    insta::assert_snapshot!(error.to_string(), @r"
    the settings of the run cannot be used (6 wrong)
      run.yml:3: batch_size: found 0, expected a whole number from 1 to 1000000000
      run.yml:4: learning_rate: found -1, expected a number above 0, at most 3.4e38
      run.yml:6: lora_parameters.rank: found `many`, expected a whole number from 1 to 1000000000
      run.yml:7: lora_parameters.dropout: found 1, expected a number of at least 0 and below 1
      run.yml:8: epocs: found an unknown key, expected a setting of a run; did you mean `epochs`?
      run.yml:9: optimizer: found `adamx`, expected one of adam, adamw, sgd, adafactor, lion, muon
    ");
}

#[rstest]
#[case::both_lengths("iters: 5\nepochs: 2\n", "one of the two")]
#[case::scale_and_alpha("lora_parameters: {scale: 2, alpha: 16}\n", "one of the two")]
#[case::rank_stabilised_alone("lora_parameters: {rank_stabilised: true}\n", "`alpha` beside it")]
#[case::nesterov_alone("optimizer: sgd\noptimizer_config: {sgd: {nesterov: true}}\n", "needs a momentum")]
#[case::setting_of_no_optimizer("optimizer_config: {adamw: {beta: 1}}\n", "one of betas, eps")]
#[case::steps_of_a_decay("lr_schedule: {name: cosine_decay, arguments: [1e-4]}\n", "[initial rate, steps]")]
#[case::two_rates(
    "learning_rate: 1e-4\nlr_schedule: {name: cosine_decay, arguments: [1e-5, 9]}\n",
    "one learning rate"
)]
#[case::hub_dataset("hf_dataset: {path: a/b}\n", "`data` with a folder or file")]
#[case::far_too_high("learning_rate: 3\n", "a number below 1")]
#[case::patience_missing("early_stopping: {least_improvement: 0.1}\n", "`early_stopping.patience` beside it")]
#[case::a_negative_count("save_every: -5\n", "a whole number from 1")]
#[case::a_count_beyond_belief("batch_size: 9223372036854775807\n", "to 1000000000")]
#[case::more_epochs_than_anybody_waits_for("epochs: 1e18\n", "at most 1000000")]
#[case::a_scale_beyond_single_precision("lora_parameters: {scale: 1e300}\n", "a number from 0 to 3.4e38")]
#[case::an_alpha_beyond_single_precision("lora_parameters: {alpha: 1e300}\n", "a number from 0 to 3.4e38")]
#[case::a_norm_that_would_be_zero("clip_norm: 1e-300\n", "a number above 0")]
#[case::infinity_as_a_text(
    "lr_schedule: {name: exponential_decay, arguments: [1e-4, inf]}\n",
    "a list of numbers"
)]
#[case::an_adapter_where_all_weights_are_trained(
    "fine_tune_type: full\nresume_adapter_file: a\n",
    "`fine_tune_type: lora` or `dora`"
)]
#[case::a_number_for_a_table("lora_parameters: 3\n", "a table with alpha, dropout, keys, rank")]
#[case::the_option_s_name("patience: 2\n", "did you mean `early_stopping.patience`?")]
#[case::mlx_lm_s_old_name("lora_layers: 4\n", "did you mean `num_layers`?")]
#[case::words_joined_by_a_dash("batch-size: 4\n", "did you mean `batch_size`?")]
#[case::a_table_for_a_number("batch_size: {a: 1}\n", "a setting of a run")]
fn what_cannot_be_is_refused_with_what_can(#[case] text: &str, #[case] expected: &str) {
    let error = refused(&format!("{LEAST}{text}")).to_string();
    assert!(error.contains(expected), "{error}");
    assert!(error.contains("run.yml:"), "{error}");
}

#[test]
fn nothing_given_names_what_is_missing() {
    let error = FineTuneSettings::read(&Configuration::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("model: found nothing"), "{error}");
    assert!(error.contains("data: found nothing"), "{error}");
}

#[rstest]
#[case::not_keys("- 1\n- 2\n", "run.yml:1")]
#[case::a_broken_list("model: m\ndata: [1, 2\n", "run.yml:2")]
#[case::twice_the_same_key("model: m\nmodel: n\n", "run.yml:2")]
#[case::not_a_number("model: m\nlearning_rate: .nan\n", "run.yml:2")]
#[case::infinite("clip_norm: .inf\n", "run.yml:1")]
#[case::said_of_a_key_in_our_words("model: m\nmodel: n\n", "found the key `model` twice, expected each key once")]
#[case::said_of_a_number_in_our_words("clip_norm: .inf\n", "expected a finite number")]
fn what_is_not_keys_and_values_is_refused_with_its_line(#[case] text: &str, #[case] place: &str) {
    let error = read(text).unwrap_err().to_string();
    assert!(error.contains(place), "{error}");
}

#[test]
fn a_configuration_without_an_end_is_refused() {
    let error = Configuration::read("/dev/zero".as_ref()).unwrap_err().to_string();
    assert!(error.contains("is too large"), "{error}");
}

#[test]
fn deep_and_exploding_yaml_is_refused_at_once() {
    let deep = format!("a: {}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(read(&deep).is_err());
    let mut exploding = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..12 {
        let aliases = vec![format!("*a{}", level - 1); 9].join(",");
        exploding = format!("{exploding}a{level}: &a{level} [{aliases}]\n");
    }
    assert!(read(&exploding).is_err());
}

#[test]
fn mlx_lm_s_keys_without_a_meaning_here_are_said_and_not_dropped() {
    let (_, notes) = settings(&format!("{LEAST}wandb: project\ntest: true\n"));
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(
        notes.iter().any(|note| note.contains("run.yml:3: `wandb`")),
        "{notes:?}"
    );
}

#[test]
fn settings_of_adapters_are_said_to_have_no_effect_on_whole_weights() {
    let given = "fine_tune_type: full\nlora_parameters: {rank: 4}\nnum_layers: 2\n";
    let (_, notes) = settings(&format!("{LEAST}{given}"));
    assert_eq!(
        notes,
        [
            "run.yml:4: `lora_parameters.rank` has no effect: all weights of all blocks are trained",
            "run.yml:5: `num_layers` has no effect: all weights of all blocks are trained",
        ]
    );
}

#[test]
fn later_layers_go_before_earlier_ones() {
    let mut configuration = read(&format!("{LEAST}epochs: 4\nlr_schedule: {{name: cosine, warmup: 9}}\n")).unwrap();
    let mut typed = Configuration::default();
    let option = |name: &str| Origin::Option(name.to_owned());
    typed.set("iters", json!(12), option("--iters"));
    typed.set("lr_schedule", json!("linear"), option("--schedule"));
    configuration.overlay(typed);
    let (settings, _) = FineTuneSettings::read(&configuration).unwrap();
    assert_eq!(settings.length, RunLength::Batches(12));
    assert_eq!(settings.schedule.shape, ScheduleShape::Linear);
    assert_eq!(settings.schedule.warmup_steps, 0);
}

#[rstest]
#[case::divided_by_the_rank("{rank: 16, alpha: 32}", 2.0)]
#[case::divided_by_its_root("{rank: 16, alpha: 32, rank_stabilised: true}", 8.0)]
#[case::given("{rank: 16, scale: 5}", 5.0)]
fn the_scale_is_given_or_made_of_alpha(#[case] parameters: &str, #[case] expected: f32) {
    let (settings, _) = settings(&format!("{LEAST}lora_parameters: {parameters}\n"));
    assert_eq!(settings.lora.scale, expected);
}

#[test]
fn what_is_written_down_is_read_back_the_same() {
    for text in [
        LEAST.to_owned(),
        format!(
            "{LEAST}iters: 7\noptimizer: adafactor\nclip_norm: 0.1\ndtype: bfloat16\nbackend: cpu\nnum_layers: 2\n"
        ),
        format!("{LEAST}fine_tune_type: full\n"),
        format!("{LEAST}lr_schedule: {{name: step_decay, warmup: 3, arguments: [1e-4, 0.5, 10]}}\n"),
        format!("{LEAST}early_stopping: {{patience: 3}}\noptimizer: muon\nlora_parameters: {{keys: [mlp.up_proj]}}\n"),
    ] {
        let (settings, _) = settings(&text);
        let again = Configuration::from_json(&settings.to_json(), "run.json");
        assert_eq!(FineTuneSettings::read(&again).unwrap().0, settings);
    }
}

#[test]
fn every_profile_gives_settings_of_its_own() {
    let mut seen = Vec::new();
    for (name, _) in PROFILES {
        let mut configuration = profile(name).unwrap();
        configuration.overlay(read(LEAST).unwrap());
        let (settings, notes) = FineTuneSettings::read(&configuration).unwrap();
        assert_eq!(notes, [""; 0], "{name}");
        assert!(!seen.contains(&settings), "{name} is another profile's");
        seen.push(settings);
    }
}

#[test]
fn an_unknown_profile_names_the_nearest() {
    let error = profile("caht").unwrap_err().to_string();
    assert!(error.contains("did you mean `chat`"), "{error}");
}

#[test]
fn the_shipped_configuration_is_valid() {
    let configuration = Configuration::read(&root().join("configs/production.yml")).unwrap();
    FineTuneSettings::read(&configuration).unwrap();
}
