use mlx_cpu_kernels::Rotation;
use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::fast::{rope, rope_dynamic};
use mlx_rs::ops::{concatenate, multiply};

use super::Offsets;
use super::linear::scalar;

/// Rotary position encoding (Su et al. 2021, arXiv 2104.09864) over the halves of each head.
#[derive(Debug, Clone)]
pub struct RotaryEmbedding {
    /// Values per head that are rotated, the first ones; the others stay as they are.
    pub dimensions: i32,
    /// Whether neighbouring values are turned together instead of the halves of a head.
    pub traditional: bool,
    /// What decides the wavelengths.
    pub wavelengths: Wavelengths,
    /// Factor on positions; 1 unless the context was stretched linearly.
    pub position_scale: f32,
    /// Factor on the rotated values; 1 unless the context was stretched by "longrope".
    pub amplitude: f32,
}

/// Wavelengths of the rotation.
#[derive(Debug, Clone)]
pub enum Wavelengths {
    /// `base^(2i / dimensions)`.
    Base(f32),
    /// One per pair of values, `[dimensions / 2]`, in f32.
    Given(Array),
}

impl RotaryEmbedding {
    /// Rotates `heads` `[batch, tokens, heads, dimensions]` whose first tokens stand behind `offsets` others, and returns
    /// them as `[batch, heads, tokens, dimensions]`.
    pub fn forward(&self, heads: &Array, offsets: &Offsets) -> Result<Array> {
        const HEADS_FIRST: [i32; 4] = [0, 2, 1, 3];
        let (base, given) = match &self.wavelengths {
            Wavelengths::Base(base) => (Some(*base), None),
            Wavelengths::Given(wavelengths) => (None, Some(wavelengths)),
        };
        let amplified = self.amplified(heads)?;
        if mlx_cpu_kernels::serve([&amplified]) {
            let rotation = Rotation {
                dimensions: self.dimensions,
                traditional: self.traditional,
                base: base.unwrap_or(1.0),
                scale: self.position_scale,
            };
            let (offset, offsets) = match offsets {
                Offsets::Equal(offset) => (*offset, None),
                Offsets::Each(offsets) => (0, Some(offsets)),
            };
            let turned = mlx_cpu_kernels::rotary(&amplified, &rotation, given, offset, offsets)?;
            return turned.transpose_axes(&HEADS_FIRST);
        }
        let amplified = amplified.transpose_axes(&HEADS_FIRST)?;
        let (dimensions, traditional, scale) = (self.dimensions, self.traditional, self.position_scale);
        match offsets {
            Offsets::Equal(offset) => rope(&amplified, dimensions, traditional, base, scale, *offset, given),
            Offsets::Each(offsets) => rope_dynamic(&amplified, dimensions, traditional, base, scale, offsets, given),
        }
    }

    fn amplified(&self, heads: &Array) -> Result<Array> {
        if self.amplitude == 1.0 {
            return Ok(heads.clone());
        }
        let amplitude = scalar(self.amplitude, heads.dtype())?;
        if heads.dim(-1) == self.dimensions {
            return multiply(heads, amplitude);
        }
        let parts = heads.split_at_indices(&[self.dimensions], -1)?;
        concatenate(&[multiply(&parts[0], amplitude)?, parts[1].clone()], -1)
    }
}

/// Wavelengths of Llama 3's stretched context (`rope_type` "llama3"), one per pair of values.
///
/// Long waves are stretched by `factor`, short ones kept, those between interpolated.
/// Source: Hugging Face transformers, `rope_type: "llama3"` of the configuration format.
pub fn llama3_wavelengths(
    dimensions: i32,
    base: f32,
    factor: f32,
    low_frequency_factor: f32,
    high_frequency_factor: f32,
    original_context: f32,
) -> Vec<f32> {
    let longest_kept = original_context / high_frequency_factor;
    let shortest_stretched = original_context / low_frequency_factor;
    (0..dimensions / 2)
        .map(|pair| {
            // Wavelength over 2 pi, as MLX's rope takes it.
            let period = base.powf(2.0 * pair as f32 / dimensions as f32);
            let wave = 2.0 * std::f32::consts::PI * period;
            if wave < longest_kept {
                period
            } else if wave > shortest_stretched {
                period * factor
            } else {
                let smooth =
                    (original_context / wave - low_frequency_factor) / (high_frequency_factor - low_frequency_factor);
                period / ((1.0 - smooth) / factor + smooth)
            }
        })
        .collect()
}
