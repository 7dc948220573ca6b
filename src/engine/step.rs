//! One pass of the model over the tokens of several sequences.

use std::collections::BTreeMap;
use std::rc::Rc;

use mlx_rs::error::{Exception, Result};
use mlx_rs::{Array, Dtype};

use super::sequence::Sequence;
use super::{RequestId, StepPlan};
use crate::model::CausalModel;
use crate::readback::vector;

/// Tokens that one sequence has in a step.
struct Part {
    id: RequestId,
    start: usize,
    end: usize,
    /// Whether the last token's logits choose the next one.
    continues: bool,
}

/// The logits that follow the last token of a sequence, one for each token of the vocabulary.
pub(super) struct NextLogits {
    pub(super) id: RequestId,
    pub(super) logits: Vec<f32>,
}

/// Computes a step: the keys and values of its tokens, and the logits of every sequence that gets a token.
///
/// Sequences of one adapter share a pass; `models` holds the base and what each adapter makes of it.
pub(super) fn compute(
    plan: &StepPlan,
    models: &BTreeMap<Option<Rc<str>>, CausalModel>,
    sequences: &mut BTreeMap<RequestId, Sequence>,
) -> Result<Vec<NextLogits>> {
    let mut passes: BTreeMap<Option<Rc<str>>, Vec<Part>> = BTreeMap::new();
    for part in parts(plan, sequences) {
        let Some(sequence) = sequences.get(&part.id) else {
            continue;
        };
        passes.entry(sequence.adapter.clone()).or_default().push(part);
    }
    let mut next = Vec::new();
    for (adapter, parts) in passes {
        let model = models
            .get(&adapter)
            .ok_or_else(|| Exception::custom("a sequence asks for an adapter that is not there"))?;
        pass(model, &parts, sequences, &mut next)?;
    }
    Ok(next)
}

/// Those that decode first: they have one token each and are computed together.
fn parts(plan: &StepPlan, sequences: &BTreeMap<RequestId, Sequence>) -> Vec<Part> {
    let decode = plan.decode.iter().filter_map(|id| {
        let end = sequences.get(id)?.tokens.len();
        Some(Part {
            id: *id,
            start: end - 1,
            end,
            continues: true,
        })
    });
    let prefill = plan.prefill.iter().map(|chunk| Part {
        id: chunk.id,
        start: chunk.start,
        end: chunk.end,
        continues: chunk.is_last,
    });
    decode.chain(prefill).collect()
}

fn pass(
    model: &CausalModel,
    parts: &[Part],
    sequences: &mut BTreeMap<RequestId, Sequence>,
    next: &mut Vec<NextLogits>,
) -> Result<()> {
    let mut tokens = Vec::new();
    let mut last_rows = Vec::new();
    for part in parts {
        let sequence = &sequences[&part.id];
        tokens.extend(sequence.tokens[part.start..part.end].iter().map(|&token| token as i32));
        if part.continues {
            last_rows.push(tokens.len() as i32 - 1);
        }
    }
    let row = Array::from_slice(&tokens, &[1, tokens.len() as i32]);
    let mut members: BTreeMap<RequestId, &mut Sequence> = sequences.iter_mut().map(|(id, own)| (*id, own)).collect();
    let mut taken = Vec::with_capacity(parts.len());
    for part in parts {
        let sequence = members.remove(&part.id);
        taken.push(sequence.ok_or_else(|| Exception::custom("a sequence has two parts in one step"))?);
    }
    let continued = taken.iter_mut().zip(parts);
    let continued = continued.map(|(sequence, part)| sequence.cache.continued((part.end - part.start) as i32));
    let hidden = model.hidden_states_of_sequences(&row, continued.collect())?;
    let unread = taken.iter().zip(parts).filter(|(_, part)| !part.continues);
    let mut computed: Vec<Array> = unread
        .flat_map(|(sequence, _)| sequence.cache.arrays().cloned())
        .collect();
    if last_rows.is_empty() {
        return mlx_rs::transforms::eval(&computed);
    }
    let rows = Array::from_slice(&last_rows, &[last_rows.len() as i32]);
    let hidden = hidden.reshape(&[-1, hidden.dim(-1)])?.take_axis(rows, 0)?;
    let logits = model.output(&hidden)?.as_dtype(Dtype::Float32)?;
    computed.push(logits.clone());
    mlx_rs::transforms::eval(&computed)?;
    let vocabulary = logits.dim(-1) as usize;
    let values = vector::<f32>(&logits)?;
    let continuing = parts.iter().filter(|part| part.continues);
    next.extend(
        continuing
            .zip(values.chunks(vocabulary))
            .map(|(part, logits)| NextLogits {
                id: part.id,
                logits: logits.to_vec(),
            }),
    );
    Ok(())
}
