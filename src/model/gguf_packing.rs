//! GGUF's plain 4- and 8-bit blocks in MLX's affine packing, which can hold them exactly.
//!
//! Block layouts: `ggml-common.h` of ggml. A block has 32 values `d * (q + offset)` or `d * q + m`; MLX's group of 32 has
//! `scale * q + bias`.

use super::{GgufTensorType, Packing};

/// Values in a block, and so in a group.
const GROUP: usize = 32;

/// A matrix in MLX's affine packing, rows one after another.
#[derive(Debug, PartialEq)]
pub struct PackedValues {
    /// Packed words, lowest bits first.
    pub words: Vec<u32>,
    /// One per group.
    pub scales: Vec<f32>,
    /// One per group.
    pub biases: Vec<f32>,
    /// Group size and bits.
    pub packing: Packing,
}

/// The packing that holds `tensor_type` exactly; `None` when there is none.
pub fn packing(tensor_type: GgufTensorType) -> Option<Packing> {
    let bits = match tensor_type {
        GgufTensorType::Q4_0 | GgufTensorType::Q4_1 => 4,
        GgufTensorType::Q8_0 => 8,
        _ => return None,
    };
    Some(Packing::affine(GROUP as i32, bits))
}

/// Packs whole blocks of `tensor_type`; `None` when there is no exact packing.
pub fn pack(tensor_type: GgufTensorType, bytes: &[u8]) -> Option<PackedValues> {
    let packing = packing(tensor_type)?;
    let mut packed = PackedValues {
        words: Vec::with_capacity(bytes.len() / 4),
        scales: Vec::new(),
        biases: Vec::new(),
        packing,
    };
    for block in bytes.chunks_exact(tensor_type.block_bytes()) {
        let scale = half(block, 0);
        let (bias, quants) = match tensor_type {
            GgufTensorType::Q4_0 => (-8.0 * scale, &block[2..]),
            GgufTensorType::Q4_1 => (half(block, 2), &block[4..]),
            _ => (-128.0 * scale, &block[2..]),
        };
        packed.scales.push(scale);
        packed.biases.push(bias);
        if packing.bits == 4 {
            pack_nibbles(quants, &mut packed.words);
        } else {
            pack_signed_bytes(quants, &mut packed.words);
        }
    }
    Some(packed)
}

fn half(block: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Sixteen bytes whose low nibbles are values 0 to 15 and whose high nibbles are values 16 to 31.
fn pack_nibbles(quants: &[u8], words: &mut Vec<u32>) {
    let value = |index: usize| {
        u32::from(if index < GROUP / 2 {
            quants[index] & 15
        } else {
            quants[index - GROUP / 2] >> 4
        })
    };
    words.extend(
        (0..GROUP)
            .step_by(8)
            .map(|start| (0..8).map(|offset| value(start + offset) << (4 * offset)).sum::<u32>()),
    );
}

/// Signed bytes, moved to start at zero.
fn pack_signed_bytes(quants: &[u8], words: &mut Vec<u32>) {
    // Flipping the sign bit adds 128 to a two's complement byte.
    words.extend(
        quants
            .chunks_exact(4)
            .map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]) ^ 0x8080_8080),
    );
}
