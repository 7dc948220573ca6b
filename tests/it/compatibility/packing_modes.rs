//! MLX's floating-point packings against the definition of their numbers, and model folders in them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mlx_diagnose::adapter::{LoraSettings, StoredAdapter, attach, fuse, fuse_into_folder};
use mlx_diagnose::data::{Batch, Example};
use mlx_diagnose::model::{
    Adaptable, ConversionSettings, Embedding, ExpertIndices, ForeignModel, Linear, ModelSource, PackedForm,
    PackedMatrix, Packing, PackingChoice, Precision, QuantizationMode, SwitchLinear, WeightType, convert_model,
    load_safetensors, pack_folder, save_safetensors,
};
use mlx_diagnose::probes::foreign_base;
use mlx_diagnose::probes::update_size::module_updates;
use mlx_diagnose::train::{Lanes, loss_and_gradients};
use mlx_rs::module::Param;
use mlx_rs::ops::matmul;
use mlx_rs::transforms::fallible_vjp;
use mlx_rs::{Array, Dtype, random};
use rstest::rstest;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::compatibility::weight_conversion::mixtral_packed_as;
use crate::support::golden::{EXACT_PRECISION, PACKED_PRECISION, floats, golden, ids, largest_difference, row, tiny};

/// Difference allowed between products with packed and with unpacked weights, in f32.
const PRODUCTS: f32 = 1e-4;

const MODES: [QuantizationMode; 3] = [
    QuantizationMode::Mxfp4,
    QuantizationMode::Nvfp4,
    QuantizationMode::Mxfp8,
];

/// E2M1 of the OCP formats: sign, two bits of exponent with bias 1, one of mantissa.
fn e2m1(code: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(code >> 1 & 3), f64::from(code & 1));
    signed(code & 8 != 0, exponent, mantissa / 2.0, 1)
}

/// E4M3 of the OCP formats: sign, four bits of exponent with bias 7, three of mantissa; no infinities.
fn e4m3(code: u8) -> f64 {
    if code & 0x7F == 0x7F {
        return f64::NAN;
    }
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7));
    signed(code & 0x80 != 0, exponent, mantissa / 8.0, 7)
}

fn signed(is_negative: bool, exponent: i32, fraction: f64, bias: i32) -> f64 {
    let magnitude = match exponent {
        0 => fraction * 2.0_f64.powi(1 - bias),
        _ => (1.0 + fraction) * 2.0_f64.powi(exponent - bias),
    };
    if is_negative { -magnitude } else { magnitude }
}

/// E8M0 of the OCP formats: an exponent with bias 127 alone.
fn e8m0(code: u8) -> f64 {
    2.0_f64.powi(i32::from(code) - 127)
}

fn element(mode: QuantizationMode, code: u8) -> f64 {
    if mode == QuantizationMode::Mxfp8 {
        e4m3(code)
    } else {
        e2m1(code)
    }
}

fn scale(mode: QuantizationMode, code: u8) -> f64 {
    if mode == QuantizationMode::Nvfp4 {
        e4m3(code)
    } else {
        e8m0(code)
    }
}

/// The numbers that an element can be.
fn numbers(mode: QuantizationMode) -> Vec<f64> {
    let codes = 0..=if mode == QuantizationMode::Mxfp8 { u8::MAX } else { 15 };
    codes
        .map(|code| element(mode, code))
        .filter(|number| !number.is_nan())
        .collect()
}

fn values<T: mlx_rs::ArrayElement + Clone>(array: &Array) -> Vec<T> {
    array.contiguous().unwrap().to_vec_exact::<T>().unwrap()
}

/// Every weight of a packed matrix, and the scale of each, by the definition of the formats.
fn decoded(matrix: &PackedMatrix) -> Vec<(f64, f64)> {
    let Packing { group_size, bits, mode } = matrix.form.packing;
    let scales = values::<u8>(&matrix.scales);
    let codes = values::<u32>(&matrix.weight)
        .into_iter()
        .flat_map(|word| (0..32 / bits).map(move |place| (word >> (place * bits) & ((1 << bits) - 1)) as u8));
    codes
        .enumerate()
        .map(|(index, code)| {
            let scale = scale(mode, scales[index / group_size as usize]);
            (element(mode, code) * scale, scale)
        })
        .collect()
}

fn normal(shape: &[i32], seed: u64) -> Array {
    random::normal::<f32>(shape, None, None, &random::key(seed).unwrap()).unwrap()
}

/// Fails where another number of the grid is nearer to a weight than the one that it became.
fn assert_nearest(weights: &[f32], packed: &PackedMatrix) {
    let packing = packed.form.packing;
    let numbers = numbers(packing.mode);
    let largest = numbers.iter().copied().fold(0.0, f64::max);
    let decoded = decoded(packed);
    assert_eq!(decoded.len(), weights.len());
    let groups = weights.chunks(packing.group_size as usize);
    for (group, decoded) in groups.zip(decoded.chunks(packing.group_size as usize)) {
        let range = group.iter().map(|weight| f64::from(weight.abs())).fold(0.0, f64::max) / largest;
        let scale = decoded[0].1;
        if packing.mode == QuantizationMode::Nvfp4 {
            // Half a step of E4M3 is a sixteenth at most.
            assert!((scale / range - 1.0).abs() <= 1.0 / 16.0 + 1e-6, "{scale} for {range}");
        } else {
            assert!(scale >= range && scale < 2.0 * range, "{scale} for {range}");
        }
        for (weight, (found, _)) in group.iter().zip(decoded) {
            let distance = |number: f64| (number - f64::from(*weight)).abs();
            let nearest = numbers
                .iter()
                .map(|number| distance(number * scale))
                .fold(f64::MAX, f64::min);
            assert!(
                distance(*found) <= nearest * (1.0 + 1e-5) + 1e-9,
                "{weight} became {found}"
            );
        }
    }
}

#[rstest]
#[case::a_matrix(&[24, 96])]
#[case::experts(&[3, 8, 64])]
fn every_weight_becomes_the_nearest_number_of_its_group(#[case] shape: &[i32]) {
    for mode in MODES {
        let weights = normal(shape, 3);
        let packed = Packing::of_mode(mode).pack(&weights).unwrap();
        let (rows, columns) = (&shape[..shape.len() - 1], shape[shape.len() - 1]);
        let Packing { group_size, bits, .. } = packed.form.packing;
        assert_eq!(packed.weight.shape(), [rows, &[columns * bits / 32]].concat());
        assert_eq!(packed.scales.shape(), [rows, &[columns / group_size]].concat());
        assert!(packed.biases.is_none());
        assert_nearest(&values(&weights), &packed);
        let plain: Vec<f32> = decoded(&packed).into_iter().map(|(weight, _)| weight as f32).collect();
        assert_eq!(values::<f32>(&packed.plain().unwrap()), plain, "{mode:?}");
    }
}

#[test]
fn groups_of_sixteen_may_be_odd_in_number() {
    let packing = Packing::of_mode(QuantizationMode::Nvfp4);
    for shape in [[1, 16], [3, 48], [5, 16]] {
        let weights = normal(&shape, 4);
        let packed = packing.pack(&weights).unwrap();
        assert_nearest(&values(&weights), &packed);
        let plain: Vec<f32> = decoded(&packed).into_iter().map(|(weight, _)| weight as f32).collect();
        let found = packed.plain().unwrap();
        assert_eq!(found.shape(), shape);
        assert_eq!(values::<f32>(&found), plain);
    }
}

#[test]
fn every_code_of_weights_and_scales_is_the_number_that_the_formats_define() {
    for mode in MODES {
        let packing = Packing::of_mode(mode);
        let is_number = |code: &u8| !scale(mode, *code).is_nan() && (mode == QuantizationMode::Nvfp4 || *code < 0xFF);
        let scales: Vec<u8> = (0..=u8::MAX).filter(is_number).collect();
        let elements: Vec<u8> = match mode {
            QuantizationMode::Mxfp8 => (0..=u8::MAX)
                .map(|code| if code & 0x7F == 0x7F { 0 } else { code })
                .collect(),
            _ => (0..256).map(|code| (code % 16) as u8).collect(),
        };
        let words: Vec<u32> = elements
            .chunks((32 / packing.bits) as usize)
            .map(|codes| {
                codes
                    .iter()
                    .rev()
                    .fold(0, |word, code| word << packing.bits | u32::from(*code))
            })
            .collect();
        let rows = scales.len() as i32;
        let groups = 256 / packing.group_size;
        let repeat = |codes: &[u8]| -> Vec<u8> { codes.iter().flat_map(|code| vec![*code; groups as usize]).collect() };
        let matrix = PackedMatrix {
            weight: Array::from_slice(&words.repeat(scales.len()), &[rows, words.len() as i32]),
            scales: Array::from_slice(&repeat(&scales), &[rows, groups]),
            biases: None,
            form: PackedForm {
                packing,
                dtype: Dtype::Float32,
            },
        };
        let found = values::<f32>(&matrix.plain().unwrap());
        for (found, (expected, scale)) in found.into_iter().zip(decoded(&matrix)) {
            // Below the smallest normal number processors may round to zero.
            let expected = if expected.abs() < f64::from(f32::MIN_POSITIVE) {
                0.0
            } else {
                expected
            };
            let found = if found.abs() < f32::MIN_POSITIVE { 0.0 } else { found };
            assert_eq!(found, expected as f32, "{mode:?} with scale {scale}");
        }
        assert!(!matrix.has_code_of_nan().unwrap());
    }
}

/// The product of `input` and its gradient for `cotangent`.
fn product_and_gradient(
    forward: impl Fn(&Array) -> mlx_rs::error::Result<Array>,
    input: &Array,
    cotangent: &Array,
) -> [Vec<f32>; 2] {
    let pass = |inputs: &[Array]| forward(&inputs[0]).map(|output| vec![output]);
    let (outputs, gradients) =
        fallible_vjp(pass, std::slice::from_ref(input), std::slice::from_ref(cotangent)).unwrap();
    [values(&outputs[0]), values(&gradients[0])]
}

#[test]
fn a_linear_layer_and_its_gradient_are_those_of_the_unpacked_weights() {
    for mode in MODES {
        let packed = Packing::of_mode(mode).pack(&normal(&[40, 96], 5)).unwrap();
        let plain = packed.plain().unwrap();
        let bias = normal(&[40], 6);
        let linear = Linear::packed(packed, Some(bias.clone()));
        assert_eq!(linear.shape(), (40, 96));
        let (input, cotangent) = (normal(&[2, 7, 96], 7), normal(&[2, 7, 40], 8));
        let [product, gradient] = product_and_gradient(|input| linear.forward(input), &input, &cotangent);
        let expected = matmul(&input, plain.t()).unwrap().add(&bias).unwrap();
        assert!(largest_difference(&product, &values(&expected)) < PRODUCTS, "{mode:?}");
        let expected = matmul(&cotangent, &plain).unwrap();
        assert!(largest_difference(&gradient, &values(&expected)) < PRODUCTS, "{mode:?}");
    }
}

#[test]
fn an_embedding_gives_its_rows_and_multiplies_by_them() {
    for mode in MODES {
        let packed = Packing::of_mode(mode).pack(&normal(&[50, 64], 9)).unwrap();
        let plain = packed.plain().unwrap();
        let table = Embedding::packed(packed);
        assert_eq!((table.vocabulary_size(), table.dimensions()), (50, 64));
        let tokens = row(&[49, 0, 7, 7]);
        let rows = table.forward(&tokens).unwrap();
        assert_eq!(
            values::<f32>(&rows),
            values::<f32>(&plain.take_axis(&tokens, 0).unwrap())
        );
        let (hidden, cotangent) = (normal(&[3, 64], 10), normal(&[3, 50], 11));
        let [product, gradient] = product_and_gradient(|hidden| table.as_linear(hidden), &hidden, &cotangent);
        let expected = matmul(&hidden, plain.t()).unwrap();
        assert!(largest_difference(&product, &values(&expected)) < PRODUCTS, "{mode:?}");
        let expected = matmul(&cotangent, &plain).unwrap();
        assert!(largest_difference(&gradient, &values(&expected)) < PRODUCTS, "{mode:?}");
    }
}

#[rstest]
#[case::in_any_order(&[2, 0, 3, 0], false)]
#[case::ascending(&[0, 1, 1, 3], true)]
fn experts_and_their_gradient_are_those_of_the_unpacked_weights(#[case] chosen: &[u32], #[case] sorted: bool) {
    for mode in MODES {
        let packed = Packing::of_mode(mode).pack(&normal(&[4, 24, 64], 12)).unwrap();
        let plain = packed.plain().unwrap();
        let layer = SwitchLinear::packed(packed);
        assert_eq!(layer.shape(), (4, 24, 64));
        let experts = ExpertIndices {
            indices: Array::from_slice(chosen, &[4]),
            sorted,
        };
        let (input, cotangent) = (normal(&[4, 1, 64], 13), normal(&[4, 1, 24], 14));
        let [product, gradient] = product_and_gradient(|input| layer.forward(input, &experts), &input, &cotangent);
        let matrices = plain.take_axis(&experts.indices, 0).unwrap();
        let expected = matmul(&input, matrices.swap_axes(-1, -2).unwrap()).unwrap();
        assert!(largest_difference(&product, &values(&expected)) < PRODUCTS, "{mode:?}");
        let expected = matmul(&cotangent, &matrices).unwrap();
        assert!(largest_difference(&gradient, &values(&expected)) < PRODUCTS, "{mode:?}");
    }
}

#[test]
fn a_packed_mixture_of_experts_computes_what_its_unpacked_weights_do() {
    for mode in MODES {
        let (_folder, source) = mixtral_packed_as(Packing::of_mode(mode));
        let tokens = row(&(3..43).collect::<Vec<u32>>());
        let logits = |precision: Precision| -> Vec<f32> {
            let model = source.load(precision).unwrap().model;
            assert_eq!(model.is_packed(), precision.keep_packed);
            model.logits(&tokens).unwrap().to_vec_exact().unwrap()
        };
        let difference = largest_difference(&logits(PACKED_PRECISION), &logits(EXACT_PRECISION));
        assert!(difference < PRODUCTS, "{mode:?}: {difference}");
    }
}

/// The tiny llama packed in `mode`, in f32.
fn packed_llama(mode: QuantizationMode) -> (TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("packed");
    let settings = ConversionSettings {
        dtype: Some(WeightType::Float32),
        packing: Some(PackingChoice {
            packing: Packing::of_mode(mode),
            recipe: None,
        }),
        dequantize: false,
    };
    let files = ModelSource::Folder(tiny("llama")).open().unwrap();
    let conversion = convert_model(&files, &folder, &settings).unwrap();
    // Fourteen linear layers, and the embedding that is the output layer too.
    assert_eq!((conversion.packed, conversion.left_plain.len()), (15, 0));
    let Packing { group_size, bits, .. } = Packing::of_mode(mode);
    // One byte to each group, and the norms in full.
    let least = f64::from(bits) + 8.0 / f64::from(group_size);
    assert!(
        (least..least + 0.5).contains(&conversion.bits_per_weight),
        "{conversion:?}"
    );
    (parent, folder)
}

fn json_of(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap()
}

fn tensors(folder: &Path) -> BTreeMap<String, Array> {
    load_safetensors(&folder.join("model.safetensors"))
        .unwrap()
        .into_iter()
        .collect()
}

fn write_tensors(folder: &Path, tensors: &BTreeMap<String, Array>) {
    save_safetensors(tensors, None, &folder.join("model.safetensors")).unwrap();
}

#[test]
fn a_written_folder_says_its_mode_and_loads_with_the_same_weights() {
    for mode in MODES {
        let (_parent, folder) = packed_llama(mode);
        let Packing { group_size, bits, .. } = Packing::of_mode(mode);
        let quantization = json!({"group_size": group_size, "bits": bits, "mode": mode.name()});
        for key in ["quantization", "quantization_config"] {
            assert_eq!(json_of(&folder)[key], quantization);
        }
        let found = tensors(&folder);
        assert!(found.keys().all(|name| !name.ends_with(".biases")));
        let scales: Vec<&Array> = found
            .iter()
            .filter(|(name, _)| name.ends_with(".scales"))
            .map(|(_, scales)| scales)
            .collect();
        assert!(scales.len() == 15 && scales.iter().all(|scales| scales.dtype() == Dtype::Uint8));
        let source = ModelSource::Folder(folder.clone());
        let [packed, plain] = [PACKED_PRECISION, EXACT_PRECISION].map(|precision| source.load(precision).unwrap());
        assert_eq!(packed.packings.len(), 15);
        assert!(
            packed
                .packings
                .values()
                .all(|packing| *packing == Packing::of_mode(mode))
        );
        let input = row(&ids(&golden("tiny/llama/golden.json")["input_ids"]));
        let logits = |model: &mlx_diagnose::model::CausalModel| -> Vec<f32> {
            model.logits(&input).unwrap().to_vec_exact().unwrap()
        };
        let difference = largest_difference(&logits(&packed.model), &logits(&plain.model));
        assert!(difference < PRODUCTS, "{mode:?}: {difference}");
        // The unpacked model is the matrices of the file, by the definition of their numbers.
        for (path, linear) in plain.model.linears() {
            let part = |part: &str| found[&format!("{path}.{part}")].clone();
            let matrix = PackedMatrix {
                weight: part("weight"),
                scales: part("scales"),
                biases: None,
                form: PackedForm {
                    packing: Packing::of_mode(mode),
                    dtype: Dtype::Float32,
                },
            };
            let expected: Vec<f32> = decoded(&matrix).into_iter().map(|(weight, _)| weight as f32).collect();
            assert_eq!(values::<f32>(&linear.weight), expected, "{path}");
        }
    }
}

#[test]
fn a_packed_folder_is_unpacked_in_the_type_of_the_model() {
    let (parent, folder) = packed_llama(QuantizationMode::Nvfp4);
    let target = parent.path().join("plain");
    let settings = ConversionSettings {
        dtype: Some(WeightType::Float16),
        packing: None,
        dequantize: true,
    };
    let files = ModelSource::Folder(folder).open().unwrap();
    convert_model(&files, &target, &settings).unwrap();
    assert!(json_of(&target).get("quantization").is_none());
    let found = tensors(&target);
    assert!(found.values().all(|array| array.dtype() == Dtype::Float16));
}

#[test]
fn gradients_of_an_adapter_on_packed_weights_are_those_on_unpacked_ones() {
    for mode in MODES {
        let (_parent, folder) = packed_llama(mode);
        let batch = Batch::new(&[Example::of_tokens((3..20).collect())], &[0]);
        let gradients = |precision: Precision| {
            let mut model = ModelSource::Folder(folder.clone()).load(precision).unwrap().model;
            attach(&mut model, &LoraSettings::default(), 0).unwrap();
            // A fresh adapter has no gradient before its second matrix moves.
            for (_, linear) in model.linears_mut() {
                let shape = linear.lora_b.value.as_ref().map(|lora_b| lora_b.shape().to_vec());
                linear.lora_b = Param::new(shape.map(|shape| normal(&shape, 15)));
            }
            loss_and_gradients(&model, &batch, &Lanes::single()).unwrap().gradients
        };
        let (packed, plain) = (gradients(PACKED_PRECISION), gradients(EXACT_PRECISION));
        assert_eq!(packed.len(), 28);
        for (name, gradient) in &packed {
            let (found, expected) = (values::<f32>(gradient), values::<f32>(&plain[name]));
            let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            let difference = largest_difference(&found, &expected);
            assert!(
                largest > 0.0 && difference <= 1e-3 * largest,
                "{mode:?}: {name}: {difference} of {largest}"
            );
        }
    }
}

#[test]
fn fusing_packs_the_sum_again_in_the_same_mode() {
    for mode in MODES {
        let (parent, folder) = packed_llama(mode);
        let adapter = StoredAdapter::read(&tiny("llama").join("adapter")).unwrap();
        let source = ModelSource::Folder(folder);
        let mut model = source.load(PACKED_PRECISION).unwrap().model;
        adapter.apply(&mut model).unwrap();
        let sums: BTreeMap<String, Vec<f32>> = model
            .linears()
            .into_iter()
            .map(|(path, linear)| (path, values(&linear.adapted_weight().unwrap())))
            .collect();
        assert_eq!(fuse(&mut model).unwrap(), 14);
        for (path, linear) in model.linears() {
            let packed = PackedMatrix {
                weight: linear.weight.value.clone(),
                scales: linear.scales.value.clone().unwrap(),
                biases: linear.biases.value.clone(),
                form: linear.packing.unwrap(),
            };
            assert_eq!(Adaptable::packing(linear), Some(Packing::of_mode(mode)));
            assert_nearest(&sums[&path], &packed);
        }
        let target = parent.path().join("fused");
        let fused = fuse_into_folder(&source.open().unwrap(), &adapter, &target, false).unwrap();
        assert!(fused.is_packed && fused.adapter_effect > 0.01, "{fused:?}");
        assert_eq!(json_of(&target)["quantization"]["mode"], mode.name());
        assert!(
            ModelSource::Folder(target)
                .load(PACKED_PRECISION)
                .unwrap()
                .model
                .is_packed()
        );
    }
}

#[test]
fn a_model_of_an_unknown_architecture_shows_the_same_updates_in_the_same_steps() {
    for mode in MODES {
        let (_parent, folder) = packed_llama(mode);
        let adapter = StoredAdapter::read(&tiny("llama").join("adapter")).unwrap();
        let mut loaded = ModelSource::Folder(folder.clone()).load(PACKED_PRECISION).unwrap();
        let application = adapter.apply(&mut loaded.model).unwrap();
        let expected = module_updates(&loaded.model, &loaded.packings).unwrap();
        assert!(expected.len() == 14 && expected.iter().all(|update| update.quantization_steps.is_some()));
        let base = ForeignModel::read(&folder).unwrap();
        let found = foreign_base::read(&base, Some((&adapter, &application)))
            .unwrap()
            .updates;
        assert_eq!(found, expected, "{mode:?}");
    }
}

#[test]
fn a_folder_of_mlx_lm_in_several_modes_is_read_module_by_module() {
    let folder = tiny("llama-floats");
    let loaded = ModelSource::Folder(folder.clone()).load(PACKED_PRECISION).unwrap();
    let packing = |module: &str| loaded.packings.get(module).copied();
    let of_mode = |mode| Some(Packing::of_mode(mode));
    assert_eq!(packing("model.embed_tokens"), of_mode(QuantizationMode::Mxfp4));
    assert_eq!(packing("model.layers.0.mlp.up_proj"), of_mode(QuantizationMode::Mxfp8));
    assert_eq!(
        packing("model.layers.1.self_attn.q_proj"),
        of_mode(QuantizationMode::Nvfp4)
    );
    // No mode is written for it, which mlx-lm takes for `affine` and not for that of the others.
    assert_eq!(packing("model.layers.0.self_attn.v_proj"), Some(Packing::affine(64, 8)));
    assert_eq!(packing("model.layers.1.self_attn.o_proj"), None);
    // Converted once more it is the same, with the modes written out.
    let parent = tempfile::tempdir().unwrap();
    let target = parent.path().join("again");
    let files = ModelSource::Folder(folder.clone()).open().unwrap();
    convert_model(&files, &target, &ConversionSettings::default()).unwrap();
    assert_eq!(
        json_of(&target)["quantization"]["model.layers.0.self_attn.v_proj"],
        json!({"group_size": 64, "bits": 8, "mode": "affine"})
    );
    let (found, expected) = (tensors(&target), tensors(&folder));
    assert_eq!(found.len(), expected.len());
    for (name, array) in &expected {
        assert!(
            found[name].dtype() == array.dtype() && found[name].eq_values(array).unwrap(),
            "{name}"
        );
    }
    let golden = golden("tiny/llama-floats/golden.json");
    let model = ModelSource::Folder(target).load(EXACT_PRECISION).unwrap().model;
    let logits = model.logits(&row(&ids(&golden["input_ids"]))).unwrap();
    assert!(largest_difference(&values(&logits), &floats(&golden["logits"])) < PRODUCTS);
}

/// The message of loading the tiny llama packed in `mode` after `change`.
fn refused(mode: QuantizationMode, change: impl FnOnce(&mut BTreeMap<String, Array>, &mut Value)) -> String {
    let (_parent, folder) = packed_llama(mode);
    let (mut tensors, mut configuration) = (tensors(&folder), json_of(&folder));
    change(&mut tensors, &mut configuration);
    write_tensors(&folder, &tensors);
    fs::write(folder.join("config.json"), configuration.to_string()).unwrap();
    ModelSource::Folder(folder)
        .load(PACKED_PRECISION)
        .unwrap_err()
        .to_string()
}

const PROJECTION: &str = "model.layers.1.mlp.up_proj";

#[test]
fn parts_of_another_mode_are_refused_with_their_modules() {
    let biases = |tensors: &mut BTreeMap<String, Array>| {
        let scales = tensors[&format!("{PROJECTION}.scales")]
            .as_dtype(Dtype::Float32)
            .unwrap();
        tensors.insert(format!("{PROJECTION}.biases"), scales);
    };
    let message = refused(QuantizationMode::Mxfp4, |tensors, _| biases(tensors));
    assert!(
        message.contains("1 module is packed in another mode than the configuration says"),
        "{message}"
    );
    assert!(
        message.contains(&format!("{PROJECTION} (mode `mxfp4`, scales in uint8 and biases)")),
        "{message}"
    );

    let message = refused(QuantizationMode::Mxfp8, |tensors, _| {
        let name = format!("{PROJECTION}.scales");
        let scales = tensors[&name].as_dtype(Dtype::Float32).unwrap();
        tensors.insert(name, scales);
    });
    assert!(
        message.contains("(mode `mxfp8`, scales in float32 and no biases)"),
        "{message}"
    );

    let message = refused(QuantizationMode::Mxfp4, |_, configuration| {
        configuration["quantization"]["mode"] = "affine".into();
    });
    assert!(message.contains("15 modules are packed in another mode"), "{message}");
    assert!(
        message.contains("(mode `affine`, scales in uint8 and no biases)"),
        "{message}"
    );
    assert!(
        message.contains("make `quantization` in config.json say how the files are packed"),
        "{message}"
    );
}

#[test]
fn affine_weights_without_biases_are_refused() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("packed");
    pack_folder(&tiny("llama"), &folder, Packing::affine(32, 4)).unwrap();
    let mut tensors = tensors(&folder);
    tensors.remove(&format!("{PROJECTION}.biases"));
    write_tensors(&folder, &tensors);
    let message = ModelSource::Folder(folder)
        .load(PACKED_PRECISION)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains(&format!("unexpected (1): {PROJECTION}.scales")),
        "{message}"
    );
}

#[test]
fn groups_of_another_mode_are_refused() {
    let message = refused(QuantizationMode::Nvfp4, |_, configuration| {
        configuration["quantization"] = json!({"group_size": 32, "bits": 4, "mode": "mxfp4"});
    });
    assert!(message.contains("do not fit its configuration"), "{message}");
    assert!(
        message.contains("unexpected (15): model.embed_tokens.scales"),
        "{message}"
    );
}

#[rstest]
#[case::a_scale_of_e8m0(QuantizationMode::Mxfp4, "scales", 0xFF)]
#[case::a_scale_of_e4m3(QuantizationMode::Nvfp4, "scales", 0x7F)]
#[case::a_negative_scale_of_e4m3(QuantizationMode::Nvfp4, "scales", 0xFF)]
#[case::another_scale_of_e8m0(QuantizationMode::Mxfp8, "scales", 0xFF)]
#[case::a_weight_of_e4m3(QuantizationMode::Mxfp8, "weight", 0x7F)]
fn the_code_of_nan_is_told(#[case] mode: QuantizationMode, #[case] part: &str, #[case] code: u8) {
    let message = refused(mode, |tensors, _| {
        let name = format!("{PROJECTION}.{part}");
        let array = &tensors[&name];
        let mut bytes = values::<u8>(&array.view::<u8>().unwrap());
        bytes[5] = code;
        let shape = [array.dim(0), bytes.len() as i32 / array.dim(0)];
        let poisoned = Array::from_slice(&bytes, &shape).view_dtype(array.dtype()).unwrap();
        tensors.insert(name, poisoned);
    });
    assert!(message.contains("1 tensor holds NaN or infinite values"), "{message}");
    assert!(message.contains(&format!("{PROJECTION}.weight")), "{message}");
}

#[rstest]
#[case::a_slip(json!({"group_size": 32, "bits": 4, "mode": "mxpf4"}), "quantization.mode: found `mxpf4` (did you mean `mxfp4`?), expected affine, mxfp4, nvfp4, mxfp8")]
#[case::a_group_size(json!({"group_size": 64, "bits": 4, "mode": "mxfp4"}), "found 64 and 4, expected 32 and 4 for mode `mxfp4`")]
#[case::bits(json!({"group_size": 16, "bits": 8, "mode": "nvfp4"}), "found 16 and 8, expected 16 and 4 for mode `nvfp4`")]
#[case::no_group_size(json!({"bits": 8, "mode": "mxfp8"}), "quantization.group_size: found no value")]
#[case::an_exception(json!({"group_size": 32, "bits": 4, "mode": "mxfp4", PROJECTION: {"group_size": 16}}), "found 16 and 4, expected 32, 64 or 128")]
#[case::a_scale_of_the_tensor(json!({"group_size": 32, "bits": 4, "mode": "mxfp4", PROJECTION: {"mode": "nvfp4", "global_scale": true}}), "global_scale: found true, expected false")]
fn impossible_settings_of_a_mode_are_named(#[case] quantization: Value, #[case] part: &str) {
    let message = refused(QuantizationMode::Mxfp4, |_, configuration| {
        configuration["quantization"] = quantization;
    });
    assert!(message.contains(part), "{message}");
}

fn convert(options: &[&str]) -> (Option<i32>, String, TempDir) {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("mlx");
    let output = Command::new(env!("CARGO_BIN_EXE_diagnose"))
        .args([
            "convert",
            "model",
            tiny("llama").to_str().unwrap(),
            "--out",
            out.to_str().unwrap(),
        ])
        .args(options)
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code(), text, parent)
}

#[test]
fn the_command_packs_in_a_mode_with_its_group_size_and_bits() {
    let (code, text, parent) = convert(&["--mode", "nvfp4"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("15 modules packed, 4.5"), "{text}");
    let quantization = &json_of(&parent.path().join("mlx"))["quantization"];
    assert_eq!(*quantization, json!({"group_size": 16, "bits": 4, "mode": "nvfp4"}));
}

#[rstest]
#[case::group_size(&["--mode", "mxfp4", "--group-size", "64"], "in mode `mxfp4` with group size 64 and 4 bits")]
#[case::bits(&["--mode", "mxfp8", "--bits", "4"], "expected: 32 and 8 for mode `mxfp8`")]
#[case::a_recipe(&["--mode", "nvfp4", "--quant-predicate", "mixed_3_6"], "weights cannot be packed by a recipe in mode `nvfp4`")]
#[case::a_slip(&["--mode", "mxfp5"], "mxfp4")]
fn the_command_refuses_what_a_mode_does_not_have(#[case] options: &[&str], #[case] part: &str) {
    let (code, text, parent) = convert(options);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains(part), "{text}");
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
}
