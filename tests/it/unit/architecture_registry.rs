//! The list of architectures.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use mlx_diagnose::model::{Architecture, GgufHeader, ModelConfiguration};
use rstest::rstest;
use serde_json::json;

use crate::support::golden::root;

fn message(model_type: &serde_json::Value) -> String {
    let configuration = json!({ "model_type": model_type });
    let object = configuration.as_object().unwrap();
    ModelConfiguration::from_json(Path::new("config.json"), object)
        .unwrap_err()
        .to_string()
}

#[test]
fn every_name_and_class_is_there_once() {
    let names: BTreeSet<&str> = Architecture::all().map(Architecture::model_type).collect();
    let classes: BTreeSet<&str> = Architecture::all().map(Architecture::class_name).collect();
    let gguf: Vec<&str> = Architecture::all().filter_map(Architecture::gguf_name).collect();
    let count = Architecture::all().count();
    assert_eq!((names.len(), classes.len()), (count, count));
    assert_eq!(gguf.iter().collect::<BTreeSet<_>>().len(), gguf.len());
}

#[test]
fn every_architecture_has_a_file_of_its_name_and_every_file_is_listed() {
    let folder = root().join("src/model/architectures");
    for architecture in Architecture::all() {
        let file = folder.join(format!("{architecture}.rs"));
        let source = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert!(
            source.contains(&format!("model_type: \"{architecture}\"")),
            "{}",
            file.display()
        );
    }
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let source = fs::read_to_string(&path).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let is_family = source.contains("static FAMILY: Family");
        assert_eq!(is_family, Architecture::named(&name).is_some(), "{}", path.display());
    }
}

#[rstest]
#[case::llama("llama", "LlamaForCausalLM", Some("llama"))]
#[case::mistral("mistral", "MistralForCausalLM", None)]
#[case::qwen2("qwen2", "Qwen2ForCausalLM", Some("qwen2"))]
#[case::qwen3("qwen3", "Qwen3ForCausalLM", Some("qwen3"))]
#[case::gemma3("gemma3_text", "Gemma3ForCausalLM", None)]
#[case::phi3("phi3", "Phi3ForCausalLM", None)]
#[case::mixtral("mixtral", "MixtralForCausalLM", None)]
#[case::gpt2("gpt2", "GPT2LMHeadModel", None)]
fn an_architecture_is_found_by_each_of_its_names(
    #[case] model_type: &str,
    #[case] class_name: &str,
    #[case] gguf: Option<&str>,
) {
    let architecture = Architecture::named(model_type).unwrap();
    assert_eq!(architecture.to_string(), model_type);
    assert_eq!(architecture.class_name(), class_name);
    assert_eq!(architecture.gguf_name(), gguf);
    if let Some(gguf) = gguf {
        assert_eq!(Architecture::of_gguf(gguf), Some(architecture));
    }
}

/// The class is the one that transformers wrote into the golden model's configuration.
#[rstest]
fn the_class_is_the_one_that_transformers_writes(
    #[values("llama", "mistral", "qwen2", "qwen3", "gemma3_text", "phi3", "mixtral", "gpt2")] name: &str,
) {
    let path = root().join(format!("fixtures/golden/transformers/{name}/config.json"));
    let written: serde_json::Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let class_name = Architecture::named(name).unwrap().class_name();
    assert_eq!(written["architectures"], json!([class_name]));
}

#[rstest]
#[case::a_slip("lama", "did you mean `llama`?")]
#[case::a_newer_version("gemma3", "did you mean `gemma3_text`?")]
#[case::another_sign("gpt-2", "did you mean `gpt2`?")]
#[case::nothing_near("rwkv", "hint: use a model of one of these architectures")]
fn an_unknown_name_is_refused_with_the_nearest(#[case] name: &str, #[case] hint: &str) {
    let message = message(&json!(name));
    assert!(message.contains(&format!("found: `{name}`")), "{message}");
    assert!(message.contains(hint), "{message}");
    assert!(
        message.contains("llama, mistral, qwen2, qwen3, gemma3_text, phi3, mixtral, gpt2"),
        "{message}"
    );
}

#[rstest]
#[case::absent(json!(null), "null")]
#[case::a_number(json!(3), "found: 3")]
#[case::a_list(json!(["llama"]), "an array")]
fn a_name_that_is_no_text_is_refused(#[case] name: serde_json::Value, #[case] found: &str) {
    let message = message(&name);
    assert!(message.contains(found), "{message}");
}

#[test]
fn the_text_part_of_a_multimodal_model_is_refused_with_what_to_do() {
    let configuration = json!({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}});
    let object = configuration.as_object().unwrap();
    let refused = ModelConfiguration::from_json(Path::new("config.json"), object).unwrap_err();
    let message = refused.to_string();
    assert!(
        message.contains("`gemma3`, whose text model is one of several parts"),
        "{message}"
    );
    assert!(message.contains("hint: use the text model alone"), "{message}");
}

/// A GGUF header without tensors and with one entry: version 3, counts in u64, a text of type 8.
fn gguf_of(architecture: &str, path: &Path) -> GgufHeader {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let header = [
        &b"GGUF"[..],
        &3_u32.to_le_bytes(),
        &0_u64.to_le_bytes(),
        &1_u64.to_le_bytes(),
        &text("general.architecture"),
        &8_u32.to_le_bytes(),
        &text(architecture),
    ];
    fs::write(path, header.concat()).unwrap();
    GgufHeader::read(path).unwrap()
}

#[test]
fn a_gguf_file_of_an_architecture_that_only_folders_have_is_refused_with_those_it_can_be() {
    let folder = tempfile::tempdir().unwrap();
    let header = gguf_of("gemma3", &folder.path().join("model.gguf"));
    let message = ModelConfiguration::from_gguf(&header).unwrap_err().to_string();
    assert!(message.contains("found: `gemma3`"), "{message}");
    assert!(message.contains("expected: llama, qwen2, qwen3\n"), "{message}");
    assert!(!message.contains("gemma3_text"), "{message}");
}
