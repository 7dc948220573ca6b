use mlx_rs::module::ModuleParameters;

use crate::evidence::FittingBatch;
use crate::model::{CausalModel, ModelConfiguration};

/// Bytes of one f32.
const FLOAT: f64 = 4.0;
/// What a step holds at its highest, in values. What a block keeps is counted from its operations; the rest is least
/// squares over steps of small llama models, rounded, and stays within 4% on SmolLM2-135M.
struct Counts {
    /// Kept by each trained block for the backward pass, per token.
    kept: Sizes,
    /// The same per head and position that is attended to: the weights of attention.
    kept_scores: f64,
    /// The same per rank of each adapter: what its first matrix makes.
    kept_ranks: f64,
    /// At work in one block when the forward pass turns round, per token.
    work: Sizes,
    /// The same per head and position that is attended to.
    work_scores: f64,
    /// Blocks that are at work at one time.
    blocks_at_work: usize,
    /// Whether two halves of a batch take turns, so that one of them is at work.
    halves: bool,
    /// Arrays of the size of all supervised logits while the output layer is frozen.
    logit_copies_frozen: f64,
    /// The same where the loss is differentiated through the logits.
    logit_copies: f64,
    /// Gradients that are there when the most activations are, per trained value; the optimizer's state comes on top.
    gradients_at_turn: f64,
    /// Gradients, new values and what an update of all parameters at once has at work, per trained value; the optimizer's
    /// state comes on top.
    update: f64,
}

/// Numbers of arrays by their width.
struct Sizes {
    /// As wide as the model.
    hidden: f64,
    /// As wide as the feed-forward layer inside.
    inner: f64,
    /// As wide as all query heads.
    queries: f64,
    /// As wide as all key heads.
    keys: f64,
}

impl Sizes {
    fn values(&self, [hidden, inner, queries, keys]: [f64; 4]) -> f64 {
        self.hidden * hidden + self.inner * inner + self.queries * queries + self.keys * keys
    }
}

/// With MLX's own operations.
const BY_MLX: Counts = Counts {
    // Two inputs and their norms; gate, its sigmoid, their product, up, all of it together; queries with their positions,
    // and what attention gives; keys and values.
    kept: Sizes {
        hidden: 4.0,
        inner: 5.0,
        queries: 2.0,
        keys: 2.0,
    },
    kept_scores: 1.0,
    kept_ranks: 0.0,
    work: Sizes {
        hidden: 5.0,
        inner: 2.0,
        queries: 6.0,
        keys: 0.0,
    },
    work_scores: 2.0,
    blocks_at_work: 1,
    halves: false,
    // The loss is computed in chunks, but MLX begins with all chunks before it ends one.
    logit_copies_frozen: 1.75,
    logit_copies: 2.5,
    gradients_at_turn: 0.75,
    update: 3.4,
};

/// With the operations of mlx-cpu-kernels, which keep less. MLX makes room for a hundred operations before they begin:
/// those of two blocks.
const BY_OWN_OPERATIONS: Counts = Counts {
    // Gate, up and what comes of them; no sigmoid, and no weights of attention.
    kept: Sizes {
        hidden: 4.0,
        inner: 3.0,
        queries: 2.0,
        keys: 2.0,
    },
    kept_scores: 0.0,
    kept_ranks: 1.0,
    work: Sizes {
        hidden: 7.0,
        inner: 5.5,
        queries: 9.0,
        keys: 0.0,
    },
    work_scores: 0.0,
    blocks_at_work: 2,
    halves: true,
    // A hundred positions at a time, beside MLX.
    logit_copies_frozen: 0.0,
    logit_copies: 2.7,
    gradients_at_turn: 0.0,
    update: 3.6,
};

impl Counts {
    /// Those of the operations that this thread's stream runs.
    fn here() -> &'static Self {
        if mlx_cpu_kernels::serve([]) {
            &BY_OWN_OPERATIONS
        } else {
            &BY_MLX
        }
    }
}

/// What is trained of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainedPart {
    /// Values that are trained.
    pub values: u64,
    /// The ranks of all adapters in these blocks, together.
    pub ranks: u64,
    /// Blocks that the backward pass goes through: from the first that has something to train to the last.
    pub blocks: usize,
    /// Whether the loss is differentiated through the logits: a trained, adapted or packed output layer.
    pub through_logits: bool,
}

impl TrainedPart {
    /// What is not frozen in `model`.
    pub fn of(model: &CausalModel) -> Self {
        let trainable = model.trainable_parameters().flatten();
        let all = model.model.layers.len();
        let (prefix, names) = (model.block_prefix(), model.model.names);
        let is_before = |name: &str| {
            let positions = names.positions.map(|positions| format!("model.{positions}."));
            name.starts_with(&names.embedding_path()) || positions.is_some_and(|path| name.starts_with(&path))
        };
        // What comes before the blocks needs the gradient of all of them, what comes behind of none.
        let first = trainable.keys().map(|name| match name.strip_prefix(&prefix) {
            Some(rest) => rest
                .split('.')
                .next()
                .and_then(|number| number.parse().ok())
                .unwrap_or(0),
            None if is_before(name) => 0,
            None => all,
        });
        Self {
            blocks: all.saturating_sub(first.min().unwrap_or(all)),
            ranks: ranks(model),
            values: trainable.values().map(|array| array.size() as u64).sum(),
            through_logits: model.frozen_output_weight().is_none(),
        }
    }
}

/// The ranks of the adapters on `model`, together.
fn ranks(model: &CausalModel) -> u64 {
    let layers = model.adaptable();
    layers
        .iter()
        .filter_map(|(_, layer)| layer.rank())
        .map(|rank| rank as u64)
        .sum()
}

/// What decides how much memory a training step takes beyond the loaded model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainingSize {
    /// What is trained.
    pub part: TrainedPart,
    /// Values that the optimizer keeps for each trained one: 2 for Adam.
    pub optimizer_state: f64,
    /// Rows per batch.
    pub batch_size: usize,
    /// Tokens of the longest row.
    pub tokens: usize,
    /// Tokens of a row that the loss counts, at most: those have logits.
    pub supervised: usize,
}

impl TrainingSize {
    /// Values that Adam, with or without weight decay, keeps for each trained one.
    pub const ADAMW: f64 = 2.0;
}

/// What a training step in f32 is predicted to hold at its highest, in bytes.
///
/// There are two heights: when the forward pass turns round with all activations, and when the optimizer updates all
/// parameters. The [`peak`](Self::peak) is the greater one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainingMemory {
    /// The loaded model with its adapters.
    pub weights: u64,
    /// What the optimizer carries from step to step.
    pub optimizer: u64,
    /// Gradients that are there together with all activations.
    pub gradients: u64,
    /// What the forward pass keeps for the backward pass, and what one block has at work.
    pub activations: u64,
    /// Logits of the supervised tokens, and what the loss makes of them.
    pub logits: u64,
    /// Gradients, new values and what the optimizer has at work while it updates.
    pub update: u64,
}

impl TrainingMemory {
    /// Predicts a step of training on a model that takes `weights` bytes as it is loaded.
    ///
    /// Counted for blocks of the llama kind in f32, with an adapter on every linear layer or with all weights. A block of
    /// which only some layers carry adapters keeps less.
    pub fn predict(configuration: &ModelConfiguration, weights: u64, size: TrainingSize) -> Self {
        let float = |count: usize| count as f64;
        let tokens = float(size.batch_size) * float(size.tokens);
        let hidden = float(configuration.hidden_size);
        // Every token goes through so many feed-forward layers of a mixture.
        let networks = configuration.experts.map_or(1, |experts| experts.num_experts_per_tok);
        let inner = float(networks * configuration.intermediate_size);
        let queries = float(configuration.num_attention_heads) * float(configuration.head_dim);
        let keys = float(configuration.num_key_value_heads) * float(configuration.head_dim);
        let scores = float(configuration.num_attention_heads) * float(size.tokens);
        let counts = Counts::here();
        let widths = [hidden, inner, queries, keys];
        let kept = float(size.part.blocks) * (counts.kept.values(widths) + counts.kept_scores * scores)
            + counts.kept_ranks * size.part.ranks as f64;
        let work = counts.work.values(widths) + counts.work_scores * scores;
        let rows_at_work = if counts.halves {
            size.batch_size.div_ceil(2)
        } else {
            size.batch_size
        };
        let tokens_at_work = float(rows_at_work) * float(size.tokens);
        let copies = if size.part.through_logits {
            counts.logit_copies
        } else {
            counts.logit_copies_frozen
        };
        let supervised = float(size.batch_size) * float(size.supervised.min(size.tokens));
        let values = size.part.values as f64;
        let at_work = float(size.part.blocks.clamp(1, counts.blocks_at_work));
        let bytes = |values: f64| (FLOAT * values) as u64;
        Self {
            weights,
            optimizer: bytes(size.optimizer_state * values),
            gradients: bytes(counts.gradients_at_turn * values),
            activations: bytes(tokens * kept + tokens_at_work * at_work * work),
            logits: bytes(copies * supervised * float(configuration.vocab_size)),
            update: bytes(counts.update * values),
        }
    }

    /// The most that MLX is predicted to hold.
    pub fn peak(self) -> u64 {
        self.weights.saturating_add(self.beyond_the_model())
    }

    /// The same without the loaded model.
    pub fn beyond_the_model(self) -> u64 {
        let backward = self
            .gradients
            .saturating_add(self.activations)
            .saturating_add(self.logits);
        self.optimizer.saturating_add(backward.max(self.update))
    }
}

/// The part of a batch of `size` that training has room for in `available` bytes beyond the loaded model.
pub fn fitting_batch(configuration: &ModelConfiguration, size: TrainingSize, available: u64) -> FittingBatch {
    let fits = |size: TrainingSize| TrainingMemory::predict(configuration, 0, size).beyond_the_model() <= available;
    FittingBatch {
        rows: largest(size.batch_size, |batch_size| fits(TrainingSize { batch_size, ..size })),
        tokens: largest(size.tokens, |tokens| {
            fits(TrainingSize {
                batch_size: 1,
                tokens,
                ..size
            })
        }),
    }
}

/// The largest number up to `limit` that fits, where every smaller one fits too; 0 when none does.
fn largest(limit: usize, fits: impl Fn(usize) -> bool) -> usize {
    let (mut fitting, mut candidates) = (0, limit);
    while fitting < candidates {
        let middle = candidates - (candidates - fitting) / 2;
        if fits(middle) {
            fitting = middle;
        } else {
            candidates = middle - 1;
        }
    }
    fitting
}

#[cfg(test)]
mod tests {
    use super::largest;
    use rstest::rstest;

    #[rstest]
    #[case(0, 7, 0)]
    #[case(10, 0, 0)]
    #[case(10, 1, 1)]
    #[case(10, 7, 7)]
    #[case(10, 10, 10)]
    #[case(10, 99, 10)]
    fn the_largest_number_that_fits_is_found(#[case] limit: usize, #[case] room: usize, #[case] expected: usize) {
        assert_eq!(largest(limit, |number| number <= room), expected);
    }
}
