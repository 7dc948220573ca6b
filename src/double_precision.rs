//! Operations by their definitions in double precision, which devices are held against.

use std::fmt;

/// The largest error of `found`, as a share of the largest value that was expected; NaN where a number is not finite, and
/// infinite where there are more or fewer numbers than expected.
pub fn relative_error(found: &[f32], expected: &[f64]) -> f64 {
    if found.len() != expected.len() {
        return f64::INFINITY;
    }
    let largest = expected.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
    let scale = if largest == 0.0 { 1.0 } else { largest };
    worst(found.iter().zip(expected).map(|(&found, expected)| {
        if found.is_finite() {
            (f64::from(found) - expected).abs() / scale
        } else {
            f64::NAN
        }
    }))
}

/// The largest of errors, 0 where there are none, and NaN where one of them is: a maximum would pass over it.
pub fn worst(errors: impl IntoIterator<Item = f64>) -> f64 {
    let worse = |worst: f64, error: f64| if worst.is_nan() || error <= worst { worst } else { error };
    errors.into_iter().fold(0.0, worse)
}

/// The same values in double precision.
pub fn doubles(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// Numbers within -1 and 1 that look random.
pub fn values(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            // Numerical Recipes' generator, of which the upper bits are good enough.
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (f64::from(state >> 8) / f64::from(1 << 23) - 1.0) as f32
        })
        .collect()
}

/// `left` `[rows, inner]` times `right` `[inner, columns]`, row by row.
pub fn product(left: &[f32], right: &[f32], [rows, inner, columns]: [usize; 3]) -> Vec<f64> {
    let mut sums = vec![0.0; rows * columns];
    for row in 0..rows {
        let sums = &mut sums[row * columns..(row + 1) * columns];
        for index in 0..inner {
            let factor = f64::from(left[row * inner + index]);
            let others = &right[index * columns..(index + 1) * columns];
            for (sum, other) in sums.iter_mut().zip(others) {
                *sum += factor * f64::from(*other);
            }
        }
    }
    sums
}

/// A matrix `[rows, columns]` as `[columns, rows]`.
pub fn transposed(matrix: &[f32], [rows, columns]: [usize; 2]) -> Vec<f32> {
    let at = |place: usize| matrix[(place % rows) * columns + place / rows];
    (0..rows * columns).map(at).collect()
}

/// The softmax of each row of `columns` logits.
pub fn softmax(logits: &[f32], columns: usize) -> Vec<f64> {
    logits.chunks(columns).flat_map(shares).collect()
}

/// The logarithm of the sum of the exponentials of each row of `columns` logits.
pub fn log_sum_exp(logits: &[f32], columns: usize) -> Vec<f64> {
    let of_row = |row: &[f32]| {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row
            .iter()
            .map(|&logit| (f64::from(logit) - f64::from(largest)).exp())
            .sum();
        f64::from(largest) + sum.ln()
    };
    logits.chunks(columns).map(of_row).collect()
}

fn shares(row: &[f32]) -> Vec<f64> {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials: Vec<f64> = row
        .iter()
        .map(|&logit| (f64::from(logit) - f64::from(largest)).exp())
        .collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.into_iter().map(|value| value / sum).collect()
}

/// `input weight / sqrt(mean(input^2) + epsilon)` over each row, which is as wide as `weight` (Zhang and Sennrich 2019,
/// arXiv 1910.07467).
pub fn root_mean_square_norm(input: &[f32], weight: &[f32], epsilon: f64) -> Vec<f64> {
    let of_row = |row: &[f32]| {
        let squares: f64 = row.iter().map(|&value| f64::from(value).powi(2)).sum();
        let divisor = (squares / row.len() as f64 + epsilon).sqrt();
        let scaled = row.iter().zip(weight);
        scaled
            .map(move |(&value, &weight)| f64::from(value) * f64::from(weight) / divisor)
            .collect::<Vec<f64>>()
    };
    input.chunks(weight.len()).flat_map(of_row).collect()
}

/// `(input - mean) weight / sqrt(variance + epsilon) + bias` over each row (Ba et al. 2016, arXiv 1607.06450).
pub fn layer_norm(input: &[f32], weight: &[f32], bias: &[f32], epsilon: f64) -> Vec<f64> {
    let of_row = |row: &[f32]| {
        let width = row.len() as f64;
        let mean = row.iter().map(|&value| f64::from(value)).sum::<f64>() / width;
        let variance = row.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / width;
        let divisor = (variance + epsilon).sqrt();
        let scaled = row.iter().zip(weight).zip(bias);
        scaled
            .map(|((&value, &weight), &bias)| (f64::from(value) - mean) * f64::from(weight) / divisor + f64::from(bias))
            .collect::<Vec<f64>>()
    };
    input.chunks(weight.len()).flat_map(of_row).collect()
}

/// How the heads of [`rotary`] are turned.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    /// Values of a head that are turned, the first ones.
    pub dimensions: usize,
    /// Whether neighbours are turned together instead of the halves.
    pub traditional: bool,
    /// Wavelengths are `2 pi base^(2i / dimensions)`.
    pub base: f64,
    /// The position of the first token.
    pub offset: usize,
}

impl fmt::Display for Turn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = if self.traditional { "neighbours" } else { "halves" };
        write!(
            formatter,
            "{parts} of {} dimensions from position {}",
            self.dimensions, self.offset
        )
    }
}

/// Rotary positions (Su et al. 2021, arXiv 2104.09864) on `heads` `[heads, tokens, width]`.
pub fn rotary(heads: &[f32], [tokens, width]: [usize; 2], turn: Turn) -> Vec<f64> {
    let mut turned = doubles(heads);
    let pairs = turn.dimensions / 2;
    for (row, values) in turned.chunks_mut(width).enumerate() {
        let position = (turn.offset + row % tokens) as f64;
        for pair in 0..pairs {
            let angle = position * turn.base.powf(-((2 * pair) as f64) / turn.dimensions as f64);
            let (first, second) = if turn.traditional {
                (2 * pair, 2 * pair + 1)
            } else {
                (pair, pair + pairs)
            };
            let (real, imaginary) = (values[first], values[second]);
            values[first] = real * angle.cos() - imaginary * angle.sin();
            values[second] = real * angle.sin() + imaginary * angle.cos();
        }
    }
    turned
}

/// The sizes of [`attention`].
#[derive(Debug, Clone, Copy)]
pub struct AttentionShape {
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values, each of which serves as many query heads in a row.
    pub groups: usize,
    /// Queries of a head, which are the last of the positions.
    pub tokens: usize,
    /// Keys of a head.
    pub held: usize,
    /// Values of a head.
    pub width: usize,
    /// Keys that a query sees, its own among them; `None` for all before it.
    pub window: Option<usize>,
}

impl fmt::Display for AttentionShape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} x {} scores", self.tokens, self.held)?;
        self.window
            .map_or(Ok(()), |window| write!(formatter, " in a window of {window}"))
    }
}

/// Causal attention (Vaswani et al. 2017, arXiv 1706.03762) of `queries` `[heads, tokens, width]` to `keys` and `values`
/// `[groups, held, width]`; returns `[heads, tokens, width]`.
pub fn attention([queries, keys, values]: [&[f32]; 3], shape: AttentionShape, scale: f64) -> Vec<f64> {
    let AttentionShape {
        heads,
        groups,
        tokens,
        held,
        width,
        window,
    } = shape;
    let row = |matrix: &[f32], index: usize| doubles(&matrix[index * width..(index + 1) * width]);
    let mut output = Vec::with_capacity(heads * tokens * width);
    for head in 0..heads {
        let group = head * groups / heads;
        for token in 0..tokens {
            let query = row(queries, head * tokens + token);
            let last = held - tokens + token;
            let first = window.map_or(0, |window| (last + 1).saturating_sub(window));
            let scores = (first..=last).map(|place| {
                let key = row(keys, group * held + place);
                scale * query.iter().zip(key).map(|(query, key)| query * key).sum::<f64>()
            });
            let weights: Vec<f64> = scores.map(f64::exp).collect();
            let total: f64 = weights.iter().sum();
            let mut sum = vec![0.0; width];
            for (weight, place) in weights.iter().zip(first..) {
                for (sum, value) in sum.iter_mut().zip(row(values, group * held + place)) {
                    *sum += weight / total * value;
                }
            }
            output.extend(sum);
        }
    }
    output
}

#[cfg(test)]
mod tests {
    use super::{
        AttentionShape, Turn, attention, layer_norm, log_sum_exp, product, relative_error, root_mean_square_norm,
        rotary, softmax, transposed, worst,
    };
    use approx::assert_relative_eq;

    fn assert_close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert_relative_eq!(found, expected, epsilon = 1e-7);
        }
    }

    #[test]
    fn products_and_transposition_are_those_of_the_textbook() {
        let left = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        assert_close(&product(&left, &[1.0, 0.0, 2.0], [2, 3, 1]), &[7.0, 16.0]);
        assert_eq!(transposed(&left, [2, 3]), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }

    #[test]
    fn a_softmax_is_the_shares_of_the_exponentials() {
        let logits = [0.0, 2.0_f32.ln(), 5.0_f32.ln()];
        assert_close(&softmax(&logits, 3), &[1.0 / 8.0, 2.0 / 8.0, 5.0 / 8.0]);
        assert_close(&log_sum_exp(&logits, 3), &[8.0_f64.ln()]);
    }

    #[test]
    fn norms_have_the_mean_and_the_spread_that_they_are_for() {
        assert_close(
            &root_mean_square_norm(&[3.0, 4.0], &[1.0, 2.0], 0.0),
            &[3.0 / 12.5_f64.sqrt(), 8.0 / 12.5_f64.sqrt()],
        );
        assert_close(&layer_norm(&[1.0, 3.0], &[1.0, 1.0], &[0.0, 5.0], 0.0), &[-1.0, 6.0]);
    }

    #[test]
    fn a_turn_by_a_quarter_exchanges_the_parts_of_a_pair() {
        // At position 1 the first wavelength turns by one radian.
        let turn = Turn {
            dimensions: 2,
            traditional: true,
            base: 10_000.0,
            offset: 1,
        };
        assert_eq!(turn.to_string(), "neighbours of 2 dimensions from position 1");
        assert_close(&rotary(&[1.0, 0.0], [1, 2], turn), &[1.0_f64.cos(), 1.0_f64.sin()]);
    }

    #[test]
    fn a_window_of_one_gives_every_token_its_own_value() {
        let values = [1.0, 2.0, 3.0, 4.0];
        let shape = AttentionShape {
            heads: 1,
            groups: 1,
            tokens: 2,
            held: 2,
            width: 2,
            window: Some(1),
        };
        assert_close(
            &attention([&[0.5; 4], &[0.1; 4], &values], shape, 1.0),
            &[1.0, 2.0, 3.0, 4.0],
        );
        let all = AttentionShape { window: None, ..shape };
        assert_eq!(
            [shape, all].map(|shape| shape.to_string()),
            ["2 x 2 scores in a window of 1", "2 x 2 scores"]
        );
        assert_close(
            &attention([&[0.5; 4], &[0.1; 4], &values], all, 1.0),
            &[1.0, 2.0, 2.0, 3.0],
        );
    }

    #[test]
    fn a_wrong_number_a_nan_and_a_missing_one_are_errors() {
        assert_close(&[relative_error(&[1.0, 4.0], &[1.0, 5.0])], &[0.2]);
        assert!(relative_error(&[f32::NAN, 1.0], &[0.0, 1.0]).is_nan());
        assert!(relative_error(&[1.0, f32::INFINITY], &[1.0, 1.0]).is_nan());
        assert!(relative_error(&[1.0], &[1.0, 2.0]).is_infinite());
    }

    #[test]
    fn an_error_that_is_no_number_is_the_worst_wherever_it_stands() {
        for errors in [[f64::NAN, 0.5, 0.1], [0.5, f64::NAN, 0.1], [0.1, 0.5, f64::NAN]] {
            assert!(worst(errors).is_nan(), "{errors:?}");
        }
        assert_close(&[worst([0.1, 0.5, 0.2]), worst([])], &[0.5, 0.0]);
    }
}
