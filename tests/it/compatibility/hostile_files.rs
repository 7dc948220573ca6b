//! Weight files that are broken or were made to do harm: refused in bounded time and memory, and nothing of them is
//! run.
//!
//! Sizes such as 2^60 stand where a program that believed them would ask for more memory than any machine has.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mlx_diagnose::adapter::{Places, StoredAdapter};
use mlx_diagnose::model::{
    ChatTemplate, GgufHeader, Message, ModelConfiguration, ModelSource, Tokenizer, WeightSet, load_npz,
    load_safetensors, load_torch,
};
use mlx_rs::Array;
use rstest::rstest;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use zip::CompressionMethod::{Deflated, Stored};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::support::golden::{root, tiny};

/// Far above what a refusal takes on a busy machine, far below what believing the file would take.
const LONGEST_REFUSAL: Duration = Duration::from_secs(30);

/// The message with which `load` refuses, which must be there soon.
fn refusal<T, E: std::fmt::Display>(load: impl FnOnce() -> Result<T, E>) -> String {
    let started = Instant::now();
    let Err(error) = load() else { panic!("accepted") };
    assert!(started.elapsed() < LONGEST_REFUSAL, "{:?}: {error}", started.elapsed());
    error.to_string()
}

fn zip_file(entries: &[(&str, &[u8], zip::CompressionMethod)]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights");
    let mut archive = ZipWriter::new(fs::File::create(&path).unwrap());
    for (name, content, method) in entries {
        let options = SimpleFileOptions::default().compression_method(*method);
        archive.start_file(*name, options).unwrap();
        archive.write_all(content).unwrap();
    }
    archive.finish().unwrap();
    (folder, path)
}

/// A torch file of this pickle, with one storage of 64 bytes.
fn torch_file(pickle: &[u8]) -> (TempDir, PathBuf) {
    torch_file_with(pickle, &[0; 64])
}

fn torch_file_with(pickle: &[u8], storage: &[u8]) -> (TempDir, PathBuf) {
    zip_file(&[
        ("archive/data.pkl", pickle, Stored),
        ("archive/data/0", storage, Stored),
    ])
}

fn text(text: &str) -> Vec<u8> {
    [&[b'X'][..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

fn integer(value: i64) -> Vec<u8> {
    [&[0x8a, 8][..], &value.to_le_bytes()].concat()
}

fn integers(values: &[i64]) -> Vec<u8> {
    let values: Vec<u8> = values.iter().flat_map(|value| integer(*value)).collect();
    [b"(".to_vec(), values, b"t".to_vec()].concat()
}

/// A tensor of floats in storage 0.
fn tensor(offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text("0"),
        text("cpu"),
        integer(16),
        b"tQ".to_vec(),
        integer(offset),
        integers(shape),
        integers(strides),
        b"\x89)tR".to_vec(),
    ]
    .concat()
}

/// A state dict of these pickled values, named `tensor 0` and so on.
fn state_dict(values: &[Vec<u8>]) -> Vec<u8> {
    let mut pickle = b"\x80\x02}(".to_vec();
    for (index, value) in values.iter().enumerate() {
        pickle.extend(text(&format!("tensor {index}")));
        pickle.extend(value);
    }
    pickle.extend(b"u.");
    pickle
}

#[test]
fn the_pickles_of_these_tests_are_read_where_they_are_honest() {
    let (_folder, path) = torch_file(&state_dict(&[tensor(0, &[4, 4], &[4, 1]), tensor(1, &[3], &[5])]));
    let tensors = load_torch(&path).unwrap();
    let shapes: Vec<&[i32]> = tensors.values().map(Array::shape).collect();
    assert_eq!(shapes, [&[4, 4][..], &[3]]);
}

#[rstest]
#[case::system(b"cposix\nsystem\n(X\x0a\x00\x00\x00touch stole", "`posix.system`")]
#[case::eval(b"\x80\x02cbuiltins\neval\n(X\x01\x00\x00\x001tR.", "`builtins.eval`")]
#[case::exec_of_python_2(b"c__builtin__\nexec\n.", "`__builtin__.exec`")]
#[case::by_the_stack(b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R.", "`os.system`")]
#[case::a_process(b"csubprocess\nPopen\n(X\x02\x00\x00\x00idtR.", "`subprocess.Popen`")]
#[case::torch_itself(b"ctorch.hub\nload\n.", "`torch.hub.load`")]
#[case::torch_loading(b"ctorch.storage\n_load_from_bytes\n.", "`torch.storage._load_from_bytes`")]
#[case::attributes_of_a_name(b"ctorch\nFloatStorage.__class__\n.", "`torch.FloatStorage.__class__`")]
#[case::an_instance(b"(ios\nsystem\n.", "the instruction 0x69")]
#[case::an_object(b"(cos\nsystem\no.", "`os.system`")]
#[case::a_new_object(b"ccollections\nOrderedDict\n)\x81.", "the instruction 0x81")]
#[case::a_registered_name(b"\x82\x01.", "the instruction 0x82")]
#[case::attributes(b"]}b.", "attributes for what is no dictionary")]
#[case::a_call_of_a_text(b"X\x01\x00\x00\x00a)R.", "a call of what is no name")]
#[case::a_newer_protocol(b"\x80\x09.", "protocol 9")]
fn a_pickle_that_would_run_code_is_refused_by_name(#[case] pickle: &[u8], #[case] part: &str) {
    let (_folder, path) = torch_file(pickle);
    let message = refusal(|| load_torch(&path));
    assert!(message.contains(part), "{message}");
    assert!(message.contains("hint: "), "{message}");
}

/// A value in which one is used twice in the next, again and again: 2^60 if it were written out.
fn doubled_value() -> Vec<u8> {
    let mut pickle = b"]q\x00".to_vec();
    for _ in 0..60 {
        pickle.extend(b"h\x00\x86q\x00");
    }
    pickle
}

/// A list in a list, a million deep.
fn deep_value() -> Vec<u8> {
    let mut pickle = b")".to_vec();
    pickle.extend(std::iter::repeat_n(0x85, 1_000_000));
    pickle
}

/// A tensor wrapped in a hundred thousand parameters.
fn deep_parameter() -> Vec<u8> {
    let mut pickle = b"ctorch._utils\n_rebuild_parameter\nq\x00".to_vec();
    for _ in 0..99_999 {
        pickle.extend(b"h\x00");
    }
    pickle.extend(text("no tensor"));
    for _ in 0..100_000 {
        pickle.extend(b"\x85R");
    }
    pickle
}

#[rstest]
#[case::doubled(&doubled_value(), "`tensor 0`, which is a list")]
#[case::deep(&deep_value(), "`tensor 0`, which is a list")]
#[case::deep_parameters(&deep_parameter(), "a tensor that cannot be made sense of")]
#[case::within_itself(b"]q\x00h\x00a", "`tensor 0`, which is a list")]
#[case::a_long_text(b"\x8d\x00\x00\x00\x00\x00\x00\x00\x10", "ends early")]
#[case::a_long_number(b"\x8a\xff", "more than 64 bits")]
#[case::nothing_to_take(b"R", "a value that is not there")]
#[case::a_reference_to_nothing(b"h\x07", "a reference to nothing")]
fn a_pickle_that_would_take_all_memory_is_refused(#[case] value: &[u8], #[case] part: &str) {
    let (_folder, path) = torch_file(&state_dict(&[value.to_vec()]));
    let message = refusal(|| load_torch(&path));
    assert!(message.contains(part), "{message}");
}

#[test]
fn a_pickle_of_too_many_values_is_refused() {
    let (_folder, path) = torch_file(&vec![b')'; 5_000_000]);
    assert!(refusal(|| load_torch(&path)).contains("more than 4194304 values"));
}

#[test]
fn a_pickle_that_is_too_large_is_not_read() {
    let (_folder, path) = torch_file(&vec![b')'; 1 << 25]);
    assert!(refusal(|| load_torch(&path)).contains("of more than 16777216 bytes"));
}

#[rstest]
#[case::huge(0, &[1 << 60], &[1])]
#[case::a_product_beyond_64_bits(0, &[1 << 40, 1 << 40], &[1, 1])]
#[case::beyond_the_end(1, &[16], &[1])]
#[case::a_huge_offset(1 << 62, &[1], &[1])]
#[case::a_huge_stride(0, &[2], &[1 << 61])]
#[case::one_value_2_to_the_60_times(0, &[1 << 30, 1 << 30], &[0, 0])]
fn a_tensor_that_its_storage_cannot_hold_is_refused(
    #[case] offset: i64,
    #[case] shape: &[i64],
    #[case] strides: &[i64],
) {
    let (_folder, path) = torch_file(&state_dict(&[tensor(offset, shape, strides)]));
    let message = refusal(|| load_torch(&path));
    assert!(
        message.contains("beyond the end of its storage") || message.contains("bytes in a file of"),
        "{message}"
    );
}

#[rstest]
#[case::negative(tensor(0, &[-1], &[1]))]
#[case::sizes_without_strides(tensor(0, &[2, 2], &[1]))]
fn a_tensor_that_makes_no_sense_is_refused(#[case] value: Vec<u8>) {
    let (_folder, path) = torch_file(&state_dict(&[value]));
    assert!(refusal(|| load_torch(&path)).contains("cannot be made sense of"));
}

#[test]
fn a_tensor_of_a_thousand_dimensions_is_refused() {
    let value = tensor(0, &[1; 1000], &[1; 1000]);
    let (_folder, path) = torch_file(&state_dict(&[value]));
    assert!(refusal(|| load_torch(&path)).contains("more than MLX takes"));
}

#[test]
fn many_views_of_one_storage_are_not_each_given_memory() {
    let values = 1 << 18;
    let views: Vec<Vec<u8>> = (0..500).map(|offset| tensor(offset, &[values - 500], &[1])).collect();
    let (_folder, path) = torch_file_with(&state_dict(&views), &vec![0; 4 << 18]);
    assert!(refusal(|| load_torch(&path)).contains("tensors of 523288000 bytes"));
    // The same view under many names is held once.
    let same = vec![tensor(0, &[values], &[1]); 500];
    let (_folder, path) = torch_file_with(&state_dict(&same), &vec![0; 4 << 18]);
    assert_eq!(load_torch(&path).unwrap().len(), 500);
}

#[test]
fn a_storage_that_is_not_there_is_named() {
    let (_folder, path) = zip_file(&[("archive/data.pkl", &state_dict(&[tensor(0, &[1], &[1])]), Stored)]);
    assert!(refusal(|| load_torch(&path)).contains("no entry `archive/data/0`, where `tensor 0` lies"));
}

fn header_of(shape: &str, kind: &str) -> Vec<u8> {
    let text = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n");
    [
        b"\x93NUMPY\x01\x00",
        &(text.len() as u16).to_le_bytes()[..],
        text.as_bytes(),
    ]
    .concat()
}

#[rstest]
#[case::huge(&header_of("(1152921504606846976,)", "<f4"), "of [1152921504606846976] in")]
#[case::a_product_beyond_64_bits(&header_of("(4294967296, 4294967296)", "<f4"), "of [4294967296, 4294967296] in")]
#[case::beyond_64_bits(&header_of("(99999999999999999999999,)", "<f4"), "no header of an array")]
#[case::negative(&header_of("(-1,)", "<f4"), "no header of an array")]
#[case::values_that_are_not_there(&header_of("(3,)", "<f4"), "of [3] in")]
#[case::deep(&header_of(&"(".repeat(4000), "<f4"), "no header of an array")]
#[case::a_long_header(b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "a header of 4294967295 bytes")]
#[case::no_header(b"PNG", "no header of an array")]
#[case::nothing(b"", "no header of an array")]
fn an_array_that_its_file_cannot_hold_is_refused(#[case] array: &[u8], #[case] part: &str) {
    let (_folder, path) = zip_file(&[("weight.npy", array, Stored)]);
    let message = refusal(|| load_npz(&path));
    assert!(message.contains(part), "{message}");
}

#[test]
fn a_zip_bomb_is_refused_before_it_unpacks() {
    let count = 1 << 26;
    let content = [header_of(&format!("({count},)"), "|u1"), vec![0; count]].concat();
    let (_folder, path) = zip_file(&[("a.npy", &content, Deflated)]);
    let length = path.metadata().unwrap().len();
    assert!(length < 100_000, "{length}");
    let message = refusal(|| load_npz(&path));
    assert!(message.contains("as a zip bomb does"), "{message}");
    let (_folder, path) = zip_file(&[("archive/data.pkl", &content, Deflated)]);
    assert!(refusal(|| load_torch(&path)).contains("as a zip bomb does"));
}

/// The bytes of a zip of two arrays, changed where `change` says: it is given all bytes and where the directory's two
/// entries begin.
fn changed_zip(change: impl Fn(&mut Vec<u8>, [usize; 2])) -> (TempDir, PathBuf) {
    let array = [header_of("(4,)", "|u1"), vec![7; 4]].concat();
    let (folder, path) = zip_file(&[("a.npy", &array, Stored), ("b.npy", &array, Stored)]);
    let mut bytes = fs::read(&path).unwrap();
    let entries: Vec<usize> = bytes
        .windows(4)
        .enumerate()
        .filter_map(|(at, window)| (window == b"PK\x01\x02").then_some(at))
        .collect();
    change(&mut bytes, [entries[0], entries[1]]);
    fs::write(&path, bytes).unwrap();
    (folder, path)
}

#[rstest]
#[case::overlapping(|bytes: &mut Vec<u8>, [first, second]: [usize; 2]| bytes.copy_within(first + 42..first + 46, second + 42), "overlap")]
#[case::huge_in_the_directory(|bytes: &mut Vec<u8>, [first, _]: [usize; 2]| bytes[first + 24..first + 28].copy_from_slice(&[0xfe, 0xff, 0xff, 0xff]), "with two sizes")]
#[case::huge_both_times(|bytes: &mut Vec<u8>, [first, _]: [usize; 2]| bytes[first + 20..first + 28].copy_from_slice(&[0xfe, 0xff, 0xff, 0x7f, 0xfe, 0xff, 0xff, 0x7f]), "as a zip bomb does")]
#[case::another_method(|bytes: &mut Vec<u8>, [first, _]: [usize; 2]| bytes[first + 10] = 12, "packed in an unknown way")]
#[case::one_name_twice(|bytes: &mut Vec<u8>, [_, second]: [usize; 2]| bytes[second + 46] = b'a', "two entries of one name")]
#[case::another_value(|bytes: &mut Vec<u8>, [first, _]: [usize; 2]| { let at = first; let value = bytes[..at].iter().position(|&byte| byte == 7).unwrap(); bytes[value] = 8; }, "cannot be read")]
#[case::beyond_the_end(|bytes: &mut Vec<u8>, [_, second]: [usize; 2]| bytes[second + 42..second + 46].copy_from_slice(&[0xff, 0xff, 0xff, 0x7f]), "a broken entry")]
#[case::two_names(|bytes: &mut Vec<u8>, [first, _]: [usize; 2]| bytes[first + 46] = b'c', "filename mismatch")]
fn an_archive_that_lies_is_refused(#[case] change: fn(&mut Vec<u8>, [usize; 2]), #[case] part: &str) {
    let (_folder, path) = changed_zip(change);
    let message = refusal(|| load_npz(&path));
    assert!(message.contains(part), "{message}");
}

#[test]
fn a_directory_that_counts_entries_that_are_not_there_is_refused() {
    let mut end = b"PK\x05\x06\x00\x00\x00\x00".to_vec();
    end.extend([0xff; 4]);
    end.extend([0; 10]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.npz");
    fs::write(&path, end).unwrap();
    assert!(refusal(|| load_npz(&path)).contains("is not a usable archive"));
}

fn safetensors_file(header: &str, length: u64) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, [&length.to_le_bytes()[..], header.as_bytes()].concat()).unwrap();
    (folder, path)
}

#[rstest]
#[case::a_long_header("{}", 1 << 60, "a header of 1152921504606846976 bytes")]
#[case::huge(
    r#"{"a":{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,4611686018427387904]}}"#,
    0,
    "is not"
)]
#[case::a_product_beyond_64_bits(
    r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#,
    0,
    "is not a safetensors file"
)]
#[case::a_side_beyond_32_bits(
    r#"{"a":{"dtype":"F32","shape":[0,8589934592],"data_offsets":[0,0]}}"#,
    0,
    "`a` of [0, 8589934592], more than MLX takes"
)]
fn a_safetensors_header_that_lies_is_refused(#[case] header: &str, #[case] length: u64, #[case] part: &str) {
    let length = if length == 0 { header.len() as u64 } else { length };
    let (_folder, path) = safetensors_file(header, length);
    let message = refusal(|| load_safetensors(&path));
    assert!(message.contains(part), "{message}");
}

fn fixture(name: &str) -> PathBuf {
    root().join("fixtures/golden/weights").join(name)
}

type Tensors = BTreeMap<String, Array>;

fn load(path: &Path) -> Result<Tensors, String> {
    let loaded = match path.extension().and_then(|extension| extension.to_str()) {
        Some("npz") => load_npz(path),
        Some("safetensors") => load_safetensors(path),
        _ => load_torch(path),
    };
    loaded.map_err(|error| error.to_string())
}

fn are_equal(found: &Tensors, expected: &Tensors) -> bool {
    found.len() == expected.len()
        && found.iter().zip(expected).all(|((name, array), (other, expected))| {
            name == other && array.dtype() == expected.dtype() && array.eq_values(expected).unwrap()
        })
}

#[rstest]
#[case::torch(fixture("module.pth"))]
#[case::npz(fixture("mlx.npz"))]
fn a_file_with_any_byte_changed_is_refused_or_the_same(#[case] source: PathBuf) {
    let expected = load(&source).unwrap();
    let bytes = fs::read(&source).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(source.file_name().unwrap());
    let mut refused = 0;
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x55;
        fs::write(&path, changed).unwrap();
        match load(&path) {
            Ok(found) => assert!(are_equal(&found, &expected), "byte {at}"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > bytes.len() / 4, "{refused} of {}", bytes.len());
}

#[rstest]
#[case::torch(fixture("module.pth"))]
#[case::npz(fixture("mlx.npz"))]
#[case::safetensors(tiny("llama/adapter").join("adapters.safetensors"))]
fn a_file_that_is_cut_anywhere_is_refused(#[case] source: PathBuf) {
    let bytes = fs::read(&source).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(source.file_name().unwrap());
    for length in (0..bytes.len()).step_by(bytes.len() / 200) {
        fs::write(&path, &bytes[..length]).unwrap();
        let message = load(&path).unwrap_err();
        assert!(message.contains("hint: "), "{length} bytes: {message}");
    }
}

#[test]
fn a_gguf_file_that_is_cut_anywhere_is_refused() {
    let bytes = fs::read(root().join("fixtures/golden/gguf/simple-types.gguf")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    for length in (0..bytes.len()).step_by(bytes.len() / 200) {
        fs::write(&path, &bytes[..length]).unwrap();
        let message = refusal(|| GgufHeader::read(&path).map(drop));
        assert!(
            message.contains("found") || message.contains("ends"),
            "{length} bytes: {message}"
        );
    }
}

/// A copy of the tiny model with `content` as the file `name`.
fn model_with(name: &str, content: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(tiny("llama")).unwrap().map(Result::unwrap) {
        if entry.path().is_file() {
            fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
    }
    fs::write(folder.path().join(name), content).unwrap();
    folder
}

/// Far deeper than any stack.
fn deep_json(prefix: &str) -> String {
    format!("{prefix}{}", "[".repeat(2_000_000))
}

#[test]
fn deep_json_is_refused_in_every_file() {
    let deep = deep_json(r#"{"weight_map": "#);
    let folder = model_with("config.json", &deep);
    refusal(|| ModelConfiguration::read(&folder.path().join("config.json")));
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        let folder = model_with(name, &deep);
        refusal(|| Tokenizer::from_folder(folder.path()).map(drop));
    }
    for name in ["model.safetensors.index.json", "pytorch_model.bin.index.json"] {
        let folder = model_with(name, &deep);
        fs::remove_file(folder.path().join("model.safetensors")).unwrap();
        let message = refusal(|| WeightSet::of_folder(folder.path()));
        assert!(message.contains("is not a usable shard index"), "{message}");
    }
    let (_folder, path) = safetensors_file(&deep, deep.len() as u64);
    refusal(|| load_safetensors(&path));
    let adapter = tempfile::tempdir().unwrap();
    let weights = tiny("llama/adapter").join("adapters.safetensors");
    fs::copy(weights, adapter.path().join("adapters.safetensors")).unwrap();
    fs::write(adapter.path().join("adapter_config.json"), &deep).unwrap();
    refusal(|| StoredAdapter::read(adapter.path()).map(drop));
}

#[rstest]
#[case::of_safetensors("model.safetensors.index.json")]
#[case::of_torch("pytorch_model.bin.index.json")]
fn a_shard_name_that_leads_out_of_the_folder_is_refused(#[case] index: &str) {
    for shard in [
        json!("../../secret"),
        json!("/etc/passwd"),
        json!("folder/shard"),
        json!(".."),
        json!("."),
        json!(""),
        json!("..\\secret"),
        Value::Null,
        json!(["a"]),
    ] {
        let folder = model_with(index, &json!({"weight_map": {"a": shard}}).to_string());
        fs::remove_file(folder.path().join("model.safetensors")).unwrap();
        let message = refusal(|| {
            ModelSource::Folder(folder.path().to_owned())
                .open()
                .unwrap()
                .check_weights()
        });
        assert!(message.contains("the shard name"), "{shard}: {message}");
    }
}

#[rstest]
#[case::an_endless_loop(
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% set x = a %}{% endfor %}{% endfor %}{% endfor %}"
)]
#[case::an_endless_range("{% for a in range(999999999999) %}{% endfor %}")]
#[case::a_call_of_itself("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}")]
#[case::a_text_many_times("{{ ('a' * 99999999999)|length }}")]
fn a_template_that_never_ends_is_stopped(#[case] template: &str) {
    let template = ChatTemplate::new("hostile.jinja", template, Map::new()).unwrap();
    let message = refusal(|| template.render(&[Message::new("user", "Hello")], None, true));
    assert!(message.contains("`hostile.jinja`"), "{message}");
}

/// A list in a list, `levels` deep, and then `end`.
fn deep_template(levels: usize, end: &str) -> String {
    format!("{{% set n = namespace(x=[]) %}}{{% for i in range({levels}) %}}{{% set n.x = [n.x] %}}{{% endfor %}}{end}")
}

#[test]
fn a_template_may_nest_values_deeper_than_an_ordinary_stack() {
    let source = deep_template(99_999, "{{ n.x|string|length }}");
    let template = ChatTemplate::new("deep.jinja", &source, Map::new()).unwrap();
    // As small a stack as any thread of the server has.
    let thread = std::thread::Builder::new().stack_size(1 << 20);
    let render = move || template.render(&[], None, false);
    let rendered = thread.spawn(render).unwrap().join().unwrap();
    assert_eq!(rendered.unwrap(), "200000");
}

#[test]
fn values_too_deep_for_json_are_refused() {
    let json = |levels| {
        let source = deep_template(levels, "{{ n.x|tojson|length }}");
        ChatTemplate::new("deep.jinja", &source, Map::new())
            .unwrap()
            .render(&[], None, false)
    };
    assert_eq!(json(900).unwrap(), "1802");
    let message = json(50_000).unwrap_err().to_string();
    assert!(message.contains("nested deeper than 1000 levels"), "{message}");
}

#[test]
fn a_tag_of_one_percent_sign_is_a_syntax_error() {
    let message = refusal(|| ChatTemplate::new("short.jinja", "{%}", Map::new()));
    assert!(message.contains("is not valid at line 1"), "{message}");
}

#[test]
fn a_peft_matrix_without_dimensions_fits_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    let header = json!({ name: { "dtype": "F32", "shape": [], "data_offsets": [0, 4] } }).to_string();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat();
    fs::write(folder.path().join("adapter_model.safetensors"), bytes).unwrap();
    let configuration = json!({ "peft_type": "LORA", "r": 2, "lora_alpha": 4 }).to_string();
    fs::write(folder.path().join("adapter_config.json"), configuration).unwrap();
    let adapter = StoredAdapter::read(folder.path()).unwrap();
    let places = Places::suggested_by(BTreeMap::from([(
        "model.layers.0.self_attn.q_proj.weight".to_owned(),
        vec![4, 4],
    )]));
    let application = adapter.application_to(&places);
    assert!(application.applied.is_empty());
    assert!(!adapter.faults(&application).is_empty());
}

#[test]
fn a_tokenizer_that_is_cut_anywhere_is_refused() {
    let whole = fs::read_to_string(tiny("llama").join("tokenizer.json")).unwrap();
    let folder = model_with("tokenizer.json", &whole);
    let cuts = (0..whole.trim_end().len())
        .step_by(50)
        .filter(|&length| whole.is_char_boundary(length));
    for length in cuts {
        fs::write(folder.path().join("tokenizer.json"), &whole[..length]).unwrap();
        let message = refusal(|| Tokenizer::from_folder(folder.path()).map(drop));
        assert!(message.contains("tokenizer.json"), "{length} bytes: {message}");
    }
}

#[test]
fn a_tokenizer_with_an_id_beyond_all_vocabularies_is_refused() {
    let text = fs::read_to_string(tiny("llama").join("tokenizer.json")).unwrap();
    let mut definition: Value = serde_json::from_str(&text).unwrap();
    definition["model"]["vocab"]["a"] = u32::MAX.into();
    let folder = model_with("tokenizer.json", &definition.to_string());
    let message = refusal(|| Tokenizer::from_folder(folder.path()).map(drop));
    assert!(message.contains("a token with the id 4294967295"), "{message}");
}

#[test]
fn a_tokenizer_with_a_broken_table_of_characters_is_refused() {
    let text = fs::read_to_string(tiny("llama").join("tokenizer.json")).unwrap();
    let mut definition: Value = serde_json::from_str(&text).unwrap();
    let table = json!({ "type": "Precompiled", "precompiled_charsmap": "AAAA" });
    definition["normalizer"] = json!({ "type": "Sequence", "normalizers": [table] });
    let folder = model_with("tokenizer.json", &definition.to_string());
    let message = refusal(|| Tokenizer::from_folder(folder.path()).map(drop));
    assert!(message.contains("a normalizer `Precompiled` that is none"), "{message}");
}
