use std::fmt::Debug;

use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::module::ModuleParameters;

use super::{Adaptable, AttentionContext, KeyValueStore, Linear, Norm, SwitchLinear};

/// One transformer block of some architecture.
///
/// Paths are relative to the block, for example `self_attn.q_proj`, and those of mlx-lm's module tree.
pub trait Block: ModuleParameters + Debug {
    /// Applies the block to `input` `[batch, tokens, hidden]`.
    fn forward(
        &self,
        input: &Array,
        context: &AttentionContext,
        stores: &mut [&mut dyn KeyValueStore],
    ) -> Result<Array>;

    /// [`Self::forward`], and the experts that each token was sent to, `[batch, tokens, chosen]`; `None` where the block
    /// has no experts.
    fn forward_with_experts(
        &self,
        input: &Array,
        context: &AttentionContext,
        stores: &mut [&mut dyn KeyValueStore],
    ) -> Result<(Array, Option<Array>)> {
        Ok((self.forward(input, context, stores)?, None))
    }

    /// Tokens that one attends to, itself included; `None` for all before it.
    fn window(&self) -> Option<i32>;

    /// The linear layers in the order of the computation.
    fn linears(&self) -> Vec<(&'static str, &Linear)>;

    /// [`Self::linears`], mutable.
    fn linears_mut(&mut self) -> Vec<(&'static str, &mut Linear)>;

    /// The layers that hold one matrix per expert.
    fn switch_linears(&self) -> Vec<(&'static str, &SwitchLinear)> {
        Vec::new()
    }

    /// The linear layers and then those of experts, as what carries an adapter.
    fn adaptable_mut(&mut self) -> Vec<(&'static str, &mut dyn Adaptable)> {
        let linears = self.linears_mut().into_iter();
        linears
            .map(|(path, linear)| (path, linear as &mut dyn Adaptable))
            .collect()
    }

    /// The norms between attention, feed-forward layer and the next block.
    fn norms_mut(&mut self) -> Vec<&mut Norm>;

    /// A copy; values are shared, since MLX arrays are immutable.
    fn boxed_clone(&self) -> Box<dyn Block>;
}

impl Clone for Box<dyn Block> {
    fn clone(&self) -> Self {
        self.boxed_clone()
    }
}

/// What every block says of its parts, from one list of its layers and one of its norms; the path of a layer is that of
/// its field.
macro_rules! block_parts {
    (
        attention: $attention:ident,
        linears: [$($part:ident.$linear:ident),+ $(,)?],
        norms: [$($norm:ident),+ $(,)?] $(,)?
    ) => {
        fn window(&self) -> Option<i32> {
            self.$attention.heads.window
        }

        fn linears(&self) -> Vec<(&'static str, &Linear)> {
            vec![$((concat!(stringify!($part), ".", stringify!($linear)), &self.$part.$linear)),+]
        }

        fn linears_mut(&mut self) -> Vec<(&'static str, &mut Linear)> {
            vec![$((concat!(stringify!($part), ".", stringify!($linear)), &mut self.$part.$linear)),+]
        }

        fn norms_mut(&mut self) -> Vec<&mut Norm> {
            vec![$(&mut self.$norm),+]
        }

        fn boxed_clone(&self) -> Box<dyn Block> {
            Box::new(self.clone())
        }
    };
}

pub(super) use block_parts;
