use std::ops::Range;

use mlx_cpu_kernels::Adapter;
use mlx_rs::error::{Exception, Result};
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::Param;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::ops::{addmm, concatenate, divide, matmul, multiply, square};
use mlx_rs::{Array, Dtype, stop_gradient};

use super::packed_matrix::PackedParts;
use super::{PackedForm, PackedMatrix};

/// How a low-rank adapter acts on its layer: `y = W x + scale * (dropout(x) A) B`.
///
/// Source: Hu et al. 2021 (arXiv 2106.09685), with mlx-lm's convention that `scale` multiplies directly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LowRankSettings {
    /// Factor on the adapter's output.
    pub scale: f32,
    /// Probability that an input value is dropped while training.
    pub dropout: f32,
    /// Whether dropout is active.
    pub training: bool,
}

/// A linear layer, plain or packed, with room for one low-rank adapter.
///
/// The parameter names are those of the checkpoint (`weight`, `scales`, `biases`, `bias`) and of mlx-lm's adapters
/// (`lora_a`, `lora_b`); attaching an adapter therefore renames nothing.
#[derive(Debug, Clone, ModuleParameters)]
pub struct Linear {
    /// `[outputs, inputs]`, or `[outputs, inputs * bits / 32]` packed words.
    #[param]
    pub weight: Param<Array>,
    /// `[outputs, inputs / group_size]`; present when packed.
    #[param]
    pub scales: Param<Option<Array>>,
    /// `[outputs, inputs / group_size]`; present when packed in mode `affine`.
    #[param]
    pub biases: Param<Option<Array>>,
    /// `[outputs]`.
    #[param]
    pub bias: Param<Option<Array>>,
    /// `[inputs, rank]`.
    #[param]
    pub lora_a: Param<Option<Array>>,
    /// `[rank, outputs]`.
    #[param]
    pub lora_b: Param<Option<Array>>,
    /// `[outputs]` magnitudes of the adapted weight's rows, as DoRA trains them (Liu et al. 2024, arXiv 2402.09353).
    #[param]
    pub m: Param<Option<Array>>,
    /// How `weight` is packed; `None` when it is plain.
    pub packing: Option<PackedForm>,
    /// How the adapter acts; `None` when there is none.
    pub low_rank: Option<LowRankSettings>,
    /// `[outputs]` factors on the layer with its adapter, before the bias: what DoRA's magnitudes come to once training is
    /// over; `None` without them, or while they are trained.
    pub output_factors: Option<Array>,
    /// Who the tokens of a pass belong to, where it serves several adapters; empty where one adapter, or none, acts on all.
    pub tenants: Vec<Tenant>,
}

/// Tokens of a pass that one adapter acts on.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Which tokens.
    pub tokens: Range<i32>,
    /// The layer with the adapter, on the same base; `None` where none acts on them.
    pub layer: Option<Linear>,
}

impl Linear {
    /// A plain layer of `weight` `[outputs, inputs]` and `bias` `[outputs]`.
    pub fn new(weight: Array, bias: Option<Array>) -> Self {
        Self {
            weight: Param::new(weight),
            scales: Param::new(None),
            biases: Param::new(None),
            bias: Param::new(bias),
            lora_a: Param::new(None),
            lora_b: Param::new(None),
            m: Param::new(None),
            packing: None,
            low_rank: None,
            output_factors: None,
            tenants: Vec::new(),
        }
    }

    /// A packed layer.
    pub fn packed(matrix: PackedMatrix, bias: Option<Array>) -> Self {
        Self {
            scales: Param::new(Some(matrix.scales)),
            biases: Param::new(matrix.biases),
            packing: Some(matrix.form),
            ..Self::new(matrix.weight, bias)
        }
    }

    /// The packed weight; `None` when it is plain.
    fn parts(&self) -> Option<PackedParts<'_>> {
        Some(PackedParts {
            weight: &self.weight.value,
            scales: self.scales.value.as_ref()?,
            biases: self.biases.value.as_ref(),
            form: self.packing?,
        })
    }

    /// Leaves the layer without an adapter.
    pub fn remove_adapter(&mut self) {
        self.lora_a = Param::new(None);
        self.lora_b = Param::new(None);
        self.m = Param::new(None);
        self.low_rank = None;
        self.output_factors = None;
    }

    /// Number of outputs and inputs of the unpacked layer.
    pub fn shape(&self) -> (i32, i32) {
        let (outputs, columns) = (self.weight.dim(0), self.weight.dim(1));
        let inputs = self
            .packing
            .map_or(columns, |form| form.packing.unpacked_columns(columns));
        (outputs, inputs)
    }

    /// The weight `[outputs, inputs]` in plain form.
    pub fn plain_weight(&self) -> Result<Array> {
        match self.parts() {
            Some(parts) => parts.plain(),
            None => Ok(self.weight.value.clone()),
        }
    }

    /// The rows `outputs` `[...]` of the weight in plain form `[..., inputs]`.
    pub fn plain_rows(&self, outputs: &Array) -> Result<Array> {
        match self.parts() {
            Some(parts) => parts.plain_rows(outputs),
            None => self.weight.value.take_axis(outputs, 0),
        }
    }

    /// The weight with the adapter's change, `[outputs, inputs]` in f32; the plain weight where there is no adapter.
    pub fn adapted_weight(&self) -> Result<Array> {
        let weight = self.plain_weight()?.as_dtype(Dtype::Float32)?;
        let (Some(settings), Some(lora_a), Some(lora_b)) = (self.low_rank, &self.lora_a.value, &self.lora_b.value)
        else {
            return Ok(weight);
        };
        let change = multiply(matmul(lora_a, lora_b)?, Array::from_f32(settings.scale))?.t();
        let adapted = weight.add(change)?;
        let factors = match &self.m.value {
            Some(magnitudes) => Some(divide(magnitudes, row_norms(&adapted)?)?),
            None => self.output_factors.clone(),
        };
        match factors {
            Some(factors) => multiply(adapted, factors.reshape(&[-1, 1])?),
            None => Ok(adapted),
        }
    }

    /// Whether the outputs of the layer with its adapter are multiplied, so that its change has no low rank.
    pub fn has_output_factors(&self) -> bool {
        self.m.value.is_some() || self.output_factors.is_some()
    }

    /// Has the magnitudes of the weight's rows trained beside the low-rank change; at first they are those of the base, so
    /// that nothing changes.
    pub fn attach_magnitudes(&mut self) -> Result<()> {
        self.m = Param::new(Some(row_norms(&self.plain_weight()?.as_dtype(Dtype::Float32)?)?));
        Ok(())
    }

    /// The factors on the outputs. As in the paper and in mlx-lm, no gradient flows through the norms.
    fn factors(&self) -> Result<Option<Array>> {
        let Some(magnitudes) = &self.m.value else {
            return Ok(self.output_factors.clone());
        };
        let plain = Self {
            m: Param::new(None),
            output_factors: None,
            ..self.clone()
        };
        let norms = row_norms(&plain.adapted_weight()?)?;
        divide(magnitudes, stop_gradient(&norms)?).map(Some)
    }

    /// Applies the layer to `input` `[..., inputs]`, giving `[..., outputs]`; with tenants `[1, tokens, inputs]`.
    pub fn forward(&self, input: &Array) -> Result<Array> {
        if let Some(output) = self.with_adapter_in_one_operation(input) {
            return output;
        }
        let tenants = || self.tenants.iter().filter_map(|tenant| tenant.layer.as_ref());
        let is_multiplied = self.has_output_factors() || tenants().any(Self::has_output_factors);
        // The bias comes behind the factors.
        let bias = self.bias.value.as_ref();
        let output = self.base_forward(input, bias.filter(|_| !is_multiplied))?;
        let output = if self.tenants.is_empty() {
            self.adapted(input, output)?
        } else {
            self.adapted_for_tenants(input, &output)?
        };
        match bias {
            Some(bias) if is_multiplied => output.add(bias),
            _ => Ok(output),
        }
    }

    /// Applies each of `layers` to `input`, all at once where nothing but their weights acts.
    pub fn forward_each<const LAYERS: usize>(layers: [&Self; LAYERS], input: &Array) -> Result<[Array; LAYERS]> {
        let is_bare = |layer: &Self| {
            let is_plain = layer.packing.is_none() && layer.bias.value.is_none();
            is_plain && layer.low_rank.is_none() && layer.tenants.is_empty() && !layer.has_output_factors()
        };
        let weights = layers.map(|layer| &layer.weight.value);
        if layers.into_iter().all(is_bare) && mlx_cpu_kernels::serve([input].into_iter().chain(weights)) {
            return mlx_cpu_kernels::linears(input, weights);
        }
        let outputs: Vec<Array> = layers
            .into_iter()
            .map(|layer| layer.forward(input))
            .collect::<Result<_>>()?;
        outputs
            .try_into()
            .map_err(|_| Exception::custom("a layer has one output"))
    }

    /// The layer with its adapter by one operation of our own, where it has one, an operation serves and nothing else acts.
    fn with_adapter_in_one_operation(&self, input: &Array) -> Option<Result<Array>> {
        let (settings, lora_a, lora_b) = (self.low_rank?, self.lora_a.value.as_ref()?, self.lora_b.value.as_ref()?);
        let (weight, bias) = (&self.weight.value, self.bias.value.as_ref());
        let is_alone = self.packing.is_none() && self.tenants.is_empty() && !self.has_output_factors();
        let arrays = [input, weight, lora_a, lora_b].into_iter().chain(bias);
        let scale = settings.scale;
        let adapter = Adapter { lora_a, lora_b, scale };
        (is_alone && !settings.drops() && mlx_cpu_kernels::serve(arrays))
            .then(|| mlx_cpu_kernels::linear(input, weight, bias, Some(adapter)))
    }

    /// What the adapter, and then the factors, make of `output`, the base's answer to `input`.
    fn adapted(&self, input: &Array, output: Array) -> Result<Array> {
        let output = self.add_adapter(input, output)?;
        match self.factors()? {
            Some(factors) => multiply(&output, factors.as_dtype(output.dtype())?),
            None => Ok(output),
        }
    }

    /// [`Self::adapted`] by each tenant's layer for its own tokens.
    fn adapted_for_tenants(&self, input: &Array, output: &Array) -> Result<Array> {
        let parts = self.tenants.iter().map(|Tenant { tokens, layer }| {
            let own = |whole: &Array| whole.try_index((.., tokens.clone()));
            match layer {
                Some(layer) => layer.adapted(&own(input)?, own(output)?),
                None => own(output),
            }
        });
        concatenate(&parts.collect::<Result<Vec<_>>>()?, 1)
    }

    fn add_adapter(&self, input: &Array, output: Array) -> Result<Array> {
        let (Some(settings), Some(lora_a), Some(lora_b)) = (self.low_rank, &self.lora_a.value, &self.lora_b.value)
        else {
            return Ok(output);
        };
        let input = settings.drop(input)?;
        // Scaling the narrow product costs rank values per token instead of one per output.
        let hidden = multiply(matmul(&input, lora_a)?, scalar(settings.scale, lora_a.dtype())?)?;
        if hidden.dtype() == output.dtype() && lora_b.dtype() == output.dtype() {
            addmm(output, hidden, lora_b, 1.0, 1.0)
        } else {
            output.add(matmul(hidden, lora_b)?.as_dtype(output.dtype())?)
        }
    }

    fn base_forward(&self, input: &Array, bias: Option<&Array>) -> Result<Array> {
        match (self.parts(), bias) {
            (Some(parts), Some(bias)) => parts.multiply(input)?.add(bias),
            (Some(parts), None) => parts.multiply(input),
            (None, bias) if mlx_cpu_kernels::serve([input, &self.weight.value].into_iter().chain(bias)) => {
                mlx_cpu_kernels::linear(input, &self.weight.value, bias, None)
            }
            (None, Some(bias)) => addmm(bias, input, self.weight.value.t(), 1.0, 1.0),
            (None, None) => matmul(input, self.weight.value.t()),
        }
    }
}

/// The length of each row of `weight` `[outputs, inputs]`.
pub fn row_norms(weight: &Array) -> Result<Array> {
    square(weight)?.sum_axis(1, false)?.sqrt()
}

impl LowRankSettings {
    /// Whether input values are dropped now.
    fn drops(&self) -> bool {
        self.training && self.dropout != 0.0
    }

    pub(super) fn drop(&self, input: &Array) -> Result<Array> {
        if !self.drops() {
            return Ok(input.clone());
        }
        let keep = 1.0 - self.dropout;
        let mask = mlx_rs::random::bernoulli(&Array::from_f32(keep), input.shape(), None)?;
        multiply(
            multiply(input, mask.as_dtype(input.dtype())?)?,
            scalar(1.0 / keep, input.dtype())?,
        )
    }
}

pub(super) fn scalar(value: f32, dtype: Dtype) -> Result<Array> {
    Array::from_f32(value).as_dtype(dtype)
}
