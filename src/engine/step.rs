//! One pass of the model over the tokens of several sequences.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use mlx_rs::error::{Exception, Result};
use mlx_rs::{Array, Dtype};

use super::models::{Models, Tenancy};
use super::sequence::Sequence;
use super::{RequestId, StepPlan};
use crate::lanes::Lanes;
use crate::model::CausalModel;
use crate::readback::vector;

/// Tokens of a pass from which on two lanes are faster than one, which reads the weights once.
const TOKENS_FOR_LANES: usize = 64;

/// Tokens that one sequence has in a step.
struct Part {
    id: RequestId,
    adapter: Option<Rc<str>>,
    start: usize,
    end: usize,
    /// Whether the last token's logits choose the next one.
    continues: bool,
}

/// The logits that follow the last tokens of some sequences.
pub(super) struct NextLogits {
    sequences: Vec<RequestId>,
    /// Row by row, one value for each token of the vocabulary.
    values: Vec<f32>,
    vocabulary: usize,
}

impl NextLogits {
    pub(super) fn rows(&self) -> impl Iterator<Item = (RequestId, &[f32])> {
        self.sequences.iter().copied().zip(self.values.chunks(self.vocabulary))
    }
}

/// Computes a step: the keys and values of its tokens, and the logits of every sequence that gets a token.
///
/// Sequences share a pass, whatever their adapters, but for those whose adapters change more than linear layers.
pub(super) fn compute(
    plan: &StepPlan,
    lanes: &Lanes,
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
            pass(lanes, models, &dealt_out(parts, lanes.count()), sequences, &mut next)?;
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

/// Computes what each of `lanes` has to, at the same time; a sequence may have its first tokens in one and the rest in the
/// next.
fn pass(
    lanes: &Lanes,
    models: &mut Models,
    parts: &[Vec<Part>],
    sequences: &mut BTreeMap<RequestId, Sequence>,
    next: &mut Vec<NextLogits>,
) -> Result<()> {
    let _cores = lanes.share_cores_among(parts.len());
    let passes = RefCell::new((models, &mut *sequences));
    let logits = lanes.each(parts, |parts| {
        let (models, sequences) = &mut *passes.borrow_mut();
        begin(models.for_pass(tenants(parts))?, parts, sequences)
    })?;
    // Where no logits depend on them, keys and values have to be asked for.
    let read = parts.iter().flatten().filter(|part| !part.continues);
    let read = read.filter_map(|part| sequences.get(&part.id));
    let mut computed: Vec<Array> = read.flat_map(|sequence| sequence.cache.arrays().cloned()).collect();
    computed.extend(logits.iter().flatten().cloned());
    mlx_rs::transforms::eval(&computed)?;
    for (parts, logits) in parts.iter().zip(&logits) {
        let Some(logits) = logits else { continue };
        let continuing = parts.iter().filter(|part| part.continues);
        next.push(NextLogits {
            sequences: continuing.map(|part| part.id).collect(),
            values: vector(logits)?,
            vocabulary: logits.dim(-1) as usize,
        });
    }
    Ok(())
}

/// The logits `[sequences, vocabulary]` of those of `parts` that get a token, not computed yet; `None` where none does.
fn begin(model: &CausalModel, parts: &[Part], sequences: &mut BTreeMap<RequestId, Sequence>) -> Result<Option<Array>> {
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
    let mut continued = Vec::with_capacity(parts.len());
    for part in parts {
        let sequence = members.remove(&part.id);
        let sequence = sequence.ok_or_else(|| Exception::custom("a sequence has two parts in one pass"))?;
        continued.push(sequence.cache.continued((part.end - part.start) as i32));
    }
    let hidden = model.hidden_states_of_sequences(&row, continued)?;
    if last_rows.is_empty() {
        return Ok(None);
    }
    let rows = Array::from_slice(&last_rows, &[last_rows.len() as i32]);
    let hidden = hidden.reshape(&[-1, hidden.dim(-1)])?.take_axis(rows, 0)?;
    model.output(&hidden)?.as_dtype(Dtype::Float32).map(Some)
}

/// `parts` dealt out to `lanes` so that each has about as many tokens, those of one sequence in order; a prompt may be cut
/// where one lane is full. Few tokens stay together: the weights would be read once for each lane.
fn dealt_out(parts: Vec<Part>, lanes: usize) -> Vec<Vec<Part>> {
    let tokens: usize = parts.iter().map(|part| part.end - part.start).sum();
    if lanes < 2 || tokens < TOKENS_FOR_LANES {
        return vec![parts];
    }
    let each = tokens.div_ceil(lanes);
    let mut dealt = Vec::with_capacity(lanes);
    let (mut lane, mut room) = (Vec::new(), each);
    for mut part in parts {
        while part.end - part.start > room {
            if room > 0 {
                let cut = part.start + room;
                lane.push(Part {
                    end: cut,
                    continues: false,
                    adapter: part.adapter.clone(),
                    ..part
                });
                part.start = cut;
            }
            dealt.push(std::mem::take(&mut lane));
            room = each;
        }
        room -= part.end - part.start;
        lane.push(part);
    }
    dealt.push(lane);
    dealt
}
