use half::{bf16, f16};
use mlx_rs::ops::indexing::{argmax_axis, take_along_axis};
use mlx_rs::ops::{argsort_axis, sort_axis};
use mlx_rs::{Array, Dtype, random};

use super::super::check::{Check, CheckResult, Deviations, failed, passed};
use super::super::session::Session;
use super::super::tolerance::MOMENTS;
use super::array::array;
use crate::double_precision::values;
use crate::readback::vector;

pub(in super::super) const CHECKS: &[Check] = &[
    Check::once("sorting and picking", sorting),
    Check::once("conversions of element types", conversions),
    Check::once("random numbers", random_numbers),
];

/// What helps where something that has no rounding is wrong.
const HINT: &str = "nothing that this device computes can be trusted: update the system, its drivers and MLX, or compute elsewhere with --backend";

fn sorting(_: &Session<'_>) -> CheckResult {
    let (rows, columns) = (4, 517);
    let numbers = values(rows * columns, 19);
    let matrix = array(&numbers, &[rows, columns]);
    let sorted: Vec<f32> = numbers
        .chunks(columns)
        .flat_map(|row| {
            let mut row = row.to_vec();
            row.sort_by(f32::total_cmp);
            row
        })
        .collect();
    let order = argsort_axis(&matrix, -1)?;
    let largest: Vec<u32> = vector(&argmax_axis(&matrix, -1, false)?)?;
    let expected: Vec<u32> = numbers.chunks(columns).map(place_of_largest).collect();
    // The rows in another order, one of them twice.
    let picked: Vec<f32> = vector(&matrix.take_axis(Array::from_slice(&[2, 0, 2], &[3]), 0)?)?;
    let rows_picked = [2, 0, 2]
        .map(|row| &numbers[row * columns..(row + 1) * columns])
        .concat();
    let wrong: Vec<&str> = [
        ("sorting", vector::<f32>(&sort_axis(&matrix, -1)?)? == sorted),
        (
            "the order of sorting",
            vector::<f32>(&take_along_axis(&matrix, &order, -1)?)? == sorted,
        ),
        ("the place of the largest", largest == expected),
        ("picking rows", picked == rows_picked),
    ]
    .into_iter()
    .filter(|(_, is_right)| !is_right)
    .map(|(name, _)| name)
    .collect();
    if wrong.is_empty() {
        return passed("4 rows of 517 values sorted, ordered and picked");
    }
    Err(failed(
        "sorting or picking is wrong",
        wrong.join(", "),
        "what the processor's own sort gives",
        HINT,
    ))
}

fn place_of_largest(row: &[f32]) -> u32 {
    let first = (0..).zip(row).max_by(|left, right| left.1.total_cmp(right.1));
    first.map_or(0, |(place, _)| place)
}

/// Rounding is to the nearest, and to the even one of two.
fn conversions(_: &Session<'_>) -> CheckResult {
    let mut numbers = values(500, 20);
    numbers.extend([
        0.0,
        -0.0,
        1.0 + 1.0 / 256.0,
        1.0 + 3.0 / 256.0,
        6e-5,
        -6e4,
        f32::INFINITY,
    ]);
    let given = array(&numbers, &[numbers.len()]);
    let through = |dtype| vector::<f32>(&given.as_dtype(dtype)?.as_dtype(Dtype::Float32)?);
    let half: Vec<f32> = numbers.iter().map(|&value| f16::from_f32(value).to_f32()).collect();
    let brain: Vec<f32> = numbers.iter().map(|&value| bf16::from_f32(value).to_f32()).collect();
    let whole: Vec<i32> = numbers[..500].iter().map(|&value| (value * 100.0) as i32).collect();
    let of_whole = array(&numbers[..500], &[500]).multiply(Array::from_f32(100.0))?;
    let wrong: Vec<&str> = [
        ("float16", bits(&through(Dtype::Float16)?) == bits(&half)),
        ("bfloat16", bits(&through(Dtype::Bfloat16)?) == bits(&brain)),
        ("int32", vector::<i32>(&of_whole.as_dtype(Dtype::Int32)?)? == whole),
    ]
    .into_iter()
    .filter(|(_, is_right)| !is_right)
    .map(|(name, _)| name)
    .collect();
    if wrong.is_empty() {
        return passed("float16, bfloat16 and int32, bit for bit");
    }
    Err(failed(
        "conversions of element types are wrong",
        wrong.join(", "),
        "rounding to the nearest",
        HINT,
    ))
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The first numbers of a key by MLX 0.32.2 on a CPU; they are made of integers alone, so that every device has the same.
const DRAWN: [f32; 4] = [0.224_984_63, 0.230_336_98, 0.453_609_35, 0.246_462_27];
/// The key's seed.
const SEED: u64 = 7;
/// Numbers whose moments are looked at.
const DRAWS: i32 = 1 << 16;

fn random_numbers(session: &Session<'_>) -> CheckResult {
    let draw = |seed, count: i32| -> Result<Vec<f32>, _> {
        vector(&random::uniform::<_, f32>(0.0, 1.0, &[count], &random::key(seed)?)?)
    };
    let first = draw(SEED, DRAWN.len() as i32)?;
    if first != DRAWN {
        return Err(failed(
            "random numbers are not those of their seed",
            format!("{first:?}"),
            format!("{DRAWN:?}"),
            "a run with a seed is another one here than elsewhere; see that MLX is the release this program was made for",
        ));
    }
    let many = draw(SEED, DRAWS)?;
    if many != draw(SEED, DRAWS)? || many == draw(SEED + 1, DRAWS)? {
        return Err(failed(
            "random numbers do not follow their seed",
            "the same seed drew others, or another seed the same",
            "one sequence for each seed",
            HINT,
        ));
    }
    let mut deviations = Deviations::within(MOMENTS, session);
    let count = f64::from(DRAWS);
    let moment = |numbers: &[f32], power: i32| numbers.iter().map(|&x| f64::from(x).powi(power)).sum::<f64>() / count;
    deviations.add("mean of uniform numbers", (moment(&many, 1) - 0.5).abs());
    deviations.add("mean square of uniform numbers", (moment(&many, 2) - 1.0 / 3.0).abs());
    let normal: Vec<f32> = vector(&random::normal::<f32>(&[DRAWS], None, None, &random::key(SEED)?)?)?;
    // Twice the standard error of a uniform number, and the same tolerance.
    deviations.add("mean of normal numbers", moment(&normal, 1).abs() / 2.0);
    deviations.add("mean square of normal numbers", (moment(&normal, 2) - 1.0).abs() / 3.0);
    deviations.judge("moments of random numbers", HINT)
}
