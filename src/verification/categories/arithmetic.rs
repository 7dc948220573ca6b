use half::{bf16, f16};
use mlx_rs::fast::{ScaledDotProductAttentionMask, layer_norm, rms_norm, rope, scaled_dot_product_attention};
use mlx_rs::ops::{
    cumsum, dequantize, exp, matmul, quantize, quantized_matmul, sigmoid, softmax_axis, sqrt, square, tanh,
};
use mlx_rs::{Array, Dtype};

use super::super::check::{Check, CheckResult, Deviations, failed};
use super::super::session::Session;
use super::super::tolerance::{ATTENTION, FUNCTIONS, PRODUCTS, PRODUCTS_IN_16_BITS, REDUCTIONS, ROTATIONS};
use super::array::array;
use crate::double_precision::{self as exact, AttentionShape, Turn, doubles, values};
use crate::readback::vector;

pub(in super::super) const CHECKS: &[Check] = &[
    Check::once("matrix products", products),
    Check::once("matrix products in batches", batched_products),
    Check::once("matrix products in 16 bits", products_in_16_bits),
    Check::once("products with packed matrices", packed_products),
    Check::once("sums, means and largest values", reductions),
    Check::once("softmax", softmax),
    Check::once("norms", norms),
    Check::once("rotary positions", rotary),
    Check::once("attention", attention),
    Check::once("functions of single values", functions),
];

/// What helps where arithmetic is wrong.
const HINT: &str = "nothing that this device computes can be trusted: update the system, its drivers and MLX, or compute elsewhere with --backend";

/// Rows, inner side and columns of products: no multiples of a kernel's tiles, single rows and columns, and a large one.
const PRODUCT_SIZES: [[usize; 3]; 5] = [[67, 129, 93], [1, 300, 257], [256, 64, 1], [5, 1, 7], [160, 512, 144]];

/// Each as it is, with its left side turned and with its right side turned: the three of a forward and a backward pass.
fn products(session: &Session<'_>) -> CheckResult {
    let mut deviations = Deviations::within(PRODUCTS, session);
    for size in PRODUCT_SIZES {
        let [rows, inner, columns] = size;
        let (left, right) = (values(rows * inner, 1), values(inner * columns, 2));
        let expected = exact::product(&left, &right, size);
        let plain = (array(&left, &[rows, inner]), array(&right, &[inner, columns]));
        let turned_left = array(&exact::transposed(&left, [rows, inner]), &[inner, rows]);
        let turned_right = array(&exact::transposed(&right, [inner, columns]), &[columns, inner]);
        let shape = format!("{rows} x {inner} x {columns}");
        deviations.compare(shape.clone(), &vector(&matmul(&plain.0, &plain.1)?)?, &expected);
        let found = vector(&matmul(turned_left.t(), &plain.1)?)?;
        deviations.compare(format!("{shape}, left side turned"), &found, &expected);
        let found = vector(&matmul(&plain.0, turned_right.t())?)?;
        deviations.compare(format!("{shape}, right side turned"), &found, &expected);
    }
    deviations.judge("matrix products", HINT)
}

fn batched_products(session: &Session<'_>) -> CheckResult {
    let (batch, size) = (3, [17, 29, 11]);
    let [rows, inner, columns] = size;
    let (left, right) = (values(batch * rows * inner, 3), values(batch * inner * columns, 4));
    let found = matmul(
        array(&left, &[batch, rows, inner]),
        array(&right, &[batch, inner, columns]),
    )?;
    let pairs = left.chunks(rows * inner).zip(right.chunks(inner * columns));
    let expected: Vec<f64> = pairs
        .flat_map(|(left, right)| exact::product(left, right, size))
        .collect();
    let mut deviations = Deviations::within(PRODUCTS, session);
    deviations.compare("3 of 17 x 29 x 11", &vector(&found)?, &expected);
    deviations.judge("matrix products in batches", HINT)
}

fn products_in_16_bits(session: &Session<'_>) -> CheckResult {
    let size = [19, 64, 23];
    let [rows, inner, columns] = size;
    let mut deviations = Deviations::within(PRODUCTS_IN_16_BITS, session);
    for (dtype, name, round) in [
        (
            Dtype::Bfloat16,
            "bfloat16",
            (|value| bf16::from_f32(value).to_f32()) as fn(f32) -> f32,
        ),
        (Dtype::Float16, "float16", |value| f16::from_f32(value).to_f32()),
    ] {
        let rounded = |count, seed| -> Vec<f32> { values(count, seed).into_iter().map(round).collect() };
        let (left, right) = (rounded(rows * inner, 5), rounded(inner * columns, 6));
        let found = matmul(
            array(&left, &[rows, inner]).as_dtype(dtype)?,
            array(&right, &[inner, columns]).as_dtype(dtype)?,
        )?;
        let found = vector(&found.as_dtype(Dtype::Float32)?)?;
        deviations.compare(name, &found, &exact::product(&left, &right, size));
    }
    deviations.judge("matrix products in 16 bits", HINT)
}

/// MLX's affine packing: groups of 64 values share a scale and a bias, and a value is `scale * integer + bias`.
fn packed_products(session: &Session<'_>) -> CheckResult {
    const GROUP: usize = 64;
    const WORD: usize = 32;
    let [rows, inner, columns] = [5, 128, 24];
    let (input, weight) = (values(rows * inner, 7), values(columns * inner, 8));
    let mut deviations = Deviations::within(PRODUCTS, session);
    for bits in [2, 4, 8] {
        let (packed, scales, biases) = quantize(array(&weight, &[columns, inner]), GROUP as i32, bits as i32)?;
        let words: Vec<u32> = vector(&packed)?;
        let (of_scales, of_biases): (Vec<f32>, Vec<f32>) = (vector(&scales)?, vector(&biases)?);
        let per_word = WORD / bits;
        let unpacked: Vec<f32> = (0..columns * inner)
            .map(|place| {
                let integer = (words[place / per_word] >> (bits * (place % per_word))) & ((1 << bits) - 1);
                of_scales[place / GROUP] * integer as f32 + of_biases[place / GROUP]
            })
            .collect();
        let found = dequantize(&packed, &scales, &biases, GROUP as i32, bits as i32)?;
        deviations.compare(format!("unpacked {bits} bits"), &vector(&found)?, &doubles(&unpacked));
        // A step of the packing is a scale, and a value is at most half of one away, or a whole one where the ends round.
        let furthest = unpacked
            .iter()
            .zip(&weight)
            .zip((0..).map(|place: usize| of_scales[place / GROUP]));
        let steps = furthest.map(|((found, value), scale)| f64::from((found - value).abs() / scale.abs()));
        if let Some(far) = steps.clone().find(|steps| *steps > 1.0) {
            return Err(failed(
                format!("packing in {bits} bits loses more than a step"),
                format!("{far:.2} steps"),
                "1 step at most",
                HINT,
            ));
        }
        let found = quantized_matmul(
            array(&input, &[rows, inner]),
            &packed,
            &scales,
            &biases,
            true,
            GROUP as i32,
            bits as i32,
        )?;
        let turned = exact::transposed(&unpacked, [columns, inner]);
        let expected = exact::product(&input, &turned, [rows, inner, columns]);
        deviations.compare(format!("product in {bits} bits"), &vector(&found)?, &expected);
    }
    deviations.judge("products with packed matrices", HINT)
}

fn reductions(session: &Session<'_>) -> CheckResult {
    let (rows, columns) = (7, 1031);
    // Without a shift the sums are near zero, and an error is a large share of them.
    let numbers: Vec<f32> = values(rows * columns, 9).into_iter().map(|value| value + 0.5).collect();
    let matrix = array(&numbers, &[rows, columns]);
    let by_row = |of_row: &dyn Fn(&[f32]) -> f64| -> Vec<f64> { numbers.chunks(columns).map(of_row).collect() };
    let sum = |row: &[f32]| -> f64 { row.iter().map(|&value| f64::from(value)).sum() };
    let largest = |row: &[f32]| row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut deviations = Deviations::within(REDUCTIONS, session);
    deviations.compare("sums of rows", &vector(&matrix.sum_axis(-1, false)?)?, &by_row(&sum));
    let means = by_row(&|row| sum(row) / columns as f64);
    deviations.compare("means of rows", &vector(&matrix.mean_axis(-1, false)?)?, &means);
    let found = vector(&matrix.max_axis(-1, false)?)?;
    deviations.compare("largest of rows", &found, &by_row(&|row| f64::from(largest(row))));
    deviations.compare("sum of all", &vector(&matrix.sum(None)?)?, &[sum(&numbers)]);
    let of_columns: Vec<f64> = (0..columns)
        .map(|column| {
            numbers
                .iter()
                .skip(column)
                .step_by(columns)
                .map(|&value| f64::from(value))
                .sum()
        })
        .collect();
    deviations.compare("sums of columns", &vector(&matrix.sum_axis(0, false)?)?, &of_columns);
    let found = vector(&matrix.logsumexp_axis(-1, false)?)?;
    deviations.compare(
        "logarithms of sums of exponentials",
        &found,
        &exact::log_sum_exp(&numbers, columns),
    );
    let mut running = 0.0;
    let sums: Vec<f64> = numbers[..columns]
        .iter()
        .map(|&value| {
            running += f64::from(value);
            running
        })
        .collect();
    let found = vector(&cumsum(array(&numbers[..columns], &[columns]), 0, false, true)?)?;
    deviations.compare("running sums", &found, &sums);
    deviations.judge("sums, means and largest values", HINT)
}

fn softmax(session: &Session<'_>) -> CheckResult {
    let (rows, columns) = (5, 1031);
    let mut deviations = Deviations::within(FUNCTIONS, session);
    // Exponentials of the last would be infinite without the largest taken off.
    for (spread, shift) in [(1.0, 0.0), (8.0, 0.0), (8.0, 300.0)] {
        let logits: Vec<f32> = values(rows * columns, 10)
            .into_iter()
            .map(|value| value * spread + shift)
            .collect();
        let found = vector(&softmax_axis(array(&logits, &[rows, columns]), -1, true)?)?;
        let place = format!("logits within {spread} of {shift}");
        deviations.compare(place, &found, &exact::softmax(&logits, columns));
    }
    deviations.judge("softmaxes", HINT)
}

fn norms(session: &Session<'_>) -> CheckResult {
    const EPSILON: f32 = 1e-5;
    let mut deviations = Deviations::within(FUNCTIONS, session);
    for width in [7, 64, 576] {
        let input: Vec<f32> = values(11 * width, 11)
            .into_iter()
            .map(|value| value * 3.0 + 0.5)
            .collect();
        let (weight, bias) = (values(width, 12), values(width, 13));
        let rows = array(&input, &[11, width]);
        let (weights, biases) = (array(&weight, &[width]), array(&bias, &[width]));
        let found = vector(&rms_norm(&rows, Some(&weights), EPSILON)?)?;
        let expected = exact::root_mean_square_norm(&input, &weight, EPSILON.into());
        deviations.compare(format!("root mean square of {width}"), &found, &expected);
        let found = vector(&layer_norm(&rows, &weights, &biases, EPSILON)?)?;
        let expected = exact::layer_norm(&input, &weight, &bias, EPSILON.into());
        deviations.compare(format!("mean and variance of {width}"), &found, &expected);
    }
    deviations.judge("norms", HINT)
}

fn rotary(session: &Session<'_>) -> CheckResult {
    let (heads, tokens, width) = (3, 40, 16);
    let input = values(heads * tokens * width, 14);
    let states = array(&input, &[1, heads, tokens, width]);
    let mut deviations = Deviations::within(ROTATIONS, session);
    for (dimensions, traditional, offset) in [(16, false, 0), (16, true, 0), (8, false, 0), (16, false, 250)] {
        let turn = Turn {
            dimensions,
            traditional,
            base: 10_000.0,
            offset,
        };
        let found = rope(
            &states,
            dimensions as i32,
            traditional,
            10_000.0,
            1.0,
            offset as i32,
            None,
        )?;
        deviations.compare(
            turn.to_string(),
            &vector(&found)?,
            &exact::rotary(&input, [tokens, width], turn),
        );
    }
    deviations.judge("rotary positions", HINT)
}

fn attention(session: &Session<'_>) -> CheckResult {
    const SCALE: f32 = 0.3;
    let mut deviations = Deviations::within(ATTENTION, session);
    for (tokens, held) in [(1, 40), (33, 33), (20, 33)] {
        let shape = AttentionShape {
            heads: 4,
            groups: 2,
            tokens,
            held,
            width: 16,
            window: None,
        };
        let [queries, keys, of_keys] =
            [(4 * tokens, 15), (2 * held, 16), (2 * held, 17)].map(|(rows, seed)| values(rows * shape.width, seed));
        let found = scaled_dot_product_attention(
            array(&queries, &[1, 4, tokens, shape.width]),
            array(&keys, &[1, 2, held, shape.width]),
            array(&of_keys, &[1, 2, held, shape.width]),
            SCALE,
            ScaledDotProductAttentionMask::Causal,
            None,
        )?;
        let expected = exact::attention([&queries, &keys, &of_keys], shape, SCALE.into());
        deviations.compare(shape.to_string(), &vector(&found)?, &expected);
    }
    deviations.judge("results of attention", HINT)
}

/// A function of MLX, and the same of double precision.
type FunctionPair = (&'static str, fn(&Array) -> mlx_rs::error::Result<Array>, fn(f64) -> f64);

fn functions(session: &Session<'_>) -> CheckResult {
    const PAIRS: [FunctionPair; 9] = [
        ("exp", |x| exp(x), f64::exp),
        ("sin", Array::sin, f64::sin),
        ("cos", Array::cos, f64::cos),
        ("tanh", |x| tanh(x), f64::tanh),
        ("sigmoid", |x| sigmoid(x), |x| 1.0 / (1.0 + (-x).exp())),
        ("square", |x| square(x), |x| x * x),
        (
            "logarithm of 1 + square",
            |x| square(x)?.add(Array::from_f32(1.0))?.log(),
            |x| (x * x + 1.0).ln(),
        ),
        ("root of square", |x| sqrt(square(x)?), f64::abs),
        (
            "inverse root of 1 + square",
            |x| square(x)?.add(Array::from_f32(1.0))?.rsqrt(),
            |x| 1.0 / (x * x + 1.0).sqrt(),
        ),
    ];
    let points: Vec<f32> = values(1000, 18).into_iter().map(|value| value * 6.0).collect();
    let given = array(&points, &[points.len()]);
    let mut deviations = Deviations::within(FUNCTIONS, session);
    for (name, of_mlx, of_double) in PAIRS {
        let expected: Vec<f64> = points.iter().map(|&point| of_double(point.into())).collect();
        deviations.compare(name, &vector(&of_mlx(&given)?)?, &expected);
    }
    deviations.judge("functions of single values", HINT)
}
