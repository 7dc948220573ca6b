use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::module::Param;

use super::{Embedding, Linear, LowRankSettings, PackedForm, PackedMatrix, Packing, SwitchLinear};

/// A layer with room for one low-rank adapter: a linear layer, one per expert, or a table of vectors.
pub trait Adaptable {
    /// Sizes of what the layer maps: `[outputs, inputs]`, with experts `[experts, outputs, inputs]`. A table has a
    /// vector of `outputs` values for each of `inputs` tokens.
    fn place(&self) -> Vec<i32>;

    /// The matrices `lora_a` and `lora_b` as mlx-lm has them; see [`adapter_shapes`].
    fn matrices(&self) -> [&Param<Option<Array>>; 2];

    /// [`Self::matrices`], mutable.
    fn matrices_mut(&mut self) -> [&mut Param<Option<Array>>; 2];

    /// How the adapter acts; `None` when there is none.
    fn low_rank(&self) -> Option<LowRankSettings>;

    /// [`Self::low_rank`], mutable.
    fn low_rank_mut(&mut self) -> &mut Option<LowRankSettings>;

    /// Leaves the layer without an adapter.
    fn remove_adapter(&mut self) {
        for matrix in self.matrices_mut() {
            *matrix = Param::new(None);
        }
        *self.low_rank_mut() = None;
    }

    /// Whether both matrices are there.
    fn is_adapted(&self) -> bool {
        self.matrices().iter().all(|matrix| matrix.value.is_some())
    }

    /// The rank of the adapter; `None` when there is none.
    fn rank(&self) -> Option<i32> {
        let axis = if self.place().len() == 3 { 1 } else { -1 };
        let [lora_a, _] = self.matrices();
        lora_a.value.as_ref().map(|lora_a| lora_a.dim(axis))
    }

    /// The weight in plain form, without the adapter.
    fn plain_weight(&self) -> Result<Array>;

    /// The weight with the adapter's change in f32, of the weight's shape.
    fn adapted_weight(&self) -> Result<Array>;

    /// Scales of a weight that is held packed.
    fn scales(&self) -> Option<&Array>;

    /// How the weight is packed; `None` when it is plain.
    fn packing(&self) -> Option<Packing>;

    /// DoRA's magnitudes while they are trained, `[outputs]`; `None` without them.
    fn magnitudes(&self) -> Option<&Array> {
        None
    }

    /// Whether the outputs of the layer with its adapter are multiplied, so that its change has no low rank.
    fn has_output_factors(&self) -> bool {
        false
    }

    /// The weight, its scales and biases, and how it is packed.
    fn stored_weight_mut(&mut self) -> StoredWeightMut<'_>;

    /// The layer as the linear layer that it is; `None` for the others.
    fn as_linear_mut(&mut self) -> Option<&mut Linear> {
        None
    }

    /// Puts the weight with the adapter's change in its place, and removes the adapter; returns whether there was one.
    ///
    /// A packed layer is packed again with its own group size, bits and mode.
    fn fuse(&mut self) -> Result<bool> {
        if self.low_rank().is_none() || !self.is_adapted() {
            return Ok(false);
        }
        let fused = self.adapted_weight()?;
        let stored = self.stored_weight_mut();
        match *stored.packing {
            None => *stored.weight = fused.as_dtype(stored.weight.dtype())?,
            Some(form) => {
                let packed = form.packing.pack(&fused.as_dtype(form.dtype)?)?;
                stored.hold(packed);
            }
        }
        self.remove_adapter();
        Ok(true)
    }
}

/// The parts of a weight, to be replaced together.
#[derive(Debug)]
pub struct StoredWeightMut<'layer> {
    /// The weight, or its packed words.
    pub weight: &'layer mut Array,
    /// Scales of a packed weight.
    pub scales: &'layer mut Option<Array>,
    /// Biases of a packed weight.
    pub biases: &'layer mut Option<Array>,
    /// How it is packed; `None` when it is plain.
    pub packing: &'layer mut Option<PackedForm>,
}

impl StoredWeightMut<'_> {
    /// Puts a packed matrix in the place of the weight.
    pub fn hold(self, matrix: PackedMatrix) {
        *self.weight = matrix.weight;
        *self.scales = Some(matrix.scales);
        *self.biases = matrix.biases;
        *self.packing = Some(matrix.form);
    }
}

/// The shapes of `lora_a` and `lora_b` of this `rank` for a [place](Adaptable::place): `[inputs, rank]` and
/// `[rank, outputs]`, or with experts `[experts, rank, inputs]` and `[experts, outputs, rank]`.
pub fn adapter_shapes(place: &[i32], rank: i32) -> [Vec<i32>; 2] {
    match *place {
        [experts, outputs, inputs] => [vec![experts, rank, inputs], vec![experts, outputs, rank]],
        [outputs, inputs] => [vec![inputs, rank], vec![rank, outputs]],
        _ => [Vec::new(), Vec::new()],
    }
}

/// What the three kinds of layers have under the same names.
macro_rules! with_fields {
    () => {
        fn matrices(&self) -> [&Param<Option<Array>>; 2] {
            [&self.lora_a, &self.lora_b]
        }

        fn matrices_mut(&mut self) -> [&mut Param<Option<Array>>; 2] {
            [&mut self.lora_a, &mut self.lora_b]
        }

        fn low_rank(&self) -> Option<LowRankSettings> {
            self.low_rank
        }

        fn low_rank_mut(&mut self) -> &mut Option<LowRankSettings> {
            &mut self.low_rank
        }

        fn plain_weight(&self) -> Result<Array> {
            Self::plain_weight(self)
        }

        fn adapted_weight(&self) -> Result<Array> {
            Self::adapted_weight(self)
        }

        fn scales(&self) -> Option<&Array> {
            self.scales.value.as_ref()
        }

        fn packing(&self) -> Option<Packing> {
            self.packing.map(|form| form.packing)
        }

        fn stored_weight_mut(&mut self) -> StoredWeightMut<'_> {
            StoredWeightMut {
                weight: &mut self.weight.value,
                scales: &mut self.scales.value,
                biases: &mut self.biases.value,
                packing: &mut self.packing,
            }
        }
    };
}

impl Adaptable for Linear {
    with_fields!();

    fn place(&self) -> Vec<i32> {
        let (outputs, inputs) = self.shape();
        vec![outputs, inputs]
    }

    fn remove_adapter(&mut self) {
        Self::remove_adapter(self);
    }

    fn magnitudes(&self) -> Option<&Array> {
        self.m.value.as_ref()
    }

    fn has_output_factors(&self) -> bool {
        Self::has_output_factors(self)
    }

    fn as_linear_mut(&mut self) -> Option<&mut Linear> {
        Some(self)
    }
}

impl Adaptable for SwitchLinear {
    with_fields!();

    fn place(&self) -> Vec<i32> {
        let (experts, outputs, inputs) = self.shape();
        vec![experts, outputs, inputs]
    }
}

impl Adaptable for Embedding {
    with_fields!();

    fn place(&self) -> Vec<i32> {
        vec![self.dimensions(), self.vocabulary_size()]
    }
}
