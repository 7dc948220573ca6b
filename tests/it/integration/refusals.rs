//! Inputs that cannot be used are evidence, from which one rule names the fault.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mlx_diagnose::adapter::LoraSettings;
use mlx_diagnose::diagnosis::{DataSource, DiagnosisOptions, FinishedAdapter, Silent, diagnose};
use mlx_diagnose::evidence::{Evidence, RefusalKind};
use mlx_diagnose::faults::Injection;
use mlx_diagnose::interrupt::Interrupt;
use mlx_diagnose::model::{ModelSource, load_safetensors, save_safetensors};
use mlx_diagnose::report::{CheckOutcome, EXIT_FAULT, EXIT_INCOMPLETE, FailOn, Report, Verdict, exit_code};
use mlx_diagnose::workflow::ReferenceWorkflow;
use mlx_rs::Array;
use rstest::rstest;
use serde_json::json;

use crate::support::golden::root;
use crate::support::short_diagnosis;

/// Checks of a model on the two rows that the program carries.
fn checks(model: &Path) -> DiagnosisOptions {
    DiagnosisOptions {
        source: ModelSource::Folder(model.to_owned()),
        model_name: "model".to_owned(),
        check_only: true,
        ..short_diagnosis::options()
    }
}

fn embedded() -> PathBuf {
    root().join("fixtures/embedded/model")
}

fn tiny(name: &str) -> PathBuf {
    root().join("fixtures/golden/tiny").join(name)
}

fn run(options: &DiagnosisOptions) -> Evidence {
    diagnose(options, &ReferenceWorkflow, &Interrupt::default(), &mut Silent)
}

fn roots(evidence: &Evidence) -> Vec<&'static str> {
    Report::new(evidence, Vec::new())
        .roots()
        .map(|finding| finding.name)
        .collect()
}

/// A copy of the embedded model whose tensors something changes.
fn with_tensors(change: impl FnOnce(&mut BTreeMap<String, Array>)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(embedded()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = folder.path().join("model.safetensors");
    let mut tensors = load_safetensors(&path).unwrap();
    change(&mut tensors);
    save_safetensors(&tensors, None, &path).unwrap();
    folder
}

#[rstest]
#[case("shard-missing", embedded(), "shards-missing")]
#[case("weight-file-cut", embedded(), "weight-file-broken")]
#[case("tied-output-mismatch", embedded(), "tied-output-mismatch")]
#[case("packing-bits-wrong", tiny("llama-4bit"), "packing-mismatch")]
#[case("packing-not-declared", tiny("llama-4bit"), "packing-mismatch")]
#[case("weights-not-finite", embedded(), "weights-not-finite")]
#[case("rope-type-unknown", embedded(), "configuration-unusable")]
#[case("tokenizer-cut", embedded(), "tokenizer-unusable")]
#[case("template-lost", embedded(), "chat-template-missing")]
#[case("template-fails", embedded(), "chat-template-fails")]
fn broken_files_are_named_as_the_only_root(#[case] fault: &str, #[case] model: PathBuf, #[case] cause: &str) {
    let mut options = checks(&model);
    let injection: Injection = fault.parse().unwrap();
    let planted = injection.operator.plant(injection.severity, &mut options).unwrap();
    let evidence = diagnose(&options, &*planted.fault, &Interrupt::default(), &mut Silent);
    assert_eq!(roots(&evidence), [cause], "{:?}", evidence.refusal);
    let report = Report::new(&evidence, Vec::new());
    assert_eq!(report.verdict, Verdict::Incomplete);
    assert_eq!(exit_code(&report, FailOn::Never), EXIT_INCOMPLETE);
}

#[rstest]
#[case::keys(LoraSettings { keys: vec!["self_attn.qkv_proj".to_owned()], ..LoraSettings::default() })]
#[case::layers(LoraSettings { layers: Some(5), ..LoraSettings::default() })]
#[case::rank(LoraSettings { rank: 2_000_000_000, ..LoraSettings::default() })]
#[case::no_rank(LoraSettings { rank: 0, ..LoraSettings::default() })]
fn adapters_that_the_model_cannot_have_are_named_beside_what_was_measured(#[case] lora: LoraSettings) {
    let options = DiagnosisOptions {
        lora,
        ..checks(&embedded())
    };
    let evidence = run(&options);
    assert_eq!(roots(&evidence), ["adapter-targets-unknown"]);
    assert!(evidence.model.ran().is_some() && evidence.data.ran().is_some());
}

#[rstest]
#[case::a_missing_file(None)]
#[case::an_empty_file(Some(""))]
#[case::lines_that_are_not_json(Some("{\n\"text\": \"a\"\n}\n"))]
#[case::two_formats(Some("{\"text\": \"a\"}\n{\"prompt\": \"b\", \"completion\": \"c\"}\n"))]
fn unusable_data_is_named(#[case] contents: Option<&str>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    if let Some(contents) = contents {
        fs::write(&path, contents).unwrap();
    }
    let options = DiagnosisOptions {
        data: DataSource::Path(path),
        ..checks(&embedded())
    };
    assert_eq!(roots(&run(&options)), ["data-unusable"]);
}

/// A copy of the embedded model whose config.json something changes.
fn with_setting(key: &str, value: serde_json::Value) -> tempfile::TempDir {
    let folder = with_tensors(|_| {});
    let path = folder.path().join("config.json");
    let mut configuration: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    configuration[key] = value;
    fs::write(path, configuration.to_string()).unwrap();
    folder
}

#[rstest]
#[case::bitsandbytes(json!({"load_in_4bit": true, "quant_method": "bitsandbytes"}), "bitsandbytes", ".dequantize()")]
#[case::old_bitsandbytes(json!({"load_in_8bit": true}), "bitsandbytes", ".dequantize()")]
#[case::gptq(json!({"quant_method": "gptq", "bits": 4, "group_size": 128}), "GPTQ", "mlx_lm.convert --hf-path ORIGINAL")]
#[case::awq(json!({"quant_method": "awq", "bits": 4, "group_size": 128}), "AWQ", "mlx_lm.convert --hf-path ")]
#[case::compressed(json!({"quant_method": "compressed-tensors", "format": "pack-quantized"}), "compressed-tensors", "mlx_lm.convert")]
#[case::unheard_of(json!({"quant_method": "some_quantiser"}), "some_quantiser", "mlx_lm.convert --hf-path ORIGINAL")]
fn a_packing_of_another_library_is_named_with_its_conversion(
    #[case] settings: serde_json::Value,
    #[case] library: &str,
    #[case] command: &str,
) {
    let model = with_setting("quantization_config", settings);
    let evidence = run(&checks(model.path()));
    assert_eq!(roots(&evidence), ["weights-packed-by-another-library"]);
    let refusal = evidence.refusal.unwrap();
    assert!(
        refusal.headline.ends_with(&format!("packed by {library}")),
        "{refusal:?}"
    );
    let hint = refusal.error.lines().last().unwrap();
    assert!(hint.starts_with("  hint: ") && hint.contains(command), "{hint}");
}

#[rstest]
#[case::bitsandbytes("self_attn.q_proj.weight.quant_state.bitsandbytes__nf4", "bitsandbytes")]
#[case::old_bitsandbytes("self_attn.q_proj.SCB", "bitsandbytes")]
#[case::gptq("self_attn.q_proj.g_idx", "GPTQ")]
#[case::awq("self_attn.q_proj.qweight", "AWQ")]
#[case::hqq("self_attn.q_proj.W_q", "HQQ")]
fn a_packing_of_another_library_is_known_by_its_tensors(#[case] tensor: &str, #[case] library: &str) {
    let model = with_tensors(|tensors| {
        tensors.insert(format!("model.layers.0.{tensor}"), Array::from_slice(&[1_u8, 2], &[2]));
    });
    let evidence = run(&checks(model.path()));
    assert_eq!(roots(&evidence), ["weights-packed-by-another-library"]);
    let headline = evidence.refusal.unwrap().headline;
    assert!(headline.ends_with(&format!("packed by {library}")), "{headline}");
}

#[test]
fn an_adapter_folder_that_holds_a_packed_model_is_named() {
    let folder = with_setting("quantization_config", json!({"quant_method": "bitsandbytes_4bit"}));
    let options = DiagnosisOptions {
        adapter: Some(FinishedAdapter {
            folder: folder.path().to_owned(),
            is_whole_model: false,
            name: "packed".to_owned(),
            log: None,
            mask_prompt: None,
            max_sequence_length: None,
        }),
        ..checks(&embedded())
    };
    assert_eq!(roots(&run(&options)), ["weights-packed-by-another-library"]);
}

#[test]
fn tensors_under_other_names_are_named() {
    let model = with_tensors(|tensors| {
        let moved = tensors.remove("model.layers.0.self_attn.q_proj.weight").unwrap();
        tensors.insert("model.layers.0.self_attn.q_porj.weight".to_owned(), moved);
    });
    assert_eq!(roots(&run(&checks(model.path()))), ["tensors-mismatch"]);
}

#[test]
fn an_output_layer_that_differs_from_its_tied_embedding_is_named() {
    let model = with_tensors(|tensors| {
        let other = tensors["model.embed_tokens.weight"].negative().unwrap();
        tensors.insert("lm_head.weight".to_owned(), other);
    });
    assert_eq!(roots(&run(&checks(model.path()))), ["tied-output-mismatch"]);
}

#[test]
fn an_output_layer_that_repeats_its_tied_embedding_is_accepted() {
    let model = with_tensors(|tensors| {
        let copy = tensors["model.embed_tokens.weight"].clone();
        tensors.insert("lm_head.weight".to_owned(), copy);
    });
    let evidence = run(&checks(model.path()));
    assert_eq!(evidence.refusal, None);
    assert_eq!(roots(&evidence), [""; 0]);
}

#[test]
fn a_packing_of_gguf_that_cannot_be_read_is_named() {
    let options = DiagnosisOptions {
        source: ModelSource::Gguf(root().join("fixtures/golden/gguf/unsupported-type.gguf")),
        ..checks(&embedded())
    };
    assert_eq!(roots(&run(&options)), ["packing-mismatch"]);
}

#[test]
fn broken_files_are_named_before_broken_data() {
    let folder = tempfile::tempdir().unwrap();
    let options = DiagnosisOptions {
        source: ModelSource::Folder(folder.path().to_owned()),
        data: DataSource::Path(folder.path().join("nowhere.jsonl")),
        ..checks(&embedded())
    };
    assert_eq!(roots(&run(&options)), ["configuration-unusable"]);
}

#[test]
fn a_refusal_without_a_rule_of_its_own_is_incomplete_with_the_error_as_its_headline() {
    let options = DiagnosisOptions {
        prompts: vec!["boat ".repeat(1000)],
        ..checks(&embedded())
    };
    let evidence = run(&options);
    let refusal = evidence.refusal.as_ref().unwrap();
    assert_eq!(refusal.kind, RefusalKind::Other);
    let report = Report::new(&evidence, Vec::new());
    assert_eq!(report.verdict, Verdict::Incomplete);
    assert!(
        report
            .headline
            .starts_with("a prompt is longer than the model's context")
    );
}

#[test]
fn no_check_is_called_passed_that_a_refusal_kept_from_being_made() {
    let folder = tempfile::tempdir().unwrap();
    let report = Report::new(&run(&checks(folder.path())), Vec::new());
    assert_eq!(report.count(CheckOutcome::Passed), 0);
}

#[rstest]
fn checks_alone_judge_the_inputs_and_train_nothing(
    #[values("llama", "llama-4bit", "llama-untied", "mistral", "qwen2", "qwen3")] model: &str,
) {
    let evidence = run(&checks(&tiny(model)));
    assert_eq!(evidence.refusal, None);
    assert!(evidence.model.ran().is_some() && evidence.data.ran().is_some());
    let absences = [
        evidence.baseline.absence(),
        evidence.training.absence(),
        evidence.parameters.absence(),
        evidence.generation.absence(),
        evidence.state.absence(),
    ];
    assert_eq!(absences, [(); 5].map(|()| Some("skipped: `--check-only`".to_owned())));
    assert_eq!(Report::new(&evidence, Vec::new()).verdict, Verdict::Healthy);
}

#[test]
fn checks_alone_find_rows_without_a_target() {
    let options = DiagnosisOptions {
        max_sequence_length: 4,
        ..checks(&embedded())
    };
    let evidence = run(&options);
    assert!(roots(&evidence).contains(&"rows-cut"));
    let report = Report::new(&evidence, Vec::new());
    assert_eq!(exit_code(&report, FailOn::Error), EXIT_FAULT);
}
