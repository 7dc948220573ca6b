use mlx_rs::Array;
use mlx_rs::error::{Exception, Result};
use mlx_rs::ops::{add, addmm, divide, matmul, multiply, square, subtract, zeros_like};

use super::{PerParameter, Update, UpdateRule};

/// Coefficients of the quintic Newton-Schulz iteration (Jordan et al. 2024, <https://kellerjordan.github.io/posts/muon/>).
const QUINTIC: (f32, f32, f32) = (3.4445, -4.7750, 2.0315);
/// Added to the norm that a matrix is divided by, so that one of zeros stays zero.
const NORM_EPSILON: f32 = 1e-7;

/// Settings of [`Muon`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MuonSettings {
    /// Decay of the mean of the gradients.
    pub momentum: f32,
    /// Added to the gradient, times the parameter.
    pub weight_decay: f32,
    /// Whether the step looks ahead along the mean.
    pub nesterov: bool,
    /// Newton-Schulz iterations.
    pub iterations: usize,
}

impl Default for MuonSettings {
    /// MLX's defaults.
    fn default() -> Self {
        Self {
            momentum: 0.95,
            weight_decay: 0.01,
            nesterov: true,
            iterations: 5,
        }
    }
}

/// Momentum whose steps are made orthogonal (Jordan et al. 2024), for matrices; vectors get plain momentum, as in MLX.
pub type Muon = PerParameter<MuonSettings>;

impl Muon {
    /// A fresh optimizer.
    pub fn new(settings: MuonSettings) -> Self {
        Self::of(settings)
    }
}

impl UpdateRule for MuonSettings {
    const NAME: &'static str = "muon";

    fn slots(&self, _parameter: &Array) -> &'static [&'static str] {
        &["velocity"]
    }

    fn first(&self, _slot: &str, gradient: &Array) -> Result<Array> {
        zeros_like(gradient)
    }

    fn next(&self, parameter: &Array, gradient: &Array, kept: &mut [Array], update: Update) -> Result<Array> {
        let [velocity] = kept else {
            return Err(Exception::custom("Muon keeps one array"));
        };
        let scaled = |array: &Array, factor: f32| multiply(array, update.scalar(f64::from(factor))?);
        let gradient = if update.decays && self.weight_decay != 0.0 {
            add(gradient, scaled(parameter, self.weight_decay)?)?
        } else {
            gradient.clone()
        };
        let fresh = scaled(&gradient, 1.0 - self.momentum)?;
        *velocity = add(scaled(velocity, self.momentum)?, &fresh)?;
        let mut step = if self.nesterov {
            add(fresh, scaled(velocity, self.momentum)?)?
        } else {
            velocity.clone()
        };
        let mut learning_rate = update.learning_rate;
        if step.ndim() >= 2 {
            let shape = step.shape().to_vec();
            let (rows, columns) = (shape[shape.len() - 2], shape[shape.len() - 1]);
            step = self.orthogonal(&step.reshape(&[shape[0], -1])?)?.reshape(&shape)?;
            learning_rate *= (f64::from(rows) / f64::from(columns)).max(1.0).sqrt();
        }
        subtract(parameter, multiply(step, update.scalar(learning_rate)?)?)
    }
}

impl MuonSettings {
    /// About the orthogonal matrix nearest to `matrix` `[rows, columns]`: its singular values come near 1.
    fn orthogonal(&self, matrix: &Array) -> Result<Array> {
        let (linear, cubic, quintic) = QUINTIC;
        let is_tall = matrix.dim(0) > matrix.dim(1);
        let wide = if is_tall { matrix.t() } else { matrix.clone() };
        let scalar = |value: f32| Array::from_f32(value).as_dtype(matrix.dtype());
        let norm = add(square(&wide)?.sum(None)?.sqrt()?, scalar(NORM_EPSILON)?)?;
        let mut current = divide(wide, norm)?;
        for _ in 0..self.iterations {
            let gram = matmul(&current, current.t())?;
            let factor = addmm(multiply(&gram, scalar(cubic)?)?, &gram, &gram, quintic, 1.0)?;
            current = addmm(multiply(&current, scalar(linear)?)?, factor, &current, 1.0, 1.0)?;
        }
        Ok(if is_tall { current.t() } else { current })
    }
}
