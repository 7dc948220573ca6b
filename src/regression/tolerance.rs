//! How far each kind of measurement may move between two runs of the same thing.

/// Room for one number: `absolute` plus `relative` times the larger of the two magnitudes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slack {
    /// In the unit of the measurement.
    pub absolute: f64,
    /// A share of the measurement.
    pub relative: f64,
}

impl Slack {
    const fn new(absolute: f64, relative: f64) -> Self {
        Self { absolute, relative }
    }

    /// How far two numbers may be apart.
    pub fn allowed(self, stored: f64, now: f64) -> f64 {
        self.absolute + self.relative * stored.abs().max(now.abs())
    }
}

/// How far a measurement may move.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Tolerance {
    /// It is not compared.
    Unlimited,
    /// It may not move at all.
    Exact,
    /// It may move by what another order of summation makes of it.
    Close {
        /// When both runs compute in float32.
        float32: Slack,
        /// When one of them computes in 16 bits.
        sixteen_bits: Slack,
    },
}

/// Measurements of one kind.
#[derive(Debug, Clone, Copy)]
pub struct Class {
    /// The kind, in the plural.
    pub name: &'static str,
    /// Its fields by the last keys of their paths, for example `steps/loss`; a field that holds others stands for all.
    pub fields: &'static [&'static str],
    /// How far they may move.
    pub tolerance: Tolerance,
    /// Why so far and no further.
    pub reason: &'static str,
}

/// What no other class names.
const EXACT: Class = Class {
    name: "counts, names and tokens",
    fields: &[],
    tolerance: Tolerance::Exact,
    reason: "Counts, names, texts and greedy answers do not depend on rounding, except where two tokens are as likely \
             to the last bits; a run that is repeated gives the same.",
};

/// Every class that is not exact, the first that fits counts.
///
/// Measured for float32: on one core instead of two, batches are not halved and sums take another order, which moved no
/// figure of ten steps of SmolLM2-135M by more than a fiftieth of its slack, and no answer at all.
pub static CLASSES: &[Class] = &[
    Class {
        name: "times, memory, machine and paths",
        fields: &[
            "schema_version",
            "environment",
            "settings/model",
            "settings/data",
            "settings/prompts",
            "memory",
            "costs",
            "seconds",
            "load_seconds",
            "tokens_per_second",
            "active_memory",
            "peak_memory",
            "skipped/reason",
            "crashed/error",
            "refusal/headline",
            "refusal/error",
        ],
        tolerance: Tolerance::Unlimited,
        reason: "They belong to the machine and the moment, not to the training; errors and reasons quote them.",
    },
    Class {
        name: "several processes",
        fields: &["ranks"],
        tolerance: Tolerance::Unlimited,
        reason: "What each process does is judged by rules: sums over processes have an order of their own, and how many train is no \
                 property of the training.",
    },
    Class {
        name: "another backend",
        fields: &["cross_check"],
        tolerance: Tolerance::Unlimited,
        reason: "How far the two are apart is judged by a rule, and its releases belong to the machine.",
    },
    Class {
        name: "losses",
        fields: &[
            "steps/loss",
            "validation_before",
            "validation_after",
            "validation_between/loss",
            "before/supervised",
            "before/unsupervised",
            "after/supervised",
            "after/unsupervised",
            "pairing/own",
            "pairing/other",
            "pairing/standard_error",
            "pairing/order_gain",
            "loss_check/reported",
            "loss_check/readings/loss",
            "reference_nll",
            "held_out_rise",
        ],
        tolerance: Tolerance::Close {
            float32: Slack::new(1e-3, 1e-3),
            sixteen_bits: Slack::new(2e-2, 2e-2),
        },
        reason: "Another order of summation moves a float32 loss in its sixth digit, and ten steps of Adam, which \
                 divides by small moments, spread that by two digits; bfloat16 keeps two to three digits.",
    },
    Class {
        name: "log-odds and ranks",
        fields: &["end_log_odds", "elsewhere_log_odds", "end_rank"],
        tolerance: Tolerance::Close {
            float32: Slack::new(1e-2, 1e-2),
            sixteen_bits: Slack::new(2e-1, 5e-2),
        },
        reason: "Differences of single logits, which are several times less steady than their mean; a rank moves by a \
                 whole place in one of many rows.",
    },
    Class {
        name: "gradient norms and slopes",
        fields: &[
            "gradient_norm",
            "reported/predicted",
            "reported/measured",
            "since_previous/predicted",
            "since_previous/measured",
            "gradient_check/resolution",
        ],
        tolerance: Tolerance::Close {
            float32: Slack::new(1e-3, 1e-2),
            sixteen_bits: Slack::new(1e-2, 1e-1),
        },
        reason: "Gradients move ten times further than losses, and finite differences add the rounding of two losses.",
    },
    Class {
        name: "sizes of parameters and updates",
        fields: &[
            "norm_before",
            "norm_after",
            "norm_difference",
            "updates/relative",
            "updates/quantization_steps",
            "stop_rows/norm_ratio",
            "stop_rows/cosine",
            "fuse/kept",
        ],
        tolerance: Tolerance::Close {
            float32: Slack::new(1e-4, 1e-2),
            sixteen_bits: Slack::new(1e-3, 5e-2),
        },
        reason: "Adam's first steps have the size of the learning rate whatever the gradient, but a gradient near zero \
                 can change its sign by rounding.",
    },
    Class {
        name: "values that changed",
        fields: &["changes/changed_values"],
        tolerance: Tolerance::Close {
            float32: Slack::new(1.0, 1e-2),
            sixteen_bits: Slack::new(1.0, 5e-2),
        },
        reason: "Single updates are so small that rounding decides whether the value differs at all.",
    },
    Class {
        name: "logit differences",
        fields: &[
            "difference_from_trained",
            "difference_from_base",
            "difference_from_live",
            "trained_from_base",
            "reload/live_from_base",
            "repeat_difference",
            "identity_difference",
        ],
        tolerance: Tolerance::Close {
            float32: Slack::new(1e-3, 1e-2),
            sixteen_bits: Slack::new(5e-2, 5e-2),
        },
        reason: "The largest of thousands of differences: what must be equal keeps the slack of `logit_tolerance`, \
                 what training changed moves with the updates.",
    },
    Class {
        name: "divergences",
        fields: &[
            "divergence_from_live",
            "divergence/live_from_base",
            "divergence/live_from_reloaded",
            "divergence/held_out",
        ],
        tolerance: Tolerance::Close {
            float32: Slack::new(1e-4, 2e-2),
            sixteen_bits: Slack::new(1e-3, 1e-1),
        },
        reason: "They grow with the square of the update, so they move twice as far.",
    },
    Class {
        name: "errors of the optimizer's readings",
        fields: &[
            "optimizer_check/readings/error",
            "optimizer_check/factor",
            "optimizer_check/weight_decay",
            "optimizer_check/realised_share",
        ],
        tolerance: Tolerance::Close {
            float32: Slack::new(1e-2, 2e-2),
            sixteen_bits: Slack::new(5e-2, 1e-1),
        },
        reason: "Fitted to a sample of coordinates, some of which have gradients near zero.",
    },
    Class {
        name: "fitted powers of ten",
        fields: &["optimizer_check/epsilon"],
        tolerance: Tolerance::Close {
            float32: Slack::new(0.0, 0.9),
            sixteen_bits: Slack::new(0.0, 0.9),
        },
        reason: "The neighbouring power may fit as well, the one after it does not.",
    },
    Class {
        name: "shares and scores",
        fields: &[
            "offset_agreement",
            "distinct_1",
            "distinct_2",
            "distinct_4",
            "looped_share",
            "compression",
            "voice",
        ],
        tolerance: Tolerance::Close {
            float32: Slack::new(2e-2, 0.0),
            sixteen_bits: Slack::new(5e-2, 0.0),
        },
        reason: "One token of fifty where two are nearly as likely; answers themselves are compared token for token.",
    },
    Class {
        name: "settings as the run used them",
        fields: &[
            "steps/learning_rate",
            "learning_rate_sum",
            "adapter/scales",
            "adapter/dropouts",
            "configured_weight_decay",
        ],
        tolerance: Tolerance::Close {
            float32: Slack::new(0.0, 1e-9),
            sixteen_bits: Slack::new(0.0, 1e-9),
        },
        reason: "Computed in double precision from the settings alone, so only the last digits are free.",
    },
];

/// The class of the field at `path`, the keys that lead to it without list indices.
pub fn class_of(path: &[&str]) -> &'static Class {
    CLASSES
        .iter()
        .find(|class| class.fields.iter().any(|field| leads_through(path, field)))
        .unwrap_or(&EXACT)
}

fn leads_through(path: &[&str], field: &str) -> bool {
    let keys: Vec<&str> = field.split('/').collect();
    path.windows(keys.len()).any(|part| part == keys)
}
