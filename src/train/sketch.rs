//! Gradients told from others by two numbers each.

use std::collections::BTreeMap;

use mlx_rs::error::Exception;
use mlx_rs::ops::{matmul, square};
use mlx_rs::transforms::eval;
use mlx_rs::{Array, Dtype};

use crate::data::SplitMix64;
use crate::readback::scalar;

/// The length of a vector, and its product with a vector of random signs (Alon, Matias and Szegedy 1996).
///
/// The product of a sum is the sum of the products, so that processes find out by a number each whether a vector is a given mean
/// of theirs. It is about as large as the length; another vector has the same one by chance alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sketch {
    /// Euclidean length.
    pub norm: f64,
    /// Product with the signs.
    pub projection: f64,
}

impl Sketch {
    /// The sketch of `tensors` laid end to end, in f32; `seed` decides the signs.
    ///
    /// The sign of an element is that of its row times that of its column: there are few of them, and products with them are one
    /// look at every value.
    ///
    /// # Errors
    /// MLX failed.
    pub fn of(tensors: &BTreeMap<String, Array>, seed: u64) -> Result<Self, Exception> {
        let mut random = SplitMix64 { state: seed };
        let mut parts = Vec::with_capacity(2 * tensors.len());
        for tensor in tensors.values().filter(|tensor| tensor.size() > 0) {
            let columns = tensor.shape().last().copied().unwrap_or(1);
            let matrix = tensor.as_dtype(Dtype::Float32)?.reshape(&[-1, columns])?;
            let rows = matrix.shape()[0];
            let by_column = matmul(&matrix, signs(&mut random, [columns, 1]))?;
            parts.push(matmul(signs(&mut random, [1, rows]), by_column)?);
            parts.push(square(&matrix)?.sum(None)?);
        }
        eval(&parts)?;
        let (mut projection, mut squares) = (0.0, 0.0);
        for pair in parts.chunks_exact(2) {
            projection += f64::from(scalar::<f32>(&pair[0])?);
            squares += f64::from(scalar::<f32>(&pair[1])?);
        }
        Ok(Self {
            norm: squares.sqrt(),
            projection,
        })
    }
}

/// Random signs in an array of this shape.
fn signs(random: &mut SplitMix64, shape: [i32; 2]) -> Array {
    let count = shape[0] * shape[1];
    let signs: Vec<f32> = (0..count)
        .map(|_| if random.next() >> 63 == 0 { 1.0 } else { -1.0 })
        .collect();
    Array::from_slice(&signs, &shape)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use approx::assert_relative_eq;
    use mlx_rs::Array;
    use mlx_rs::ops::{add, multiply};

    use super::Sketch;

    /// Rounding of sums in f32.
    const TOLERANCE: f64 = 1e-5;

    fn tensors(scale: f32) -> BTreeMap<String, Array> {
        let values = |count: usize, start: f32| -> Vec<f32> {
            (0..count)
                .map(|index| scale * (start + index as f32 * 0.37).sin())
                .collect()
        };
        BTreeMap::from([
            ("matrix".to_owned(), Array::from_slice(&values(12, 0.3), &[3, 4])),
            ("cube".to_owned(), Array::from_slice(&values(24, 1.7), &[2, 3, 4])),
            ("row".to_owned(), Array::from_slice(&values(5, 2.9), &[5])),
            ("number".to_owned(), Array::from_f32(scale * 0.25)),
            ("nothing".to_owned(), Array::from_slice::<f32>(&[], &[0])),
        ])
    }

    #[test]
    fn the_norm_is_that_of_all_values() {
        let squares = |count: usize, start: f64| -> f64 {
            let value = |index: usize| (start + index as f64 * 0.37).sin();
            (0..count).map(|index| value(index).powi(2)).sum()
        };
        let expected = squares(12, 0.3) + squares(24, 1.7) + squares(5, 2.9) + 0.0625;
        let sketch = Sketch::of(&tensors(1.0), 3).unwrap();
        assert_relative_eq!(sketch.norm, expected.sqrt(), max_relative = TOLERANCE);
    }

    #[test]
    fn the_projection_of_a_sum_is_the_sum_of_the_projections() {
        let (one, other) = (tensors(1.0), tensors(-0.4));
        let sum: BTreeMap<String, Array> = one
            .iter()
            .map(|(name, value)| (name.clone(), add(value, &other[name]).unwrap()))
            .collect();
        let projection = |tensors| Sketch::of(tensors, 11).unwrap().projection;
        assert_relative_eq!(
            projection(&sum),
            projection(&one) + projection(&other),
            epsilon = TOLERANCE
        );
    }

    #[test]
    fn signs_are_the_seeds_and_square_projections_are_square_norms_on_average() {
        let tensors = tensors(1.0);
        assert_eq!(Sketch::of(&tensors, 5).unwrap(), Sketch::of(&tensors, 5).unwrap());
        let sketches: Vec<Sketch> = (0..400).map(|seed| Sketch::of(&tensors, seed).unwrap()).collect();
        let mean = sketches.iter().map(|sketch| sketch.projection.powi(2)).sum::<f64>() / 400.0;
        // Four standard errors of a mean of 400 squares whose own deviation is about twice their mean.
        assert_relative_eq!(mean, sketches[0].norm.powi(2), max_relative = 0.4);
    }

    #[test]
    fn scaled_tensors_have_a_scaled_sketch() {
        let one = Sketch::of(&tensors(1.0), 7).unwrap();
        let doubled: BTreeMap<String, Array> = tensors(1.0)
            .into_iter()
            .map(|(name, value)| (name, multiply(value, Array::from_f32(2.0)).unwrap()))
            .collect();
        let doubled = Sketch::of(&doubled, 7).unwrap();
        assert_relative_eq!(doubled.norm, 2.0 * one.norm, max_relative = TOLERANCE);
        assert_relative_eq!(doubled.projection, 2.0 * one.projection, max_relative = TOLERANCE);
    }
}
