/// Where low-rank adapters go and how strong they are, with mlx-lm's meanings.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraSettings {
    /// Width of the narrow product.
    pub rank: usize,
    /// Factor on the adapter's output, not divided by the rank.
    pub scale: f32,
    /// Probability that an input value is dropped while training.
    pub dropout: f32,
    /// Blocks adapted, counted from the last; `None` for all.
    pub layers: Option<usize>,
    /// Paths relative to a block (`self_attn.q_proj`) or of the whole model (`lm_head`); empty for every linear layer
    /// of the blocks.
    pub keys: Vec<String>,
}

impl Default for LoraSettings {
    /// mlx-lm 0.32's defaults, on all blocks.
    fn default() -> Self {
        Self {
            rank: 8,
            scale: 20.0,
            dropout: 0.0,
            layers: None,
            keys: Vec::new(),
        }
    }
}
