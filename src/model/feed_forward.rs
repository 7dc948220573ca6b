use mlx_cpu_kernels::Gate;
use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::nn::{gelu_approximate, silu};
use mlx_rs::ops::multiply;

use super::Linear;

/// The function on the gate of a feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`; `silu` or `swish` in configurations.
    Silu,
    /// The tanh approximation of `x * Phi(x)`; `gelu_pytorch_tanh` or `gelu_new` in configurations.
    GeluTanh,
}

impl Activation {
    /// Applies it to `input`, value by value.
    pub fn apply(self, input: Array) -> Result<Array> {
        match self {
            Self::Silu => silu(input),
            Self::GeluTanh => gelu_approximate(input),
        }
    }

    /// Applies it to `gates`, and multiplies with `values` of the same shape.
    pub fn gate(self, gates: Array, values: &Array) -> Result<Array> {
        if !mlx_cpu_kernels::serve([&gates, values]) {
            return multiply(self.apply(gates)?, values);
        }
        let gate = match self {
            Self::Silu => Gate::Silu,
            Self::GeluTanh => Gate::GeluTanh,
        };
        mlx_cpu_kernels::gated(gate, &gates, values)
    }
}

/// The gated feed-forward layer: `down(activation(gate(x)) * up(x))`.
#[derive(Debug, Clone, ModuleParameters)]
pub struct FeedForward {
    /// `[intermediate, hidden]`.
    #[param]
    pub gate_proj: Linear,
    /// `[intermediate, hidden]`.
    #[param]
    pub up_proj: Linear,
    /// `[hidden, intermediate]`.
    #[param]
    pub down_proj: Linear,
    /// The function on the gate.
    pub activation: Activation,
}

impl FeedForward {
    /// Applies the layer to `input` `[..., hidden]`.
    pub fn forward(&self, input: &Array) -> Result<Array> {
        let [gates, values] = Linear::forward_each([&self.gate_proj, &self.up_proj], input)?;
        let inner = self.activation.gate(gates, &values)?;
        self.down_proj.forward(&inner)
    }
}
