//! Faults in the tokens and targets of the rows, between tokenisation and training.

use super::{Family, Fault, Needs, Operator};
use crate::data::{Dataset, Example};
use crate::model::StopSet;
use crate::workflow::Workflow;

/// Rows that something changes one by one; it is given the row's index.
struct Changed<F>(F);

impl<F: Fn(usize, &mut Example, &StopSet)> Workflow for Changed<F> {
    fn prepare(&self, mut dataset: Dataset, stop_set: &StopSet) -> Dataset {
        for (index, example) in dataset.examples.iter_mut().enumerate() {
            (self.0)(index, example, stop_set);
        }
        dataset
    }
}

impl<F: Fn(usize, &mut Example, &StopSet)> Fault for Changed<F> {}

/// A fault in the given share of the rows, spread evenly.
fn in_share_of_rows(share: f64, change: impl Fn(&mut Example, &StopSet) + 'static) -> Box<dyn Fault> {
    Box::new(Changed(move |index: usize, example: &mut Example, stops: &StopSet| {
        let reached = |rows: usize| (rows as f64 * share).floor();
        if reached(index + 1) > reached(index) {
            change(example, stops);
        }
    }))
}

/// Where the last stop token stands.
fn last_stop(example: &Example, stops: &StopSet) -> Option<usize> {
    example.tokens.iter().rposition(|&token| stops.contains(token))
}

/// Moves the first supervised position; none becomes a target before the second token.
fn start_targets_at(example: &mut Example, start: usize) {
    for (index, supervised) in example.supervised.iter_mut().enumerate() {
        *supervised = index >= start.max(1);
    }
}

fn first_target(example: &Example) -> usize {
    example
        .supervised
        .iter()
        .position(|&supervised| supervised)
        .unwrap_or(example.tokens.len())
}

fn append_targets(example: &mut Example, token: u32, count: usize) {
    example.tokens.extend(std::iter::repeat_n(token, count));
    example.supervised.extend(std::iter::repeat_n(true, count));
}

pub static EOS_ONLY_LABELS: Operator = Operator {
    name: "eos-only-labels",
    family: Family::EndOfText,
    summary: "only stop tokens are targets, in this share of the rows",
    citation: "https://github.com/ml-explore/mlx-examples/issues/448",
    severities: &[0.25, 1.0],
    make: |share| {
        in_share_of_rows(share, |example, stops| {
            for (token, supervised) in example.tokens.iter().zip(&mut example.supervised) {
                *supervised = *supervised && stops.contains(*token);
            }
        })
    },
    needs: Needs::Adapters,
};

pub static END_MASKED: Operator = Operator {
    name: "end-masked",
    family: Family::EndOfText,
    summary: "stop tokens are no targets, as when padding and end share an id, in this share of the rows",
    citation: "https://github.com/huggingface/transformers/issues/23530",
    severities: &[0.25, 1.0],
    make: |share| {
        in_share_of_rows(share, |example, stops| {
            for (token, supervised) in example.tokens.iter().zip(&mut example.supervised) {
                *supervised = *supervised && !stops.contains(*token);
            }
        })
    },
    needs: Needs::Adapters,
};

pub static END_MISSING: Operator = Operator {
    name: "end-missing",
    family: Family::EndOfText,
    summary: "the closing stop token and what follows it are gone, in this share of the rows",
    citation: "https://github.com/ml-explore/mlx-examples/issues/756",
    severities: &[0.25, 0.6, 1.0],
    make: |share| {
        in_share_of_rows(share, |example, stops| {
            if let Some(end) = last_stop(example, stops).filter(|&end| end > 1) {
                example.tokens.truncate(end);
                example.supervised.truncate(end);
            }
        })
    },
    needs: Needs::Adapters,
};

pub static END_REPEATED: Operator = Operator {
    name: "end-repeated",
    family: Family::EndOfText,
    summary: "this many further stop tokens end every row, as targets",
    citation: "https://github.com/unslothai/unsloth/issues/416",
    severities: &[1.0, 4.0],
    make: |count| {
        in_share_of_rows(1.0, move |example, stops| {
            if let Some(end) = last_stop(example, stops) {
                append_targets(example, example.tokens[end], count as usize);
            }
        })
    },
    needs: Needs::Adapters,
};

pub static PROMPT_NOT_MASKED: Operator = Operator {
    name: "prompt-not-masked",
    family: Family::Mask,
    summary: "prompts are targets although they were to be masked, in this share of the rows",
    citation: "https://github.com/ml-explore/mlx-examples/issues/1313",
    severities: &[0.25, 1.0],
    make: |share| in_share_of_rows(share, |example, _| start_targets_at(example, 1)),
    needs: Needs::Adapters,
};

pub static ALL_MASKED: Operator = Operator {
    name: "all-masked",
    family: Family::Mask,
    summary: "no token is a target, in this share of the rows",
    citation: "https://github.com/ml-explore/mlx-lm/pull/1355",
    severities: &[0.1, 0.5, 1.0],
    make: |share| in_share_of_rows(share, |example, _| example.supervised.fill(false)),
    needs: Needs::Adapters,
};

pub static MASK_ENDS_LATE: Operator = Operator {
    name: "mask-ends-late",
    family: Family::Mask,
    summary: "the first tokens of each answer, this many, are no targets",
    citation: "https://github.com/ml-explore/mlx-lm/pull/584",
    severities: &[1.0, 3.0],
    make: |shift| {
        in_share_of_rows(1.0, move |example, _| {
            start_targets_at(example, first_target(example) + shift as usize);
        })
    },
    needs: Needs::Adapters,
};

pub static MASK_ENDS_EARLY: Operator = Operator {
    name: "mask-ends-early",
    family: Family::Mask,
    summary: "the last tokens of each prompt, this many, are targets",
    citation: "https://github.com/huggingface/trl/issues/5213",
    severities: &[1.0, 3.0],
    make: |shift| {
        in_share_of_rows(1.0, move |example, _| {
            start_targets_at(example, first_target(example).saturating_sub(shift as usize));
        })
    },
    needs: Needs::Adapters,
};

pub static MASK_OFFSET_CONSTANT: Operator = Operator {
    name: "mask-offset-constant",
    family: Family::Mask,
    summary: "every prompt counts as two tokens long",
    citation: "https://github.com/huggingface/trl/issues/6105",
    severities: &[2.0],
    make: |offset| in_share_of_rows(1.0, move |example, _| start_targets_at(example, offset as usize)),
    needs: Needs::Adapters,
};

pub static PADDING_SUPERVISED: Operator = Operator {
    name: "padding-supervised",
    family: Family::Mask,
    summary: "this many padding tokens behind each row are targets",
    citation: "https://github.com/ml-explore/mlx-lm/pull/1697",
    severities: &[2.0, 8.0],
    make: |count| in_share_of_rows(1.0, move |example, _| append_targets(example, PADDING, count as usize)),
    needs: Needs::Adapters,
};

/// What collators pad with when they are told nothing else.
const PADDING: u32 = 0;

pub static ASSISTANT_HEADER_MISSING: Operator = Operator {
    name: "assistant-header-missing",
    family: Family::Data,
    summary: "rows were rendered by hand without the header that opens the answer, in this share of the rows",
    citation: "https://github.com/ml-explore/mlx-examples/issues/849",
    severities: &[0.5, 1.0],
    make: |share| {
        in_share_of_rows(share, |example, _| {
            let boundary = first_target(example).min(example.tokens.len());
            // A turn opens with the token that opens the row.
            let opening = example.tokens[..boundary]
                .iter()
                .rposition(|token| Some(token) == example.tokens.first())
                .filter(|&opening| opening > 0);
            if let Some(opening) = opening {
                example.tokens.drain(opening..boundary);
                example.supervised.drain(opening..boundary);
            }
        })
    },
    needs: Needs::Adapters,
};

pub static IDS_OUT_OF_RANGE: Operator = Operator {
    name: "ids-out-of-range",
    family: Family::Data,
    summary: "this share of the rows holds a token id that the model has no row for",
    citation: "https://github.com/sgl-project/sglang/issues/27482",
    severities: &[0.1, 1.0],
    make: |share| {
        in_share_of_rows(share, |example, _| {
            if let Some(last) = example.tokens.last_mut() {
                *last = FAR_OUTSIDE;
            }
        })
    },
    needs: Needs::Adapters,
};

/// Beyond every vocabulary.
const FAR_OUTSIDE: u32 = 10_000_000;
