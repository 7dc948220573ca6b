use mlx_rs::Array;
use mlx_rs::error::{Exception, Result};

/// What a query attends to. The last query stands at the last key, and none attends to later keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reach {
    /// Keys that a query attends to, its own included; `None` for all before it.
    pub window: Option<i32>,
    /// Factor on the products of queries and keys.
    pub scale: f32,
}

/// The function on a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// `x * sigmoid(x)`.
    Silu,
    /// The tanh approximation of `x * Phi(x)` (Hendrycks and Gimpel 2016, arXiv 1606.08415).
    GeluTanh,
}

/// How heads are turned.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotation {
    /// Values of a head that are turned, the first ones.
    pub dimensions: i32,
    /// Whether neighbouring values are turned together instead of the halves of a head.
    pub traditional: bool,
    /// Wavelengths are `base^(2i / dimensions)`, unless they are given.
    pub base: f32,
    /// Factor on positions.
    pub scale: f32,
}

/// What a step of `AdamW` multiplies by and adds, corrections for the beginning included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWFactors {
    /// On the mean of the gradients before.
    pub keep_mean: f32,
    /// On the gradient that joins it.
    pub take_mean: f32,
    /// On the mean of their squares before.
    pub keep_square: f32,
    /// On the square that joins it.
    pub take_square: f32,
    /// On the root of the mean square.
    pub root: f32,
    /// Added to that.
    pub epsilon: f32,
    /// On the mean, before it is divided: the learning rate.
    pub rate: f32,
    /// On the parameter: what its decay leaves of it.
    pub keep_parameter: f32,
}

/// A loss and its gradient.
#[derive(Debug)]
pub struct OutputLoss {
    /// The cross-entropy of all positions in nats, a scalar.
    pub sum: Array,
    /// Its gradient `[positions, width]` by the hidden states.
    pub gradient: Array,
}

/// A low-rank adapter: `scale (input lora_a) lora_b`.
#[derive(Debug, Clone, Copy)]
pub struct Adapter<'layer> {
    /// `[inputs, rank]`.
    pub lora_a: &'layer Array,
    /// `[rank, outputs]`.
    pub lora_b: &'layer Array,
    /// Factor on what it adds.
    pub scale: f32,
}

/// How two arrays differ.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Difference {
    /// Values that differ bit for bit.
    pub changed: u64,
    /// The sum of the squares of the first array.
    pub squares_before: f64,
    /// The same of the second.
    pub squares_after: f64,
    /// The same of what the second has more than the first.
    pub squares_of_difference: f64,
}

/// Numbers of a part of two arrays: changed values, and the squares of the first, the second, and their difference.
pub(crate) const NUMBERS: usize = 4;

impl Difference {
    /// Adds up what [`difference`](crate::difference) found part by part.
    ///
    /// # Errors
    /// What the arrays are computed from fails.
    pub fn read(numbers: &Array) -> Result<Self> {
        let mut total = Self::default();
        if numbers.size() == 0 {
            return Ok(total);
        }
        numbers.eval()?;
        let numbers = numbers
            .try_as_slice::<f32>()
            .map_err(|error| Exception::custom(error.to_string()))?;
        for [changed, before, after, difference] in numbers.as_chunks::<NUMBERS>().0 {
            total.changed += *changed as u64;
            total.squares_before += f64::from(*before);
            total.squares_after += f64::from(*after);
            total.squares_of_difference += f64::from(*difference);
        }
        Ok(total)
    }
}
