//! What must be the same with every release of MLX that can be linked; `scripts/check-mlx-versions` runs it with each.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mlx_diagnose::model::{load_safetensors, save_safetensors};
use mlx_diagnose::train::{AdamW, AdamWSettings, Optimizer};
use mlx_rs::ops::{dequantize, matmul, quantize};
use mlx_rs::{Array, Device, Dtype};
use mlx_sys::backend::{DeviceKind, HEADERS_VERSION, check_version, device_properties, version};

/// A folder in which the releases leave files for each other.
const EXCHANGE: &str = "MLX_DIAGNOSE_EXCHANGE";
/// Error of a product of 96 terms around 1 in f32, with any order of summing: 96 roundings of 6e-8 each, and some more.
const PRODUCT_ERROR: f64 = 2e-5;
/// Group and bits of the packed matrix.
const PACKING: (i32, i32) = (32, 4);

/// Numbers within 1 of 0 that look random and are exact in 16 bits: 64ths.
fn number(place: usize) -> f32 {
    (place * 37 % 129) as f32 / 64.0 - 1.0
}

fn numbers(rows: i32, columns: i32) -> Array {
    let values: Vec<f32> = (0..(rows * columns) as usize).map(number).collect();
    Array::from_slice(&values, &[rows, columns])
}

fn values(array: &Array) -> Vec<f32> {
    array.as_dtype(Dtype::Float32).unwrap().to_vec_exact().unwrap()
}

#[test]
fn the_library_is_that_of_the_headers() {
    assert_eq!(check_version(), Ok(()));
    assert_eq!(version().as_deref(), Some(HEADERS_VERSION));
    // What this was built for is said by whoever built it.
    if let Some(asked) = std::env::var_os("MLX_DIAGNOSE_MLX_VERSION").filter(|asked| !asked.is_empty()) {
        assert_eq!(asked, HEADERS_VERSION);
    }
}

#[test]
fn the_default_device_is_one_of_those_listed() {
    assert!(!device_properties(DeviceKind::Cpu).is_empty());
    let gpus = device_properties(DeviceKind::Gpu).len();
    let default = format!("{:?}", Device::try_default().unwrap());
    assert_eq!(default.contains("gpu"), gpus > 0, "{default} of {gpus}");
    assert_eq!(default.contains("cpu"), gpus == 0, "{default} of {gpus}");
}

#[test]
fn the_first_step_of_an_optimizer_is_that_of_its_formula() {
    let settings = AdamWSettings {
        bias_correction: true,
        ..AdamWSettings::MLX
    };
    let (rate, decay, epsilon) = (0.01, f64::from(settings.weight_decay), f64::from(settings.epsilon));
    let before = numbers(3, 4);
    let gradient = numbers(4, 3).reshape(&[3, 4]).unwrap().square().unwrap();
    let mut parameters = BTreeMap::from([("layer.weight".to_owned(), before.clone())]);
    let gradients = BTreeMap::from([("layer.weight".to_owned(), gradient.clone())]);
    AdamW::new(settings).update(&mut parameters, &gradients, rate).unwrap();
    let pairs = values(&before).into_iter().zip(values(&gradient));
    let after = values(&parameters["layer.weight"]);
    for ((before, gradient), after) in pairs.zip(after) {
        let (before, gradient) = (f64::from(before), f64::from(gradient));
        // With corrected moments the first step is that of the gradient's sign.
        let expected = before * (1.0 - rate * decay) - rate * gradient / (gradient.abs() + epsilon);
        approx::assert_abs_diff_eq!(f64::from(after), expected, epsilon = 1e-6);
    }
}

#[test]
fn a_product_is_that_of_double_precision() {
    let (rows, depth, columns) = (33, 96, 65);
    let (left, right) = (numbers(rows, depth), numbers(depth, columns));
    let product = values(&matmul(&left, &right).unwrap());
    let (left, right) = (values(&left), values(&right));
    let (rows, depth, columns) = (rows as usize, depth as usize, columns as usize);
    for row in 0..rows {
        for column in 0..columns {
            let terms = (0..depth)
                .map(|place| f64::from(left[row * depth + place]) * f64::from(right[place * columns + column]));
            let found = f64::from(product[row * columns + column]);
            approx::assert_abs_diff_eq!(found, terms.sum::<f64>(), epsilon = PRODUCT_ERROR);
        }
    }
}

/// One tensor of each kind that files hold.
fn tensors() -> BTreeMap<String, Array> {
    let plain = numbers(4, 64);
    let (packed, scales, biases) = quantize(&plain, PACKING.0, PACKING.1).unwrap();
    let named = |name: &str, array: Array| (name.to_owned(), array);
    BTreeMap::from([
        named("bfloat16", plain.as_dtype(Dtype::Bfloat16).unwrap()),
        named("biases", biases),
        named("float16", plain.as_dtype(Dtype::Float16).unwrap()),
        named("float32", plain.clone()),
        named("packed", packed),
        named("scales", scales),
        named("tokens", Array::from_slice(&[0_i32, 49_151, -1], &[3])),
    ])
}

fn assert_whole(path: &Path) {
    let shown = path.display();
    let stored = load_safetensors(path).unwrap_or_else(|error| panic!("{error}"));
    let names: Vec<&str> = stored.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["bfloat16", "biases", "float16", "float32", "packed", "scales", "tokens"],
        "{shown}"
    );
    let expected: Vec<f32> = (0..256).map(number).collect();
    for (name, dtype) in [
        ("bfloat16", Dtype::Bfloat16),
        ("float16", Dtype::Float16),
        ("float32", Dtype::Float32),
    ] {
        assert_eq!(
            (stored[name].dtype(), stored[name].shape()),
            (dtype, [4, 64].as_slice()),
            "{shown}"
        );
        assert_eq!(values(&stored[name]), expected, "{name} of {shown}");
    }
    let tokens: Vec<i32> = stored["tokens"].to_vec_exact().unwrap();
    assert_eq!(tokens, [0, 49_151, -1], "{shown}");
    let (packed, scales, biases) = (&stored["packed"], &stored["scales"], &stored["biases"]);
    let unpacked = dequantize(packed, scales, biases, PACKING.0, PACKING.1).unwrap();
    // A value lies within half a step of what it was packed from, and a step is its group's scale.
    let scales = values(scales);
    for (place, (found, expected)) in values(&unpacked).into_iter().zip(expected).enumerate() {
        let step = scales[place / PACKING.0 as usize].abs();
        assert!(
            (found - expected).abs() <= 0.51 * step,
            "{place} of {shown}: {found}, {expected}"
        );
    }
}

/// The files of every release that left one, here and in the folder of the exchange.
fn files() -> Vec<PathBuf> {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/mlx-versions");
    let exchange = std::env::var_os(EXCHANGE).map(PathBuf::from);
    let mut files: Vec<PathBuf> = [Some(kept), exchange]
        .into_iter()
        .flatten()
        .flat_map(|folder| folder.read_dir().unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
        .collect();
    files.sort();
    files
}

#[test]
fn files_of_every_release_are_read_by_this_one() {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("own.safetensors");
    save_safetensors(&tensors(), None, &own).unwrap();
    assert_whole(&own);
    if let Some(exchange) = std::env::var_os(EXCHANGE) {
        fs::copy(
            &own,
            Path::new(&exchange).join(format!("{HEADERS_VERSION}.safetensors")),
        )
        .unwrap();
    }
    let files = files();
    for release in ["0.32.2", "0.32.4"] {
        let name = format!("{release}.safetensors");
        assert!(files.iter().any(|path| path.ends_with(&name)), "no file of {release}");
    }
    for path in files {
        assert_whole(&path);
    }
}
