//! llama.cpp's tensor names in Hugging Face's naming, and the row order it gives to rotary projections.

use super::gguf_header::{GgufError, GgufHeader, GgufTensor};
use crate::evidence::Listing;

/// Frequency factors of Llama 3 rotary embeddings, `[head size / 2]` in F32; a constant of the model, not a parameter.
pub const ROPE_FREQUENCIES: &str = "rope_freqs.weight";

/// The Hugging Face name of a llama.cpp tensor, for example `model.layers.3.self_attn.q_proj.weight` for
/// `blk.3.attn_q.weight`; `None` when the llama, qwen2 and qwen3 architectures have no such tensor.
pub fn hugging_face_name(name: &str) -> Option<String> {
    match name {
        "token_embd.weight" => return Some("model.embed_tokens.weight".to_owned()),
        "output_norm.weight" => return Some("model.norm.weight".to_owned()),
        "output.weight" => return Some("lm_head.weight".to_owned()),
        _ => {}
    }
    let (block, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    // A number in its canonical form, so that no two names map to one.
    if block.parse::<u32>().ok()?.to_string() != block {
        return None;
    }
    let (module, parameter) = rest.rsplit_once('.')?;
    if !matches!(parameter, "weight" | "bias") {
        return None;
    }
    let module = match module {
        "attn_norm" => "input_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "ffn_norm" => "post_attention_layernorm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return None,
    };
    Some(format!("model.layers.{block}.{module}.{parameter}"))
}

/// Where each row of a Hugging Face `q_proj` or `k_proj` lies in a GGUF file of the `llama` architecture.
///
/// llama.cpp rotates neighbouring pairs of a head, Hugging Face the two halves, so its converter interleaves the halves
/// of every head. Row `i` of the Hugging Face matrix (weight or bias) is row `order[i]` of the file's. `heads` counts
/// the heads of that projection; files of `qwen2` and `qwen3` are not permuted.
///
/// Source: `LlamaModel.permute` in llama.cpp's `convert_hf_to_gguf.py`.
pub fn rotary_row_order(heads: usize, head_size: usize) -> Vec<usize> {
    let half = head_size / 2;
    (0..heads)
        .flat_map(|head| (0..2).flat_map(move |part| (0..half).map(move |pair| head * head_size + 2 * pair + part)))
        .collect()
}

impl GgufHeader {
    /// The model's tensors under their Hugging Face names, in the order of the file, [`ROPE_FREQUENCIES`] left out.
    ///
    /// # Errors
    /// [`GgufError::UnknownTensors`] with every tensor that has no Hugging Face name.
    pub fn hugging_face_tensors(&self) -> Result<Vec<(String, &GgufTensor)>, GgufError> {
        let mut named = Vec::with_capacity(self.tensors.len());
        let mut unknown = Vec::new();
        for tensor in self.tensors.iter().filter(|tensor| tensor.name != ROPE_FREQUENCIES) {
            match hugging_face_name(&tensor.name) {
                Some(name) => named.push((name, tensor)),
                None => unknown.push(tensor.name.clone()),
            }
        }
        if unknown.is_empty() {
            Ok(named)
        } else {
            Err(GgufError::UnknownTensors {
                path: self.path.clone(),
                names: unknown.into_iter().collect::<Listing>(),
            })
        }
    }
}
