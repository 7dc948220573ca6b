//! Matrix products of the shapes that the model has.

use std::collections::BTreeMap;

use mlx_rs::Array;
use mlx_rs::ops::matmul;
use mlx_rs::random::{key, normal};
use mlx_rs::transforms::eval;

use super::{BenchError, Measured, Measurement, Samples, Unit, Workbench};
use crate::model::Adaptable;

/// Bytes of weights that follow each other in decoding: more than a core's share of any processor's caches.
const BEYOND_CACHES: usize = 128 << 20;

/// A weight `[outputs, inputs]`, and the layers that have one of this shape.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shape {
    /// The last part of a path, for example `q_proj`; several where layers share a shape.
    layers: Vec<String>,
    inputs: i32,
    outputs: i32,
}

/// Measures the best product, then every shape: forward, both gradients, and one row as in decoding.
pub fn measure(bench: &Workbench<'_>) -> Result<Measured, BenchError> {
    let mut measured = Measured::default();
    let side = bench.options.settings.sizes.best_product;
    let best = bench.best_product()?;
    let figure = Measurement::new(
        "best",
        Unit::GigaflopsPerSecond,
        best.map(|operations| operations / 1e9),
        format!("two square matrices of side {side}, which stand for the best that the machine does"),
    );
    let best = best.median();
    measured.add("best", figure);
    let sizes = bench.options.settings.sizes;
    let rows = (sizes.training_rows * sizes.training_tokens) as i32;
    if !bench.loaded.model.switch_linears().is_empty() {
        measured.lack(
            "experts",
            "products of experts are gathered, and no plain matrix product",
        );
    }
    for shape in shapes(bench) {
        for (kind, rows) in [
            ("forward", rows),
            ("input-gradient", rows),
            ("weight-gradient", rows),
            ("decode", 1),
        ] {
            let operations = 2.0 * f64::from(rows) * f64::from(shape.inputs) * f64::from(shape.outputs);
            let operands = operands(bench, kind, &shape, rows)?;
            let mut next = operands.iter().cycle();
            let seconds = bench.seconds_of_short(|| match next.next() {
                Some([left, right]) => Ok(matmul(left, right)?.eval()?),
                None => Err(BenchError::Unexpected("there is nothing to multiply".to_owned())),
            })?;
            let name = format!("{kind}-{}", shape.layers.join("-"));
            let rates = seconds.map(|seconds| operations / seconds);
            let share = match (best, rates.median()) {
                (Some(best), Some(rate)) => format!(", {:.0}% of the best", 100.0 * rate / best),
                _ => String::new(),
            };
            let note = format!("{rows} rows, weight [{}, {}]{share}", shape.outputs, shape.inputs);
            let figure = Measurement::new(
                &name,
                Unit::GigaflopsPerSecond,
                rates.map(|operations| operations / 1e9),
                note,
            );
            measured.add(&name, figure);
        }
    }
    Ok(measured)
}

/// Operations in a second of the best product, for each repeat.
pub(super) fn best(bench: &Workbench<'_>) -> Result<Samples, BenchError> {
    let side = bench.options.settings.sizes.best_product as i32;
    let (left, right) = (random(bench, [side, side], 0)?, random(bench, [side, side], 1)?);
    eval([&left, &right])?;
    let seconds = bench.seconds_of_short(|| Ok(matmul(&left, &right)?.eval()?))?;
    Ok(seconds.map(|seconds| 2.0 * f64::from(side).powi(3) / seconds))
}

/// What is multiplied in one direction of a layer, as MLX lays it out: `x W^T`, `dy W`, `dy^T x`. In decoding as many
/// weights follow each other as no cache holds.
fn operands(bench: &Workbench<'_>, kind: &str, shape: &Shape, rows: i32) -> Result<Vec<[Array; 2]>, BenchError> {
    let input = random(bench, [rows, shape.inputs], 0)?;
    let weight = random(bench, [shape.outputs, shape.inputs], 1)?;
    let gradient = random(bench, [rows, shape.outputs], 2)?;
    eval([&input, &weight, &gradient])?;
    Ok(match kind {
        "input-gradient" => vec![[gradient, weight]],
        "weight-gradient" => vec![[gradient.transpose()?, input]],
        "decode" => {
            let copies = BEYOND_CACHES.div_ceil(weight.nbytes());
            let one = Array::from_f32(1.0).as_dtype(bench.dtype())?;
            let weights: Vec<Array> = (0..copies).map(|_| weight.multiply(&one)).collect::<Result<_, _>>()?;
            eval(&weights)?;
            let pairs = weights.iter().map(|weight| Ok([input.clone(), weight.transpose()?]));
            pairs.collect::<Result<_, BenchError>>()?
        }
        _ => vec![[input, weight.transpose()?]],
    })
}

fn random(bench: &Workbench<'_>, shape: [i32; 2], index: u64) -> Result<Array, BenchError> {
    let key = key(bench.options.settings.seed.wrapping_add(index))?;
    Ok(normal::<f32>(&shape, None, None, &key)?.as_dtype(bench.dtype())?)
}

/// The shapes of the model's linear layers and of its output, each once, the smallest first.
fn shapes(bench: &Workbench<'_>) -> Vec<Shape> {
    let model = &bench.loaded.model;
    let mut by_shape: BTreeMap<(i32, i32), Vec<String>> = BTreeMap::new();
    let mut add = |path: &str, place: &[i32]| {
        let name = path.rsplit('.').next().unwrap_or(path).to_owned();
        if let [outputs, inputs] = *place {
            let layers = by_shape.entry((inputs, outputs)).or_default();
            if !layers.contains(&name) {
                layers.push(name);
            }
        }
    };
    for (path, linear) in model.linears() {
        add(&path, &linear.place());
    }
    if model.lm_head.is_none() {
        // The table has a vector of `hidden` values for each token, and its product gives a value for each.
        let table: Vec<i32> = model.model.embed_tokens.place().into_iter().rev().collect();
        add("output", &table);
    }
    let mut shapes: Vec<Shape> = by_shape
        .into_iter()
        .map(|((inputs, outputs), layers)| Shape {
            layers,
            inputs,
            outputs,
        })
        .collect();
    shapes.sort_by_key(|shape| i64::from(shape.inputs) * i64::from(shape.outputs));
    shapes
}
