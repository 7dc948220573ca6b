//! Configurations and GGUF headers: what is read, and that everything broken is refused.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::golden;
use approx::assert_abs_diff_eq;
use mlx_diagnose::model::{
    ConfigurationError, GgufError, GgufHeader, GgufTensorType, GgufValue, ModelConfiguration, QuantizationMode,
    RopeScaling, dequantize, hugging_face_name, rotary_row_order,
};
use rstest::rstest;
use serde_json::{Map, Value, json};

type TestError = Box<dyn std::error::Error>;
type TestResult = Result<(), TestError>;
type Shapes = Vec<(String, Vec<usize>)>;

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden").join(path)
}

fn read_json(path: &Path) -> Result<Value, TestError> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// A llama configuration in which every size is different.
fn llama() -> Map<String, Value> {
    object(json!({
        "model_type": "llama", "hidden_size": 48, "num_hidden_layers": 2, "intermediate_size": 80,
        "num_attention_heads": 6, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "vocab_size": 100
    }))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        other => panic!("{other} is not an object"),
    }
}

fn configure(object: &Map<String, Value>) -> Result<ModelConfiguration, ConfigurationError> {
    ModelConfiguration::from_json(Path::new("config.json"), object)
}

fn changed(key: &str, value: Value) -> Map<String, Value> {
    let mut object = llama();
    object.insert(key.to_owned(), value);
    object
}

fn message<T: std::fmt::Debug, E: std::fmt::Display>(result: Result<T, E>) -> String {
    match result {
        Ok(value) => panic!("accepted as {value:?}"),
        Err(error) => error.to_string(),
    }
}

/// Names and shapes of the tensors in a safetensors file, by the format's own header.
fn safetensors_shapes(path: &Path) -> Result<Shapes, TestError> {
    let bytes = fs::read(path)?;
    let length = u64::from_le_bytes(bytes[..8].try_into()?) as usize;
    let header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length])?;
    let mut shapes = Vec::new();
    for (name, entry) in header.iter().filter(|(name, _)| *name != "__metadata__") {
        shapes.push((name.clone(), serde_json::from_value(entry["shape"].clone())?));
    }
    shapes.sort();
    Ok(shapes)
}

#[rstest]
#[case::llama("llama", "llama")]
#[case::stretched_llama("llama-rope-scaling", "llama")]
#[case::mistral("mistral", "mistral")]
#[case::qwen2("qwen2", "qwen2")]
#[case::qwen3("qwen3", "qwen3")]
#[case::mixtral("mixtral", "mixtral")]
#[case::gpt2("gpt2", "gpt2")]
fn the_predicted_tensors_are_those_of_the_file(#[case] folder: &str, #[case] architecture: &str) -> TestResult {
    let folder = golden("tiny").join(folder);
    let configuration = ModelConfiguration::read(&folder.join("config.json"))?;
    assert_eq!(configuration.architecture.model_type(), architecture);
    let mut predicted = configuration.expected_tensors();
    predicted.sort();
    assert_eq!(predicted, safetensors_shapes(&folder.join("model.safetensors"))?);
    Ok(())
}

#[test]
fn the_untied_model_of_two_shards_has_an_output_layer() -> TestResult {
    let folder = golden("tiny/llama-untied");
    let mut in_files = safetensors_shapes(&folder.join("model-00001-of-00002.safetensors"))?;
    in_files.extend(safetensors_shapes(&folder.join("model-00002-of-00002.safetensors"))?);
    in_files.sort();
    let mut predicted = ModelConfiguration::read(&folder.join("config.json"))?.expected_tensors();
    predicted.sort();
    assert_eq!(predicted, in_files);
    Ok(())
}

#[test]
fn the_predicted_values_of_smollm2_are_its_published_134_515_008() -> TestResult {
    let configuration = configure(&object(json!({
        "model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30, "intermediate_size": 1536,
        "num_attention_heads": 9, "num_key_value_heads": 3, "rms_norm_eps": 1e-5, "vocab_size": 49152,
        "tie_word_embeddings": true
    })))?;
    assert_eq!(configuration.expected_values(), 134_515_008);
    assert_eq!(configuration.expected_tensors().len(), 272);
    Ok(())
}

#[test]
fn defaults_are_those_of_mlx_lm() -> TestResult {
    let configuration = configure(&object(json!({
        "model_type": "llama", "hidden_size": 48, "num_hidden_layers": 2, "intermediate_size": 80,
        "num_attention_heads": 6, "rms_norm_eps": 1e-5, "vocab_size": 100
    })))?;
    assert_eq!(configuration.num_key_value_heads, 6);
    assert_eq!(configuration.head_dim, 8);
    assert_eq!(configuration.rope_theta, 10_000.0);
    assert_eq!(configuration.rope_scaling, RopeScaling::None);
    assert!(configuration.tie_word_embeddings);
    assert!(!configuration.attention_bias);

    let mut qwen2 = llama();
    qwen2.insert("model_type".to_owned(), json!("qwen2"));
    let qwen2 = configure(&qwen2)?;
    assert_eq!(qwen2.rope_theta, 1_000_000.0);
    assert_eq!(qwen2.max_position_embeddings, 32768);
    assert!(qwen2.attention_bias);
    Ok(())
}

#[test]
fn qwen3_must_say_what_mlx_lm_asks_of_it() {
    let mut qwen3 = llama();
    qwen3.insert("model_type".to_owned(), json!("qwen3"));
    let message = message(configure(&qwen3));
    assert!(message.contains("tie_word_embeddings: found no value"), "{message}");
    assert!(message.contains("rope_theta: found no value"), "{message}");
}

#[rstest]
#[case::older(json!({"rope_theta": 500_000.0, "rope_scaling": {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192}}))]
#[case::newer(json!({"rope_parameters": {
    "rope_theta": 500_000.0, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192}}))]
fn both_spellings_of_a_stretched_context_mean_the_same(#[case] extra: Value) -> TestResult {
    let mut configuration = llama();
    configuration.extend(object(extra));
    let configuration = configure(&configuration)?;
    assert_eq!(configuration.rope_theta, 500_000.0);
    assert_eq!(
        configuration.rope_scaling,
        RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192
        }
    );
    Ok(())
}

#[test]
fn two_bases_that_disagree_are_refused() {
    let mut configuration = changed("rope_theta", json!(10_000.0));
    configuration.insert("rope_parameters".to_owned(), json!({"rope_theta": 500_000.0}));
    let message = message(configure(&configuration));
    assert!(
        message.contains("rope_parameters.rope_theta: found 500000, expected rope_theta, 10000"),
        "{message}"
    );
}

#[rstest]
#[case("yarn")]
#[case("dynamic")]
#[case("longrope")]
fn other_kinds_of_stretched_context_are_refused_by_name(#[case] kind: &str) {
    let message = message(configure(&changed(
        "rope_scaling",
        json!({"rope_type": kind, "factor": 2.0}),
    )));
    assert!(
        message.contains(&format!("rope_scaling.rope_type: found `{kind}`")),
        "{message}"
    );
}

#[rstest]
#[case::zero_layers("num_hidden_layers", json!(0), "num_hidden_layers: found 0, expected a whole number from 1")]
#[case::negative("intermediate_size", json!(-3), "intermediate_size: found -3")]
#[case::fraction("vocab_size", json!(10.5), "vocab_size: found 10.5")]
#[case::text("hidden_size", json!("many"), "hidden_size: found the text `many`")]
#[case::huge("hidden_size", json!(1_u64 << 60), "hidden_size: found 1152921504606846976")]
#[case::beyond_64_bits("num_hidden_layers", json!(1e300), "num_hidden_layers: found 1e+300")]
#[case::indivisible_heads("num_attention_heads", json!(5), "hidden_size: found 48, expected a multiple of num_attention_heads, 5")]
#[case::key_heads("num_key_value_heads", json!(4), "num_key_value_heads: found 4, expected a divisor of num_attention_heads, 6")]
#[case::odd_head("head_dim", json!(7), "head_dim: found 7, expected an even number")]
#[case::zero_epsilon("rms_norm_eps", json!(0.0), "rms_norm_eps: found 0.0, expected a positive number")]
#[case::activation("hidden_act", json!("gelu"), "hidden_act: found `gelu`, expected `silu`")]
#[case::partial_rotation("partial_rotary_factor", json!(0.5), "partial_rotary_factor: found 0.5")]
#[case::sliding_layers("layer_types", json!(["full_attention", "sliding_attention"]), "layer_types[1]: found `sliding_attention`")]
#[case::element_type("torch_dtype", json!("float8_e4m3fn"), "torch_dtype: found `float8_e4m3fn`")]
#[case::end_id("eos_token_id", json!([2, "x"]), "eos_token_id: found an array")]
#[case::other_packing("quantization_config", json!({"quant_method": "gptq", "bits": 4, "group_size": 128}), "quantization_config.quant_method: found `gptq`")]
#[case::packing_bits("quantization", json!({"group_size": 64, "bits": 7}), "found 64 and 7")]
#[case::packing_incomplete("quantization", json!({"bits": 4}), "quantization.group_size: found no value")]
#[case::packing_of_nothing("quantization", json!({"group_size": 64, "bits": 4, "model.layers.9.mlp.up_proj": false}), "quantization.model.layers.9.mlp.up_proj: found settings for a module")]
fn an_impossible_value_is_named_with_what_was_expected(#[case] key: &str, #[case] value: Value, #[case] part: &str) {
    let message = message(configure(&changed(key, value)));
    assert!(message.contains(part), "{message}");
    assert!(message.contains("config.json"), "{message}");
}

#[test]
fn all_impossible_values_are_reported_at_once() {
    let mut configuration = llama();
    configuration.insert("num_hidden_layers".to_owned(), json!(0));
    configuration.insert("vocab_size".to_owned(), json!(-1));
    configuration.remove("rms_norm_eps");
    let message = message(configure(&configuration));
    for part in [
        "num_hidden_layers: found 0",
        "vocab_size: found -1",
        "rms_norm_eps: found no value",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn an_unknown_architecture_is_refused_with_the_supported_ones() {
    let message = message(configure(&changed("model_type", json!("mamba"))));
    assert!(message.contains("`mamba`"), "{message}");
    assert!(message.contains("llama, mistral, qwen2, qwen3"), "{message}");
}

#[rstest]
#[case::empty(b"".as_slice(), "EOF while parsing a value at line 1")]
#[case::cut(b"{\"model_type\": \"lla", "EOF while parsing a string at line 1")]
#[case::not_utf8(b"{\"model_type\": \"\xff\xfe\"}", "invalid unicode code point at line 1")]
#[case::list(b"[1, 2]", "an array")]
fn a_configuration_that_is_not_an_object_is_refused(#[case] bytes: &[u8], #[case] part: &str) -> TestResult {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("config.json");
    fs::write(&path, bytes)?;
    let message = message(ModelConfiguration::read(&path));
    assert!(message.contains(part), "{message}");
    Ok(())
}

#[test]
fn a_folder_without_a_configuration_is_refused() {
    let message = message(ModelConfiguration::read(Path::new("/nowhere/config.json")));
    assert!(message.contains("/nowhere/config.json"), "{message}");
    assert!(
        message.contains("hint: copy the config.json of the model this one was made from"),
        "{message}"
    );
}

#[test]
fn packing_is_read_with_its_exceptions() -> TestResult {
    let configuration = ModelConfiguration::read(&golden("tiny/llama-4bit/config.json"))?;
    let quantization = configuration.quantization.as_ref().ok_or("no quantization")?;
    assert_eq!((quantization.default.group_size, quantization.default.bits), (64, 4));
    assert_eq!(quantization.default.mode, QuantizationMode::Affine);
    let bits = |path: &str| {
        quantization
            .for_module(path)
            .map(|packing| (packing.group_size, packing.bits))
    };
    assert_eq!(bits("model.layers.0.mlp.up_proj"), Some((64, 8)));
    assert_eq!(bits("model.layers.1.self_attn.q_proj"), Some((32, 8)));
    assert_eq!(bits("model.layers.1.mlp.up_proj"), Some((64, 4)));
    assert_eq!(configuration.eos_token_ids, [2, 0]);
    Ok(())
}

#[test]
fn a_module_marked_false_is_not_packed() -> TestResult {
    let packed = json!({"group_size": 32, "bits": 8, "model.embed_tokens": false});
    let configuration = configure(&changed("quantization", packed))?;
    let quantization = configuration.quantization.ok_or("no quantization")?;
    assert_eq!(quantization.for_module("model.embed_tokens"), None);
    assert!(quantization.for_module("model.layers.0.mlp.up_proj").is_some());
    Ok(())
}

#[test]
fn an_attention_window_is_noted_where_the_model_would_use_it() -> TestResult {
    let mut mistral = changed("sliding_window", json!(4096));
    mistral.insert("model_type".to_owned(), json!("mistral"));
    let mistral = configure(&mistral)?;
    assert_eq!(mistral.sliding_window, Some(4096));
    assert_eq!(mistral.notes().len(), 1);

    let mut qwen2 = changed("sliding_window", json!(4096));
    qwen2.insert("model_type".to_owned(), json!("qwen2"));
    qwen2.insert("use_sliding_window".to_owned(), json!(false));
    assert_eq!(configure(&qwen2)?.sliding_window, None);
    Ok(())
}

#[rstest]
#[case("llama")]
#[case("llama-4bit")]
#[case("llama-floats")]
#[case("llama-rope-scaling")]
#[case("llama-untied")]
#[case("mistral")]
#[case("qwen2")]
#[case("qwen3")]
fn a_written_configuration_reads_back_the_same(#[case] folder: &str) -> TestResult {
    let configuration = ModelConfiguration::read(&golden("tiny").join(folder).join("config.json"))?;
    assert_eq!(configure(&object(configuration.to_json()))?, configuration);
    Ok(())
}

#[rstest]
#[case("token_embd.weight", Some("model.embed_tokens.weight"))]
#[case("output.weight", Some("lm_head.weight"))]
#[case("output_norm.weight", Some("model.norm.weight"))]
#[case("blk.0.attn_q.weight", Some("model.layers.0.self_attn.q_proj.weight"))]
#[case("blk.31.attn_k.bias", Some("model.layers.31.self_attn.k_proj.bias"))]
#[case("blk.7.attn_output.weight", Some("model.layers.7.self_attn.o_proj.weight"))]
#[case("blk.7.attn_q_norm.weight", Some("model.layers.7.self_attn.q_norm.weight"))]
#[case("blk.7.ffn_norm.weight", Some("model.layers.7.post_attention_layernorm.weight"))]
#[case("blk.7.ffn_down.weight", Some("model.layers.7.mlp.down_proj.weight"))]
#[case("blk.07.ffn_down.weight", None)]
#[case("blk.7.ffn_gate_exps.weight", None)]
#[case("blk..ffn_gate.weight", None)]
#[case("blk.99999999999999999999.ffn_gate.weight", None)]
fn llama_cpp_names_have_hugging_face_names(#[case] name: &str, #[case] expected: Option<&str>) {
    assert_eq!(hugging_face_name(name).as_deref(), expected);
}

#[test]
fn rows_of_a_rotary_projection_are_interleaved_in_a_gguf_file() {
    // Hugging Face rows 0 1 2 3 of a head are stored as 0 2 1 3, so they are found at 0 2 1 3.
    assert_eq!(rotary_row_order(2, 4), [0, 2, 1, 3, 4, 6, 5, 7]);
    // Rows 0..6 are stored as 0 3 1 4 2 5.
    assert_eq!(rotary_row_order(1, 6), [0, 2, 4, 1, 3, 5]);
}

#[rstest]
#[case("gguf/k-quants")]
#[case("gguf/simple-types")]
fn tensors_have_the_values_that_the_gguf_package_reads(#[case] name: &str) -> TestResult {
    let header = GgufHeader::read(&golden(&format!("{name}.gguf")))?;
    let expected = read_json(&golden(&format!("{name}.json")))?;
    let expected = expected["tensors"].as_object().ok_or("no tensors")?;
    assert_eq!(header.tensors.len(), expected.len());
    for tensor in &header.tensors {
        let entry = &expected[&tensor.name];
        assert_eq!(entry["type"], tensor.tensor_type.name(), "{}", tensor.name);
        assert_eq!(entry["shape"], json!(tensor.shape), "{}", tensor.name);
        let values = dequantize(tensor.tensor_type, &header.tensor_bytes(tensor)?)?;
        assert_eq!(values.len(), tensor.values());
        let first: Vec<f32> = serde_json::from_value(entry["first"].clone())?;
        assert_eq!(values[..first.len()], first, "{}", tensor.name);
        let sum: f64 = values.iter().map(|&value| f64::from(value)).sum();
        let norm = values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
        assert_abs_diff_eq!(sum, entry["sum"].as_f64().ok_or("no sum")?, epsilon = 1e-5);
        assert_abs_diff_eq!(norm, entry["norm"].as_f64().ok_or("no norm")?, epsilon = 1e-5);
    }
    Ok(())
}

#[rstest]
#[case("gguf/k-quants.gguf")]
#[case("gguf/simple-types.gguf")]
fn the_tensors_of_a_gguf_file_are_those_its_metadata_predicts(#[case] name: &str) -> TestResult {
    let header = GgufHeader::read(&golden(name))?;
    let mut predicted = ModelConfiguration::from_gguf(&header)?.expected_tensors();
    predicted.sort();
    let mut found: Vec<_> = header
        .hugging_face_tensors()?
        .into_iter()
        .map(|(name, tensor)| (name, tensor.shape.clone()))
        .collect();
    found.sort();
    assert_eq!(found, predicted);
    Ok(())
}

#[test]
fn half_a_block_is_refused() {
    let message = message(dequantize(GgufTensorType::Q4K, &[0; 143]));
    assert!(message.contains("found: 143 bytes"), "{message}");
    assert!(message.contains("a multiple of 144 bytes"), "{message}");
}

#[test]
fn a_packing_that_is_not_read_is_named_and_counted() {
    let message = message(GgufHeader::read(&golden("gguf/unsupported-type.gguf")));
    assert!(message.contains("unsupported formats"), "{message}");
    assert!(
        message.contains("F32, F16, BF16, Q4_0, Q4_1, Q8_0, Q4_K, Q6_K"),
        "{message}"
    );
    assert!(message.contains("blk."), "{message}");
}

/// Writes GGUF headers as the format describes them, right or wrong.
struct GgufBytes(Vec<u8>);

impl GgufBytes {
    fn new(version: u32, tensors: u64, entries: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(version).u64(tensors).u64(entries)
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn text(self, text: &[u8]) -> Self {
        self.u64(text.len() as u64).bytes(text)
    }

    /// A table entry of an F32 tensor.
    fn tensor(self, name: &str, shape: &[u64], offset: u64) -> Self {
        let entry = self.text(name.as_bytes()).u32(shape.len() as u32);
        shape
            .iter()
            .fold(entry, |entry, &dimension| entry.u64(dimension))
            .u32(0)
            .u64(offset)
    }

    fn padded(mut self, data: usize) -> Self {
        let start = self.0.len().next_multiple_of(32);
        self.0.resize(start + data, 0);
        self
    }

    fn read(self) -> Result<GgufHeader, GgufError> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("model.gguf");
        fs::write(&path, self.0).expect("a file in it");
        GgufHeader::read(&path)
    }
}

#[rstest]
#[case(2)]
#[case(3)]
fn a_header_made_by_hand_is_read(#[case] version: u32) -> TestResult {
    let header = GgufBytes::new(version, 1, 2)
        .text(b"a.float")
        .u32(6)
        .bytes(&1e-5_f32.to_le_bytes())
        .text(b"a.list")
        .u32(9)
        .u32(5)
        .u64(2)
        .u32(7)
        .u32(9)
        .tensor("t", &[3, 2], 32)
        .padded(64)
        .read()?;
    assert_eq!(header.version, version);
    assert_eq!(header.float("a.float"), Ok(Some(1e-5)));
    assert_eq!(header.unsigned_array("a.list"), Ok(Some(vec![7, 9])));
    assert_eq!(header.unsigned("a.absent"), Ok(None));
    let tensor = header.tensor("t").ok_or("no tensor")?;
    assert_eq!(tensor.shape, [2, 3]);
    assert_eq!(tensor.byte_range.end - tensor.byte_range.start, 24);
    assert_eq!(tensor.byte_range.start % 32, 0);
    Ok(())
}

#[rstest]
#[case::tensors(GgufBytes::new(3, 1 << 60, 0), "number of tensors: found 1152921504606846976")]
#[case::entries(GgufBytes::new(3, 0, 1 << 60), "number of metadata entries: found 1152921504606846976")]
#[case::key_length(GgufBytes::new(3, 0, 1).u64(1 << 60).padded(64), "ends inside the key of metadata entry 0")]
#[case::largest_length(GgufBytes::new(3, 0, 1).u64(u64::MAX).padded(64), "expected: 18446744073709551615 bytes")]
#[case::array(GgufBytes::new(3, 0, 1).text(b"k").u32(9).u32(8).u64(1 << 60).padded(64), "number of values of `k`: found 1152921504606846976")]
#[case::shape(GgufBytes::new(3, 1, 0).tensor("t", &[1 << 40, 1 << 40], 0).padded(64), "t: found the shape")]
#[case::dimensions(GgufBytes::new(3, 1, 0).text(b"t").u32(1 << 30).padded(64), "t: found 1073741824 dimensions")]
#[case::offset(GgufBytes::new(3, 1, 0).tensor("t", &[4], u64::MAX - 31).padded(64), "t: found a file of")]
fn counts_that_lie_are_refused_before_anything_is_allocated(#[case] bytes: GgufBytes, #[case] part: &str) {
    let message = message(bytes.read());
    assert!(message.contains(part), "{message}");
}

#[rstest]
#[case::other_file(GgufBytes(b"PK\x03\x04 a zip file".to_vec()), "it begins with `PK\\x03\\x04`")]
#[case::empty(GgufBytes(Vec::new()), "ends inside the magic bytes")]
#[case::version_one(GgufBytes::new(1, 0, 0), "found: version 1")]
#[case::big_endian(GgufBytes::new(3_u32.swap_bytes(), 0, 0), "found: version 3, big-endian")]
#[case::not_utf8(GgufBytes::new(3, 0, 1).text(b"\xff\xfe").u32(4).u32(1), "UTF-8 text")]
#[case::unknown_value_type(GgufBytes::new(3, 0, 1).text(b"k").u32(77).u32(1), "k: found a value of type 77")]
#[case::half_truth(GgufBytes::new(3, 0, 1).text(b"k").u32(7).bytes(&[2]), "k: found the truth value 2")]
#[case::key_twice(GgufBytes::new(3, 0, 2).text(b"k").u32(4).u32(1).text(b"k").u32(4).u32(1), "k: found the key twice")]
#[case::tensor_twice(GgufBytes::new(3, 2, 0).tensor("t", &[4], 0).tensor("t", &[4], 32).padded(64), "t: found the name twice")]
#[case::empty_tensor(GgufBytes::new(3, 1, 0).tensor("t", &[0, 4], 0).padded(64), "t: found the shape [4, 0]")]
#[case::misaligned(GgufBytes::new(3, 1, 0).tensor("t", &[4], 8).padded(64), "t: found its data at offset 8")]
#[case::overlapping(GgufBytes::new(3, 2, 0).tensor("t", &[16], 0).tensor("u", &[4], 32).padded(64), "inside `t`")]
#[case::alignment(GgufBytes::new(3, 0, 1).text(b"general.alignment").u32(4).u32(48), "general.alignment: found 48")]
#[case::split(GgufBytes::new(3, 0, 1).text(b"split.count").u32(4).u32(3), "one of 3 parts")]
fn a_broken_header_is_refused(#[case] bytes: GgufBytes, #[case] part: &str) {
    let message = message(bytes.read());
    assert!(message.contains(part), "{message}");
}

#[test]
fn arrays_nested_without_end_are_refused() {
    let nested = (0..6).fold(GgufBytes::new(3, 0, 1).text(b"k").u32(9), |bytes, _| {
        bytes.u32(9).u64(1)
    });
    let message = message(nested.padded(64).read());
    assert!(message.contains("k: found arrays within arrays"), "{message}");
}

/// The header of a llama with heads of 16 values and frequency factors in its table; the data is added by [`stretched`].
fn stretched_header(entries: u64) -> GgufBytes {
    let sizes = [
        ("embedding_length", 32),
        ("block_count", 1),
        ("feed_forward_length", 64),
        ("attention.head_count", 2),
        ("context_length", 128),
        ("vocab_size", 10),
    ];
    let header = GgufBytes::new(3, 1, entries + 3 + sizes.len() as u64)
        .text(b"general.architecture")
        .u32(8)
        .text(b"llama")
        .text(b"llama.attention.layer_norm_rms_epsilon")
        .u32(6)
        .bytes(&1e-6_f32.to_le_bytes())
        .text(b"llama.rope.freq_base")
        .u32(6)
        .bytes(&500_000_f32.to_le_bytes());
    sizes.into_iter().fold(header, |header, (key, value)| {
        header.text(format!("llama.{key}").as_bytes()).u32(4).u32(value)
    })
}

fn stretched(factors: &[f32]) -> Result<ModelConfiguration, TestError> {
    let header = stretched_header(0).tensor("rope_freqs.weight", &[factors.len() as u64], 0);
    let data: Vec<u8> = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.gguf");
    fs::write(&path, header.padded(0).bytes(&data).0)?;
    Ok(ModelConfiguration::from_gguf(&GgufHeader::read(&path)?)?)
}

#[test]
fn the_settings_of_a_stretched_context_are_found_in_its_frequency_factors() -> TestResult {
    // From mlx-lm's Llama3RoPE with factor 8, low 1, high 4, context 8192, base 500000, 16 values a head.
    let configuration = stretched(&[1.0, 1.0, 1.0, 1.0, 2.694_529_8, 8.0, 8.0, 8.0])?;
    assert_eq!(
        configuration.rope_scaling,
        RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192
        }
    );
    assert_eq!(stretched(&[1.0; 8])?.rope_scaling, RopeScaling::None);
    Ok(())
}

#[rstest]
#[case::another_formula(&[1.0, 1.0, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0])]
#[case::too_few(&[1.0, 1.0, 8.0])]
#[case::not_a_number(&[1.0, 1.0, 1.0, 1.0, 2.694_529_8, 8.0, 8.0, f32::NAN])]
fn frequency_factors_that_are_not_understood_are_refused(#[case] factors: &[f32]) {
    let message = message(stretched(factors));
    assert!(
        message.contains("rope_freqs.weight: found frequency factors of an unknown scaling"),
        "{message}"
    );
}

#[rstest]
#[case::yarn("rope.scaling.type", "yarn", "llama.rope.scaling.type: found `yarn`")]
#[case::wrong_kind(
    "attention.head_count_kv",
    "two",
    "llama.attention.head_count_kv: found the text `two`"
)]
fn gguf_settings_that_are_not_understood_are_refused(#[case] key: &str, #[case] value: &str, #[case] part: &str) {
    let header = stretched_header(1)
        .text(format!("llama.{key}").as_bytes())
        .u32(8)
        .text(value.as_bytes())
        .tensor("output_norm.weight", &[32], 0)
        .padded(128)
        .read();
    let message = message(
        header
            .map_err(TestError::from)
            .and_then(|header| Ok(ModelConfiguration::from_gguf(&header)?)),
    );
    assert!(message.contains(part), "{message}");
}

#[test]
fn gguf_sizes_far_beyond_any_model_are_refused_before_they_are_used() {
    let header = stretched_header(1)
        .text(b"llama.expert_count")
        .u32(4)
        .u32(8)
        .tensor("output_norm.weight", &[32], 0)
        .padded(128)
        .read();
    let message = message(header.map_err(TestError::from).and_then(|mut header| {
        header
            .metadata
            .insert("llama.block_count".to_owned(), GgufValue::Unsigned(1 << 40));
        Ok(ModelConfiguration::from_gguf(&header)?)
    }));
    assert!(message.contains("llama.block_count: found 1099511627776"), "{message}");
    assert!(
        message.contains("llama.expert_count: found 8, expected a model without experts"),
        "{message}"
    );
}

#[test]
fn unknown_tensors_are_listed_at_once() -> TestResult {
    let header = GgufBytes::new(3, 3, 0)
        .tensor("blk.0.ssm_a", &[4], 0)
        .tensor("rope_freqs.weight", &[4], 32)
        .tensor("blk.0.attn_qkv.weight", &[4], 64)
        .padded(96)
        .read()?;
    let message = message(header.hugging_face_tensors());
    assert!(
        message.contains("found: blk.0.attn_qkv.weight, blk.0.ssm_a\n"),
        "{message}"
    );
    Ok(())
}

#[test]
fn a_truncated_file_names_the_tensors_that_are_cut() -> TestResult {
    let whole = fs::read(golden("gguf/simple-types.gguf"))?;
    let header = GgufHeader::read(&golden("gguf/simple-types.gguf"))?;
    let last = header
        .tensors
        .iter()
        .max_by_key(|tensor| tensor.byte_range.end)
        .ok_or("no tensor")?;
    let message = message(GgufBytes(whole[..last.byte_range.end as usize - 1].to_vec()).read());
    assert!(
        message.contains("does not hold all the tensors of its table"),
        "{message}"
    );
    assert!(message.contains(&last.name), "{message}");
    assert!(
        message.contains(&format!("at least {} bytes", last.byte_range.end)),
        "{message}"
    );
    Ok(())
}

#[test]
fn a_header_cut_anywhere_is_an_error_and_never_a_panic() -> TestResult {
    let whole = fs::read(golden("gguf/simple-types.gguf"))?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("cut.gguf");
    let first_data = GgufHeader::read(&golden("gguf/simple-types.gguf"))?
        .tensors
        .iter()
        .map(|tensor| tensor.byte_range.start as usize)
        .min()
        .ok_or("no tensor")?;
    for length in (0..first_data).step_by(7) {
        fs::write(&path, &whole[..length])?;
        assert!(GgufHeader::read(&path).is_err(), "{length} bytes were accepted");
    }
    Ok(())
}

#[test]
fn the_real_header_of_smollm2_is_read() -> TestResult {
    let Some(path) = golden::smollm2() else { return Ok(()) };
    let header = GgufHeader::read(&path)?;
    let configuration = ModelConfiguration::from_gguf(&header)?;
    assert_eq!(configuration.architecture.model_type(), "llama");
    assert_eq!(configuration.num_hidden_layers, 30);
    assert_eq!(
        (configuration.num_attention_heads, configuration.num_key_value_heads),
        (9, 3)
    );
    assert_eq!(configuration.head_dim, 64);
    assert_eq!(configuration.rms_norm_eps, 1e-5);
    assert_eq!(configuration.rope_theta, 100_000.0);
    assert_eq!(configuration.max_position_embeddings, 8192);
    assert!(configuration.tie_word_embeddings);
    assert_eq!(configuration.eos_token_ids, [2]);
    assert_eq!(configuration.expected_values(), 134_515_008);
    let types: Vec<_> = header.tensors.iter().map(|tensor| tensor.tensor_type).collect();
    assert_eq!(
        types.iter().filter(|&&found| found == GgufTensorType::Q4_1).count(),
        210
    );
    assert_eq!(types.iter().filter(|&&found| found == GgufTensorType::Q8_0).count(), 1);
    Ok(())
}
