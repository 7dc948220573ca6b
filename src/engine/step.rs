//! One pass of the model over the tokens of several sequences.

use std::collections::BTreeMap;
use std::rc::Rc;

use mlx_rs::error::{Exception, Result};
use mlx_rs::{Array, Dtype};

use super::models::{Models, Tenancy};
use super::sequence::Sequence;
use super::{RequestId, StepPlan};
use crate::model::CausalModel;
use crate::readback::vector;

/// Tokens that one sequence has in a step.
struct Part {
    id: RequestId,
    adapter: Option<Rc<str>>,
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
/// Sequences share a pass, whatever their adapters, but for those whose adapters change more than linear layers.
pub(super) fn compute(
    plan: &StepPlan,
    models: &mut Models,
    sequences: &mut BTreeMap<RequestId, Sequence>,
) -> Result<Vec<NextLogits>> {
    let mut shared = Vec::new();
    let mut others: BTreeMap<Rc<str>, Vec<Part>> = BTreeMap::new();
    for part in parts(plan, sequences) {
        match &part.adapter {
            Some(name) if !models.shares(Some(name)) => others.entry(Rc::clone(name)).or_default().push(part),
            _ => shared.push(part),
        }
    }
    // The tokens of an adapter stand together; sorting keeps those that decode before those that read.
    shared.sort_by(|one, other| one.adapter.cmp(&other.adapter));
    let mut next = Vec::new();
    for parts in std::iter::once(shared).chain(others.into_values()) {
        if !parts.is_empty() {
            pass(models.for_pass(tenants(&parts))?, &parts, sequences, &mut next)?;
        }
    }
    Ok(next)
}

/// Whose tokens stand where in the pass of `parts`.
fn tenants(parts: &[Part]) -> Vec<Tenancy> {
    let mut tenants: Vec<Tenancy> = Vec::new();
    let mut end = 0;
    for part in parts {
        let start = end;
        end += (part.end - part.start) as i32;
        match tenants.last_mut() {
            Some((adapter, tokens)) if *adapter == part.adapter => tokens.end = end,
            _ => tenants.push((part.adapter.clone(), start..end)),
        }
    }
    tenants
}

/// Those that decode first: they have one token each and are computed together.
fn parts(plan: &StepPlan, sequences: &BTreeMap<RequestId, Sequence>) -> Vec<Part> {
    let decode = plan.decode.iter().filter_map(|id| {
        let sequence = sequences.get(id)?;
        let end = sequence.tokens.len();
        Some(Part {
            id: *id,
            adapter: sequence.adapter.clone(),
            start: end - 1,
            end,
            continues: true,
        })
    });
    let prefill = plan.prefill.iter().filter_map(|chunk| {
        Some(Part {
            id: chunk.id,
            adapter: sequences.get(&chunk.id)?.adapter.clone(),
            start: chunk.start,
            end: chunk.end,
            continues: chunk.is_last,
        })
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
