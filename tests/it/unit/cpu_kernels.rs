//! The operations that are our own compute what MLX's operations, or their closed forms, compute.

#![cfg(target_os = "linux")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use approx::assert_relative_eq;
use mlx_cpu_kernels::{AdamWFactors, Adapter, Difference, Gate, Reach, Rotation};
use mlx_rs::error::{Exception, Result};
use mlx_rs::fast::{rms_norm, rope, rope_dynamic, scaled_dot_product_attention};
use mlx_rs::nn::{gelu_approximate, silu};
use mlx_rs::ops::indexing::take_along_axis;
use mlx_rs::ops::{arange, ge, gt, logical_and, matmul, multiply, repeat_axis, subtract};
use mlx_rs::transforms::{async_eval, eval, fallible_vjp};
use mlx_rs::{Array, Device, Dtype, Stream, random, with_stream};
use rstest::rstest;

use crate::integration::architecture_parity::{self, every_golden_model};
use rstest_reuse::apply;

/// Difference allowed between sums of the same f32 terms in another order, as a share of the largest value, and of the
/// terms, which are about 1.
const ROUNDING: f64 = 4e-6;
/// Difference allowed between logits of the same computation in other steps.
const OTHER_STEPS: f64 = 2e-5;
/// How long a stream is held up: far longer than a small product takes.
const STREAM_HELD_UP: Duration = Duration::from_millis(500);

fn drawn(seed: u64, shape: &[i32]) -> Array {
    random::normal::<f32>(shape, None, None, &random::key(seed).unwrap()).unwrap()
}

fn values(array: &Array) -> Vec<f64> {
    if array.size() == 0 {
        return Vec::new();
    }
    let array = array.as_dtype(Dtype::Float32).unwrap().contiguous().unwrap();
    array
        .to_vec_exact::<f32>()
        .unwrap()
        .into_iter()
        .map(f64::from)
        .collect()
}

#[track_caller]
fn assert_alike(found: &Array, expected: &Array) {
    assert_alike_within(ROUNDING, found, expected);
}

#[track_caller]
fn assert_alike_within(tolerance: f64, found: &Array, expected: &Array) {
    assert_eq!(found.shape(), expected.shape());
    let (found, expected) = (values(found), values(expected));
    let largest = expected
        .iter()
        .fold(1.0, |largest: f64, value| largest.max(value.abs()));
    for (place, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert!(
            (found - expected).abs() <= tolerance * largest,
            "{place}: {found}, expected {expected}"
        );
    }
}

/// Two functions of the same inputs have the same value, and the same gradients by the first `differentiated` of them.
#[track_caller]
fn assert_same_function(
    inputs: &[Array],
    differentiated: usize,
    found: impl Fn(&[Array]) -> Result<Array>,
    expected: impl Fn(&[Array]) -> Result<Array>,
) {
    assert_same_function_within(ROUNDING, inputs, differentiated, found, expected);
}

#[track_caller]
fn assert_same_function_within(
    tolerance: f64,
    inputs: &[Array],
    differentiated: usize,
    found: impl Fn(&[Array]) -> Result<Array>,
    expected: impl Fn(&[Array]) -> Result<Array>,
) {
    let (first, rest) = inputs.split_at(differentiated);
    let cotangent = drawn(99, expected(inputs).unwrap().shape());
    let pass = |function: &dyn Fn(&[Array]) -> Result<Array>| {
        let whole = |given: &[Array]| Ok(vec![function(&[given, rest].concat())?]);
        fallible_vjp(whole, first, std::slice::from_ref(&cotangent)).unwrap()
    };
    let ((found, found_gradients), (expected, expected_gradients)) = (pass(&found), pass(&expected));
    assert_alike_within(tolerance, &found[0], &expected[0]);
    assert_eq!(found_gradients.len(), differentiated);
    for (found, expected) in found_gradients.iter().zip(&expected_gradients) {
        assert_alike_within(tolerance, found, expected);
    }
}

#[rstest]
#[case(&[3, 1])]
#[case(&[2, 5, 7])]
#[case(&[1, 130, 576])]
#[case(&[0, 8])]
fn a_norm_is_that_of_mlx(#[case] shape: &[i32]) {
    let inputs = [drawn(1, shape), drawn(2, &shape[shape.len() - 1..])];
    assert_same_function(
        &inputs,
        2,
        |given| mlx_cpu_kernels::root_mean_square_norm(&given[0], &given[1], 1e-5),
        |given| rms_norm(&given[0], Some(&given[1]), 1e-5),
    );
}

#[test]
fn a_norm_reads_an_input_that_lies_in_memory_the_other_way_round() {
    let (input, weight) = (drawn(1, &[6, 9]), drawn(2, &[6]));
    let found = mlx_cpu_kernels::root_mean_square_norm(&input.t(), &weight, 1e-5).unwrap();
    assert_alike(&found, &rms_norm(input.t(), Some(&weight), 1e-5).unwrap());
}

#[rstest]
#[case(Gate::Silu)]
#[case(Gate::GeluTanh)]
fn a_gate_is_that_of_mlx(#[case] gate: Gate, #[values(1, 37, 150_000)] length: i32) {
    let inputs = [
        multiply(drawn(1, &[length]), Array::from_f32(4.0)).unwrap(),
        drawn(2, &[length]),
    ];
    assert_same_function(
        &inputs,
        2,
        |given| mlx_cpu_kernels::gated(gate, &given[0], &given[1]),
        |given| match gate {
            Gate::Silu => multiply(silu(&given[0])?, &given[1]),
            Gate::GeluTanh => multiply(gelu_approximate(&given[0])?, &given[1]),
        },
    );
}

#[test]
fn a_gate_keeps_six_digits_from_one_end_to_the_other() {
    let points: Vec<f32> = (-8_000..8_000).map(|step| step as f32 / 100.0).collect();
    let length = points.len() as i32;
    let ones = Array::ones::<f32>(&[length]).unwrap();
    let found = mlx_cpu_kernels::gated(Gate::Silu, &Array::from_slice(&points, &[length]), &ones).unwrap();
    for (point, found) in points.iter().zip(values(&found)) {
        let point = f64::from(*point);
        assert_relative_eq!(found, point / (1.0 + (-point).exp()), max_relative = 1e-6);
    }
}

#[test]
fn what_is_no_number_stays_visible() {
    let broken = Array::from_slice(&[f32::NAN, 1.0, f32::INFINITY], &[1, 3]);
    let ones = Array::ones::<f32>(&[1, 3]).unwrap();
    let found = values(&mlx_cpu_kernels::gated(Gate::Silu, &broken, &ones).unwrap());
    assert!(found[0].is_nan() && found[1].is_finite() && found[2] == f64::INFINITY);
    let weight = Array::ones::<f32>(&[3]).unwrap();
    let found = values(&mlx_cpu_kernels::root_mean_square_norm(&broken, &weight, 1e-5).unwrap());
    assert!(found.iter().all(|value| value.is_nan()));
    let heads = broken.reshape(&[1, 1, 3, 1]).unwrap();
    let reach = Reach {
        window: None,
        scale: 1.0,
    };
    let found = mlx_cpu_kernels::attention([&heads, &heads, &heads], reach, None).unwrap();
    assert!(values(&found).iter().all(|value| value.is_nan()));
}

#[rstest]
fn a_rotation_is_that_of_mlx(
    #[values(true, false)] traditional: bool,
    #[values(4, 8)] dimensions: i32,
    #[values(0, 300)] offset: i32,
) {
    let rotation = Rotation {
        dimensions,
        traditional,
        base: 10_000.0,
        scale: 0.5,
    };
    // Few enough tokens for one thread, and enough for several.
    for tokens in [1, 40, 600] {
        // An angle is no more exact than f32 has it.
        let furthest = f64::from(offset + tokens) * 0.5;
        assert_same_function_within(
            ROUNDING + furthest * f64::from(f32::EPSILON),
            &[drawn(1, &[2, tokens, 15, 8])],
            1,
            |given| mlx_cpu_kernels::rotary(&given[0], &rotation, None, offset, None),
            |given| {
                let heads = given[0].transpose_axes(&[0, 2, 1, 3])?;
                rope(heads, dimensions, traditional, 10_000.0, 0.5, offset, None)?.transpose_axes(&[0, 2, 1, 3])
            },
        );
    }
}

#[test]
fn rows_at_other_offsets_are_rotated_by_periods_of_their_own() {
    let periods = Array::from_slice(&[1.0_f32, 3.0, 20.0, 700.0], &[4]);
    let offsets = Array::from_slice(&[5, 90], &[2]);
    let rotation = Rotation {
        dimensions: 8,
        traditional: false,
        base: 1.0,
        scale: 1.0,
    };
    assert_same_function(
        &[drawn(1, &[2, 6, 3, 8])],
        1,
        |given| mlx_cpu_kernels::rotary(&given[0], &rotation, Some(&periods), 0, Some(&offsets)),
        |given| {
            let heads = given[0].transpose_axes(&[0, 2, 1, 3])?;
            rope_dynamic(heads, 8, false, None, 1.0, &offsets, &periods)?.transpose_axes(&[0, 2, 1, 3])
        },
    );
}

/// Attention from its definition: scores, a mask, a softmax, a product.
fn defined_attention(given: &[Array], window: Option<i32>, documents: Option<&Array>) -> Result<Array> {
    let [queries, keys, values] = given else {
        return Err(Exception::custom("three arrays"));
    };
    let (tokens, held) = (queries.dim(2), keys.dim(2));
    let of_queries = arange::<_, i32>(held - tokens, held, None)?.expand_dims(1)?;
    let distance = subtract(&of_queries, arange::<_, i32>(0, held, None)?.expand_dims(0)?)?;
    let mut seen = ge(&distance, Array::from_int(0))?;
    if let Some(window) = window {
        seen = logical_and(&seen, gt(Array::from_int(window), &distance)?)?;
    }
    if let Some(documents) = documents {
        let same = documents.expand_dims(2)?.eq(documents.expand_dims(1)?)?;
        seen = logical_and(&same.expand_dims(1)?, &seen)?;
    }
    let group = queries.dim(1) / keys.dim(1);
    let (keys, values) = (
        repeat_axis::<f32>(keys.clone(), group, 1)?,
        repeat_axis::<f32>(values.clone(), group, 1)?,
    );
    let attended = scaled_dot_product_attention(queries, &keys, &values, 0.3, &seen, None)?;
    attended
        .transpose_axes(&[0, 2, 1, 3])?
        .reshape(&[queries.dim(0), tokens, -1])
}

#[rstest]
#[case::one_token(1, 1)]
#[case::one_token_after_others(1, 77)]
#[case::a_block_and_a_bit(70, 70)]
#[case::blocks_after_others(140, 200)]
fn attention_is_its_definition(
    #[case] tokens: i32,
    #[case] held: i32,
    #[values(None, Some(1), Some(66))] window: Option<i32>,
    #[values((1, 1), (6, 2), (4, 4))] (heads, groups): (i32, i32),
) {
    let parts = [
        drawn(1, &[2, heads, tokens, 5]),
        drawn(2, &[2, groups, held, 5]),
        drawn(3, &[2, groups, held, 5]),
    ];
    let reach = Reach { window, scale: 0.3 };
    assert_same_function(
        &parts,
        3,
        |given| mlx_cpu_kernels::attention([&given[0], &given[1], &given[2]], reach, None),
        |given| defined_attention(given, window, None),
    );
}

#[test]
fn attention_stays_within_documents() {
    let lengths = [[3, 60, 27], [88, 1, 1]];
    let row = |row: [usize; 3]| (0..).zip(row).flat_map(|(document, length)| vec![document; length]);
    let documents: Vec<i32> = lengths.into_iter().flat_map(row).collect();
    let documents = Array::from_slice(&documents, &[2, 90]);
    let parts = [1, 2, 3].map(|seed| drawn(seed, &[2, 2, 90, 4]));
    let reach = Reach {
        window: Some(40),
        scale: 0.3,
    };
    assert_same_function(
        &parts,
        3,
        |given| mlx_cpu_kernels::attention([&given[0], &given[1], &given[2]], reach, Some(&documents)),
        |given| defined_attention(given, Some(40), Some(&documents)),
    );
}

#[test]
fn attention_reads_a_part_of_a_longer_buffer() {
    let buffer = drawn(1, &[1, 2, 50, 4]);
    let indices = arange::<_, i32>(3, 40, None).unwrap();
    let part = mlx_rs::ops::indexing::TryIndexOp::try_index(&buffer, (.., .., 3..40)).unwrap();
    let copied = buffer.take_axis(&indices, 2).unwrap();
    let queries = drawn(2, &[1, 4, 5, 4]);
    let reach = Reach {
        window: None,
        scale: 0.3,
    };
    let found = mlx_cpu_kernels::attention([&queries, &part, &part], reach, None).unwrap();
    assert_alike(
        &found,
        &defined_attention(&[queries, copied.clone(), copied], None, None).unwrap(),
    );
}

#[rstest]
fn a_linear_layer_is_its_formula(
    #[values(1, 3, 40)] rows: i32,
    #[values(false, true)] has_bias: bool,
    #[values(None, Some(2))] rank: Option<i32>,
) {
    let inputs = [
        drawn(1, &[2, rows, 33]),
        drawn(2, &[20, 33]),
        drawn(3, &[20]),
        drawn(4, &[33, rank.unwrap_or(1)]),
        drawn(5, &[rank.unwrap_or(1), 20]),
    ];
    assert_same_function(
        &inputs,
        5,
        |given| {
            let [input, weight, bias, lora_a, lora_b] = given else {
                return Err(Exception::custom("five arrays"));
            };
            let adapter = rank.map(|_| Adapter {
                lora_a,
                lora_b,
                scale: 1.5,
            });
            mlx_cpu_kernels::linear(input, weight, has_bias.then_some(bias), adapter)
        },
        |given| {
            let mut output = matmul(&given[0], given[1].t())?;
            if has_bias {
                output = output.add(&given[2])?;
            }
            if rank.is_some() {
                let change = matmul(matmul(&given[0], &given[3])?, &given[4])?;
                output = output.add(multiply(change, Array::from_f32(1.5))?)?;
            }
            Ok(output)
        },
    );
}

#[rstest]
fn layers_on_one_input_are_each_their_formula(
    #[values(1, 3, 40)] rows: i32,
    // Few enough values for one thread, and enough for several, whose parts cut through a weight.
    #[values([4, 2, 2], [300, 100, 101])] outputs: [i32; 3],
) {
    let mut inputs = vec![drawn(1, &[2, rows, 330])];
    inputs.extend((2..).zip(outputs).map(|(seed, outputs)| drawn(seed, &[outputs, 330])));
    let several = |given: &[Array]| mlx_cpu_kernels::linears(&given[0], [&given[1], &given[2], &given[3]]);
    for output in 0..3 {
        assert_same_function_within(
            // Sums of 330 terms.
            2e-6 * f64::from(330.0_f32.sqrt()),
            &inputs,
            4,
            |given| Ok(several(given)?[output].clone()),
            |given| matmul(&given[0], given[output + 1].t()),
        );
    }
}

#[rstest]
#[case(1)]
#[case(128)]
#[case(300)]
fn the_loss_of_an_output_layer_is_its_definition(#[case] positions: i32) {
    let (hidden, weight) = (drawn(1, &[positions, 16]), drawn(2, &[50, 16]));
    let targets: Vec<i32> = (0..positions).map(|position| position * 7 % 50).collect();
    let targets = Array::from_slice(&targets, &[positions]);
    let defined = |given: &[Array]| {
        let logits = matmul(&given[0], weight.t())?;
        let picked = take_along_axis(&logits, targets.reshape(&[-1, 1])?, -1)?;
        Ok(vec![subtract(logits.logsumexp_axis(-1, true)?, picked)?.sum(None)?])
    };
    let one = Array::from_f32(1.0);
    let (sum, gradient) = fallible_vjp(defined, std::slice::from_ref(&hidden), &[one]).unwrap();
    let found = mlx_cpu_kernels::output_loss_and_gradient(&hidden, &weight, &targets).unwrap();
    assert_alike(&found.sum, &sum[0]);
    assert_alike(&found.gradient, &gradient[0]);
    assert_alike(
        &mlx_cpu_kernels::output_loss(&hidden, &weight, &targets).unwrap(),
        &sum[0],
    );
}

#[rstest]
#[case(50)]
#[case(-1)]
fn a_target_beyond_the_vocabulary_is_no_number(#[case] target: i32) {
    let (hidden, weight) = (drawn(1, &[2, 16]), drawn(2, &[50, 16]));
    let targets = Array::from_slice(&[3, target], &[2]);
    let found = mlx_cpu_kernels::output_loss_and_gradient(&hidden, &weight, &targets).unwrap();
    assert!(values(&found.sum)[0].is_nan());
    let gradient = values(&found.gradient);
    assert!(gradient[..16].iter().all(|value| value.is_finite()) && gradient[16..].iter().all(|value| value.is_nan()));
}

#[rstest]
#[case(1)]
#[case(70_000)]
#[case(400_000)]
fn differences_are_counted_bit_for_bit(#[case] length: usize) {
    let mut before = values(&drawn(1, &[length as i32]))
        .into_iter()
        .map(|value| value as f32)
        .collect::<Vec<_>>();
    before[0] = 0.0;
    let mut after = before.clone();
    after[0] = -0.0;
    for value in after.iter_mut().skip(1).step_by(3) {
        *value += 0.5;
    }
    let array = |values: &[f32]| Array::from_slice(values, &[values.len() as i32]);
    let found = Difference::read(&mlx_cpu_kernels::difference(&array(&before), &array(&after)).unwrap()).unwrap();
    let squares = |values: &[f32]| values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>();
    let differences: Vec<f32> = before
        .iter()
        .zip(&after)
        .map(|(before, after)| after - before)
        .collect();
    assert_eq!(found.changed, 1 + (length as u64 - 1).div_ceil(3));
    for (found, values) in [
        (found.squares_before, &before),
        (found.squares_after, &after),
        (found.squares_of_difference, &differences),
    ] {
        assert_relative_eq!(found, squares(values), max_relative = 1e-6, epsilon = 1e-12);
    }
}

#[test]
fn a_value_that_is_no_number_differs_from_itself_in_nothing() {
    let array = Array::from_slice(&[f32::NAN, 1.0], &[2]);
    let found = Difference::read(&mlx_cpu_kernels::difference(&array, &array).unwrap()).unwrap();
    assert_eq!(found.changed, 0);
    assert!(found.squares_before.is_nan() && found.squares_of_difference.is_nan());
}

const FACTORS: AdamWFactors = AdamWFactors {
    keep_mean: 0.9,
    take_mean: 0.1,
    keep_square: 0.999,
    take_square: 0.001,
    root: 3.1,
    epsilon: 1e-8,
    rate: 1e-2,
    keep_parameter: 0.999_9,
};

/// MLX's own operations for one step of `AdamW`, in the order of Loshchilov and Hutter's algorithm 2.
fn adamw_by_mlx(
    [parameter, mean, square]: [&Array; 3],
    gradient: &Array,
    factors: AdamWFactors,
) -> mlx_rs::error::Result<[Array; 3]> {
    let by = |array: &Array, factor: f32| array.multiply(Array::from_f32(factor));
    let next_mean = by(mean, factors.keep_mean)?.add(by(gradient, factors.take_mean)?)?;
    let next_square = by(square, factors.keep_square)?.add(by(&gradient.multiply(gradient)?, factors.take_square)?)?;
    let denominator = by(&next_square.sqrt()?, factors.root)?.add(Array::from_f32(factors.epsilon))?;
    let change = by(&next_mean, factors.rate)?.divide(denominator)?;
    let next_parameter = by(parameter, factors.keep_parameter)?.subtract(change)?;
    Ok([next_parameter, next_mean, next_square])
}

#[rstest]
#[case(&[1])]
#[case(&[576, 8])]
#[case(&[3, 1000])]
fn a_step_of_adamw_is_that_of_mlx_bit_for_bit(#[case] shape: &[i32]) {
    let (parameter, gradient, mean) = (drawn(1, shape), drawn(2, shape), drawn(3, shape));
    let square = drawn(4, shape).square().unwrap();
    let before = [&parameter, &mean, &square];
    let found = mlx_cpu_kernels::adamw(before, &gradient, FACTORS).unwrap();
    let expected = adamw_by_mlx(before, &gradient, FACTORS).unwrap();
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(values(found), values(expected));
    }
}

/// The largest magnitude of an array, of which each part has its own.
fn largest(array: &Array) -> f64 {
    let found = values(&mlx_cpu_kernels::largest_magnitudes(array).unwrap());
    let larger = |one: f64, other: f64| if one > other || one.is_nan() { one } else { other };
    found.into_iter().fold(0.0, larger)
}

#[rstest]
#[case(&[1])]
#[case(&[3, 11])]
#[case(&[70_001])]
#[case(&[5, 1 << 16])]
fn the_largest_magnitude_is_found_wherever_it_stands(#[case] shape: &[i32]) {
    let drawn = drawn(1, shape);
    let length = drawn.size();
    for place in [0, length / 2, length - 1] {
        for planted in [-70.0, 70.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN] {
            let mut numbers: Vec<f32> = values(&drawn).into_iter().map(|value| value as f32).collect();
            numbers[place] = planted;
            let found = largest(&Array::from_slice(&numbers, shape));
            assert_eq!(found.is_nan(), planted.is_nan(), "{planted} at {place}");
            assert!(
                planted.is_nan() || found == f64::from(planted.abs()),
                "{found} for {planted} at {place}"
            );
        }
    }
}

/// MLX differentiates after whoever chose the stream has left it. What is computed there comes after what was begun there.
#[test]
fn gradients_are_computed_on_the_stream_of_their_layer() {
    let (inputs, weight) = (drawn(0, &[6, 5]), drawn(1, &[4, 5]));
    eval([&inputs, &weight]).unwrap();
    let stream = Stream::new_with_device(&Device::cpu());
    let first_is_done = Arc::new(AtomicBool::new(false));
    let done = Arc::clone(&first_is_done);
    let first = move |out: &mut [f32]| {
        std::thread::sleep(STREAM_HELD_UP);
        out.fill(0.0);
        done.store(true, Ordering::Relaxed);
    };
    let first = with_stream(&stream, || mlx_cpu_kernels::filled(&[1], first)).unwrap();
    async_eval([&first]).unwrap();

    let layer = |given: &[Array]| {
        let layer = || mlx_cpu_kernels::linear(&given[0], &weight, None, None);
        Ok(vec![with_stream(&stream, layer)?])
    };
    let cotangent = [Array::from_slice(&[1.0f32; 24], &[6, 4])];
    let (_, gradients) = fallible_vjp(layer, &[inputs], &cotangent).unwrap();
    eval(&gradients).unwrap();
    assert!(
        first_is_done.load(Ordering::Relaxed),
        "the gradient was computed elsewhere"
    );
}

#[test]
fn an_array_is_filled_with_what_is_written_into_it() {
    let count_up = |values: &mut [f32]| {
        for (value, index) in values.iter_mut().zip(0_u16..) {
            *value = index.into();
        }
    };
    let filled = mlx_cpu_kernels::filled(&[2, 3], count_up).unwrap();
    assert_eq!(
        (filled.shape(), values(&filled)),
        (&[2, 3][..], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    );
    assert_eq!(mlx_cpu_kernels::filled(&[0], count_up).unwrap().size(), 0);
}

#[test]
fn the_largest_magnitude_of_a_turned_view_is_that_of_its_own_values() {
    let matrix = Array::from_slice(&[1.0_f32, -9.0, 2.0, 3.0, 4.0, -5.0], &[2, 3]);
    let columns = matrix.t().split_at_indices(&[1, 2], 0).unwrap();
    let found: Vec<f64> = columns.iter().map(largest).collect();
    assert_eq!(found, [3.0, 9.0, 5.0]);
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let matrix = |rows: i32, columns: i32| drawn(1, &[rows, columns]);
    let halves = matrix(4, 4).as_dtype(Dtype::Float16).unwrap();
    let refused = [
        mlx_cpu_kernels::largest_magnitudes(&halves),
        mlx_cpu_kernels::adamw([&matrix(4, 4), &matrix(4, 4), &matrix(4, 3)], &matrix(4, 4), FACTORS)
            .map(|[next, ..]| next),
        mlx_cpu_kernels::root_mean_square_norm(&matrix(4, 4), &drawn(1, &[3]), 1e-5),
        mlx_cpu_kernels::root_mean_square_norm(&halves, &drawn(1, &[4]), 1e-5),
        mlx_cpu_kernels::gated(Gate::Silu, &matrix(4, 4), &matrix(4, 3)),
        mlx_cpu_kernels::linear(&matrix(4, 4), &matrix(4, 3), None, None),
        mlx_cpu_kernels::output_loss(&matrix(4, 4), &matrix(9, 4), &drawn(1, &[4])),
    ];
    for result in refused {
        let message = result.unwrap_err().to_string();
        assert!(message.contains("cannot be computed from"), "{message}");
    }
}

#[test]
fn several_threads_give_the_bits_of_one() {
    let pass = || {
        let parts = [1, 2, 3].map(|seed| drawn(seed, &[2, 4, 150, 16]));
        let reach = Reach {
            window: None,
            scale: 0.3,
        };
        let attended = mlx_cpu_kernels::attention([&parts[0], &parts[1], &parts[2]], reach, None).unwrap();
        let wide = drawn(4, &[400, 576]);
        let normed = mlx_cpu_kernels::root_mean_square_norm(&wide, &drawn(5, &[576]), 1e-5).unwrap();
        [values(&attended), values(&normed)]
    };
    let before = mlx_sys::blas::set_threads(1);
    let one = pass();
    mlx_sys::blas::set_threads(2);
    let two = pass();
    mlx_sys::blas::set_threads(before);
    assert_eq!(one, two);
}

/// MLX's own operations compute the same: they are what a GPU runs.
#[apply(every_golden_model)]
fn every_architecture_answers_alike_without_them(name: &str) {
    let loaded = architecture_parity::load(name);
    let tokens: Vec<i32> = (0..70).map(|place| 3 + place * 5 % 40).collect();
    let tokens = Array::from_slice(&tokens, &[1, 70]);
    let logits = || values(&loaded.model.logits(&tokens).unwrap());
    let with = logits();
    let before = mlx_cpu_kernels::set_serving(false);
    let without = logits();
    mlx_cpu_kernels::set_serving(before);
    assert_ne!(with, without, "the operations are not used at all");
    for (with, without) in with.iter().zip(&without) {
        assert!((with - without).abs() <= OTHER_STEPS, "{with}, expected {without}");
    }
}
