use mlx_cpu_kernels::{AdamWFactors, Adapter, Difference, Gate, Reach, Rotation};
use mlx_rs::Array;

use super::super::check::{Check, CheckResult, Deviations, NotPassed, skipped};
use super::super::session::Session;
use super::super::tolerance::{ATTENTION, FUNCTIONS, LOSSES, PRODUCTS, REDUCTIONS, ROTATIONS, UPDATES};
use super::array::array;
use crate::double_precision::{self as exact, AttentionShape, Turn, values, worst};
use crate::readback::vector;

pub(in super::super) const CHECKS: &[Check] = &[
    Check::once("linear layers with adapters", linear),
    Check::once("norms", norms),
    Check::once("gates", gates),
    Check::once("rotary positions", rotary),
    Check::once("attention", attention),
    Check::once("the loss behind the output layer", output_loss),
    Check::once("steps of AdamW", adamw),
    Check::once("differences and magnitudes", differences),
];

/// What helps where an own operation is wrong.
const HINT: &str = "report it with this output and the processor's name";

/// Skips a check where MLX's own operations are used.
fn they_serve() -> Result<(), NotPassed> {
    if mlx_cpu_kernels::serve([]) {
        Ok(())
    } else {
        skipped("this program's own operations are for CPUs of Linux, and MLX's are used here").map(drop)
    }
}

/// Factor on what an adapter adds.
const ADAPTER_SCALE: f32 = 1.5;
/// Factor on the products of queries and keys.
const ATTENTION_SCALE: f32 = 0.3;
/// Added to what a norm divides by.
const EPSILON: f32 = 1e-5;

/// `input weight^T + bias + scale (input a) b`, each of the sums in double precision.
fn linear(session: &Session<'_>) -> CheckResult {
    they_serve()?;
    let mut deviations = Deviations::within(PRODUCTS, session);
    for [rows, inputs, outputs, rank] in [[1, 96, 40, 4], [37, 96, 130, 8]] {
        let (input, weight, bias) = (
            values(rows * inputs, 1),
            values(outputs * inputs, 2),
            values(outputs, 3),
        );
        let (lora_a, lora_b) = (values(inputs * rank, 4), values(rank * outputs, 5));
        let mut expected = exact::product(
            &input,
            &exact::transposed(&weight, [outputs, inputs]),
            [rows, inputs, outputs],
        );
        for (place, sum) in expected.iter_mut().enumerate() {
            *sum += f64::from(bias[place % outputs]);
        }
        let arrays = [
            array(&input, &[rows, inputs]),
            array(&weight, &[outputs, inputs]),
            array(&bias, &[outputs]),
            array(&lora_a, &[inputs, rank]),
            array(&lora_b, &[rank, outputs]),
        ];
        let [input_rows, weights, biases, first, second] = &arrays;
        let found = mlx_cpu_kernels::linear(input_rows, weights, Some(biases), None)?;
        deviations.compare(format!("{rows} x {inputs} x {outputs}"), &vector(&found)?, &expected);
        let narrow = exact::product(&input, &lora_a, [rows, inputs, rank]);
        for (place, sum) in expected.iter_mut().enumerate() {
            let (row, output) = (place / outputs, place % outputs);
            let change: f64 = (0..rank)
                .map(|index| narrow[row * rank + index] * f64::from(lora_b[index * outputs + output]))
                .sum();
            *sum += f64::from(ADAPTER_SCALE) * change;
        }
        let adapter = Adapter {
            lora_a: first,
            lora_b: second,
            scale: ADAPTER_SCALE,
        };
        let found = mlx_cpu_kernels::linear(input_rows, weights, Some(biases), Some(adapter))?;
        let place = format!("{rows} x {inputs} x {outputs} with rank {rank}");
        deviations.compare(place, &vector(&found)?, &expected);
    }
    deviations.judge("linear layers", HINT)
}

fn norms(session: &Session<'_>) -> CheckResult {
    they_serve()?;
    let mut deviations = Deviations::within(FUNCTIONS, session);
    for width in [7, 64, 576] {
        let (input, weight) = (values(11 * width, 6), values(width, 7));
        let found =
            mlx_cpu_kernels::root_mean_square_norm(&array(&input, &[11, width]), &array(&weight, &[width]), EPSILON)?;
        let expected = exact::root_mean_square_norm(&input, &weight, EPSILON.into());
        deviations.compare(format!("rows of {width}"), &vector(&found)?, &expected);
    }
    deviations.judge("norms", HINT)
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// The approximation by tanh (Hendrycks and Gimpel 2016, arXiv 1606.08415).
fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
}

/// A gate, and the same in double precision.
type GatePair = (&'static str, Gate, fn(f64) -> f64);

const GATES: [GatePair; 2] = [("silu", Gate::Silu, silu), ("gelu", Gate::GeluTanh, gelu)];

fn gates(session: &Session<'_>) -> CheckResult {
    they_serve()?;
    let points: Vec<f32> = values(4000, 8).into_iter().map(|value| value * 8.0).collect();
    let factors = values(4000, 9);
    let mut deviations = Deviations::within(FUNCTIONS, session);
    for (name, gate, of_double) in GATES {
        let found = mlx_cpu_kernels::gated(gate, &array(&points, &[4000]), &array(&factors, &[4000]))?;
        let pairs = points.iter().zip(&factors);
        let expected: Vec<f64> = pairs
            .map(|(&point, &factor)| of_double(point.into()) * f64::from(factor))
            .collect();
        deviations.compare(name, &vector(&found)?, &expected);
    }
    deviations.judge("gates", HINT)
}

/// The operation takes `[batch, tokens, heads, width]`, the definition `[heads, tokens, width]`.
fn rotary(session: &Session<'_>) -> CheckResult {
    they_serve()?;
    let (heads, tokens, width) = (3, 40, 16);
    let input = values(heads * tokens * width, 10);
    let states = array(&input, &[1, heads, tokens, width]).transpose_axes(&[0, 2, 1, 3])?;
    let mut deviations = Deviations::within(ROTATIONS, session);
    for (dimensions, traditional, offset) in [(16, false, 0), (16, true, 0), (8, false, 0), (16, false, 250)] {
        let rotation = Rotation {
            dimensions: dimensions as i32,
            traditional,
            base: 10_000.0,
            scale: 1.0,
        };
        let found = mlx_cpu_kernels::rotary(&states, &rotation, None, offset as i32, None)?;
        let found = vector(&found.transpose_axes(&[0, 2, 1, 3])?)?;
        let turn = Turn {
            dimensions,
            traditional,
            base: 10_000.0,
            offset,
        };
        deviations.compare(turn.to_string(), &found, &exact::rotary(&input, [tokens, width], turn));
    }
    deviations.judge("rotary positions", HINT)
}

fn attention(session: &Session<'_>) -> CheckResult {
    they_serve()?;
    let mut deviations = Deviations::within(ATTENTION, session);
    for (tokens, held, window) in [(1, 40, None), (70, 70, None), (20, 90, None), (70, 70, Some(9))] {
        let shape = AttentionShape {
            heads: 4,
            groups: 2,
            tokens,
            held,
            width: 16,
            window,
        };
        let [queries, keys, of_keys] =
            [(4 * tokens, 11), (2 * held, 12), (2 * held, 13)].map(|(rows, seed)| values(rows * shape.width, seed));
        let parts = [(&queries, 4, tokens), (&keys, 2, held), (&of_keys, 2, held)]
            .map(|(values, heads, tokens)| array(values, &[1, heads, tokens, shape.width]));
        let reach = Reach {
            window: window.map(|window| window as i32),
            scale: ATTENTION_SCALE,
        };
        let [query_heads, key_heads, value_heads] = &parts;
        let found = mlx_cpu_kernels::attention([query_heads, key_heads, value_heads], reach, None)?;
        // The heads stand side by side in what it returns.
        let found = found
            .reshape(&[1, tokens as i32, 4, -1])?
            .transpose_axes(&[0, 2, 1, 3])?;
        let expected = exact::attention([&queries, &keys, &of_keys], shape, ATTENTION_SCALE.into());
        deviations.compare(shape.to_string(), &vector(&found)?, &expected);
    }
    deviations.judge("results of attention", HINT)
}

/// The cross-entropy, and its gradient `softmax(logits) weight - weight[targets]`.
fn output_loss(session: &Session<'_>) -> CheckResult {
    they_serve()?;
    let (positions, width, vocabulary) = (12, 32, 90);
    let (hidden, weight) = (values(positions * width, 14), values(vocabulary * width, 15));
    let targets: Vec<i32> = (0..positions as i32).map(|position| (position * 31 + 5) % 90).collect();
    let logits = exact::product(
        &hidden,
        &exact::transposed(&weight, [vocabulary, width]),
        [positions, width, vocabulary],
    );
    let (mut sum, mut gradient) = (0.0, Vec::with_capacity(positions * width));
    for (row, &target) in logits.chunks(vocabulary).zip(&targets) {
        let exponentials: Vec<f64> = row.iter().map(|logit| logit.exp()).collect();
        let total: f64 = exponentials.iter().sum();
        sum += total.ln() - row[target as usize];
        gradient.extend((0..width).map(|column| {
            let at = |token: usize| f64::from(weight[token * width + column]);
            let expected: f64 = exponentials
                .iter()
                .enumerate()
                .map(|(token, share)| share / total * at(token))
                .sum();
            expected - at(target as usize)
        }));
    }
    let found = mlx_cpu_kernels::output_loss_and_gradient(
        &array(&hidden, &[positions, width]),
        &array(&weight, &[vocabulary, width]),
        &Array::from_slice(&targets, &[positions as i32]),
    )?;
    let mut deviations = Deviations::within(LOSSES, session);
    deviations.compare("loss", &vector(&found.sum)?, &[sum]);
    deviations.compare("gradient", &vector(&found.gradient)?, &gradient);
    deviations.judge("losses", HINT)
}

fn adamw(session: &Session<'_>) -> CheckResult {
    they_serve()?;
    let factors = AdamWFactors {
        keep_mean: 0.9,
        take_mean: 0.1,
        keep_square: 0.999,
        take_square: 0.001,
        root: 1.0,
        epsilon: 1e-8,
        rate: 0.01,
        keep_parameter: 0.99,
    };
    let (parameter, mean, gradient) = (values(1000, 16), values(1000, 17), values(1000, 18));
    let square: Vec<f32> = values(1000, 19).into_iter().map(|value| value * value).collect();
    let [next, _, _] = mlx_cpu_kernels::adamw(
        [&parameter, &mean, &square]
            .map(|values| array(values, &[1000]))
            .each_ref(),
        &array(&gradient, &[1000]),
        factors,
    )?;
    let double = |value: f32| f64::from(value);
    let expected: Vec<f64> = (0..1000)
        .map(|place| {
            let gradient = double(gradient[place]);
            let mean = double(factors.keep_mean) * double(mean[place]) + double(factors.take_mean) * gradient;
            let square =
                double(factors.keep_square) * double(square[place]) + double(factors.take_square) * gradient.powi(2);
            let change = double(factors.rate) * mean / (double(factors.root) * square.sqrt() + double(factors.epsilon));
            double(factors.keep_parameter) * double(parameter[place]) - change
        })
        .collect();
    let mut deviations = Deviations::within(UPDATES, session);
    deviations.compare("a step on 1000 values", &vector(&next)?, &expected);
    deviations.judge("steps of AdamW", HINT)
}

fn differences(session: &Session<'_>) -> CheckResult {
    they_serve()?;
    let before = values(70_000, 20);
    let mut after = before.clone();
    for value in after.iter_mut().step_by(700) {
        *value += 0.25;
    }
    let (first, second) = (array(&before, &[700, 100]), array(&after, &[700, 100]));
    let found = Difference::read(&mlx_cpu_kernels::difference(&first, &second)?)?;
    let squares: f64 = before.iter().map(|&value| f64::from(value).powi(2)).sum();
    let moved: f64 = before
        .iter()
        .zip(&after)
        .map(|(before, after)| f64::from(after - before).powi(2))
        .sum();
    let largest = before.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let of_parts: Vec<f32> = vector(&mlx_cpu_kernels::largest_magnitudes(&first)?)?;
    let mut deviations = Deviations::within(REDUCTIONS, session);
    deviations.compare("changed values", &[found.changed as f32], &[100.0]);
    deviations.compare("norm", &[found.squares_before as f32], &[squares]);
    deviations.compare(
        "norm of the difference",
        &[found.squares_of_difference as f32],
        &[moved],
    );
    let found = worst(of_parts.into_iter().map(f64::from));
    deviations.compare("largest magnitude", &[found as f32], &[largest.into()]);
    deviations.judge("differences and magnitudes", HINT)
}
