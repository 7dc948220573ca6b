//! Turns the stored blocks of GGUF tensors into single-precision values.
//!
//! Layouts as in ggml (`ggml-common.h`, `dequantize_row_*` in `ggml-quants.c`); all numbers are little-endian and
//! products are made in ggml's order, so the results are the same bit for bit.

use half::{bf16, f16};
use rayon::prelude::*;
use thiserror::Error;

use super::gguf_header::GgufTensorType;

/// Values that one thread makes at a time: more than it costs to wake it.
const PART: usize = 1 << 16;

/// The bytes are not a whole number of blocks.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{tensor_type} data is not a whole number of blocks\n  found: {found} bytes\n  expected: a multiple of {block} bytes"
)]
pub struct BlockError {
    /// The type the bytes were read as.
    pub tensor_type: GgufTensorType,
    /// Bytes given.
    pub found: usize,
    /// Bytes of one block.
    pub block: usize,
}

/// All values of `bytes` in storage order.
///
/// # Errors
/// [`BlockError`] when `bytes` ends inside a block.
pub fn dequantize(tensor_type: GgufTensorType, bytes: &[u8]) -> Result<Vec<f32>, BlockError> {
    let mut values = vec![0.0; values_in(tensor_type, bytes)?];
    dequantize_into(tensor_type, bytes, &mut values);
    Ok(values)
}

/// How many values `bytes` hold.
///
/// # Errors
/// [`BlockError`] when `bytes` ends inside a block.
pub(super) fn values_in(tensor_type: GgufTensorType, bytes: &[u8]) -> Result<usize, BlockError> {
    let block = tensor_type.block_bytes();
    if !bytes.len().is_multiple_of(block) {
        return Err(BlockError {
            tensor_type,
            found: bytes.len(),
            block,
        });
    }
    Ok(bytes.len() / block * tensor_type.block_values())
}

/// Writes all values of `bytes`, [`values_in`] them, in storage order.
pub(super) fn dequantize_into(tensor_type: GgufTensorType, bytes: &[u8], values: &mut [f32]) {
    match tensor_type {
        GgufTensorType::F32 => each_block(bytes, values, |word, [value]| *value = f32::from_le_bytes(*word)),
        GgufTensorType::F16 => each_block(bytes, values, |word, [value]| {
            *value = f16::from_le_bytes(*word).to_f32();
        }),
        GgufTensorType::Bf16 => each_block(bytes, values, |word, [value]| {
            *value = bf16::from_le_bytes(*word).to_f32();
        }),
        GgufTensorType::Q4_0 => each_block(bytes, values, q4_0),
        GgufTensorType::Q4_1 => each_block(bytes, values, q4_1),
        GgufTensorType::Q8_0 => each_block(bytes, values, q8_0),
        GgufTensorType::Q4K => each_block(bytes, values, q4_k),
        GgufTensorType::Q6K => each_block(bytes, values, q6_k),
    }
}

/// Fills `values` block by block, on all cores where there are many.
fn each_block<const BYTES: usize, const VALUES: usize>(
    bytes: &[u8],
    values: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; VALUES]) + Sync,
) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (places, _) = values.as_chunks_mut::<VALUES>();
    let decode_part = |(places, blocks): (&mut [[f32; VALUES]], &[[u8; BYTES]])| {
        for (place, block) in places.iter_mut().zip(blocks) {
            decode(block, place);
        }
    };
    let part = PART / VALUES;
    if blocks.len() <= part {
        decode_part((places, blocks));
    } else {
        places
            .par_chunks_mut(part)
            .zip(blocks.par_chunks(part))
            .for_each(decode_part);
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn low(byte: u8) -> u8 {
    byte & 0x0f
}

fn high(byte: u8) -> u8 {
    byte >> 4
}

/// `scale: f16, quants: [u8; 16]`; the low nibbles are values 0 to 15, the high ones 16 to 31, each minus 8.
fn q4_0(block: &[u8; 18], values: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    let quants = &block[2..];
    let value = |quant: u8| (f32::from(quant) - 8.0) * scale;
    let (first, second) = values.split_at_mut(16);
    for ((first, second), &byte) in first.iter_mut().zip(second).zip(quants) {
        *first = value(low(byte));
        *second = value(high(byte));
    }
}

/// `scale: f16, minimum: f16, quants: [u8; 16]`; nibbles in the order of [`q4_0`].
fn q4_1(block: &[u8; 20], values: &mut [f32; 32]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let quants = &block[4..];
    let value = |quant: u8| f32::from(quant) * scale + minimum;
    let (first, second) = values.split_at_mut(16);
    for ((first, second), &byte) in first.iter_mut().zip(second).zip(quants) {
        *first = value(low(byte));
        *second = value(high(byte));
    }
}

/// `scale: f16, quants: [i8; 32]`.
fn q8_0(block: &[u8; 34], values: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    for (value, &byte) in values.iter_mut().zip(&block[2..]) {
        *value = f32::from(byte.cast_signed()) * scale;
    }
}

/// `scale: f16, minimum: f16, packed: [u8; 12], quants: [u8; 128]`: eight sub-blocks of 32 values, each with a 6-bit
/// scale and a 6-bit minimum in `packed`. Each run of 32 quant bytes holds two sub-blocks, low nibbles first.
fn q4_k(block: &[u8; 144], values: &mut [f32; 256]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let packed = &block[4..16];
    for (pair, quants) in block[16..].chunks_exact(32).enumerate() {
        for (sub_block, nibble) in [(2 * pair, low as fn(u8) -> u8), (2 * pair + 1, high)] {
            let (scale_bits, minimum_bits) = six_bit_pair(packed, sub_block);
            let sub_scale = scale * f32::from(scale_bits);
            let sub_minimum = minimum * f32::from(minimum_bits);
            let values = &mut values[32 * sub_block..][..32];
            for (value, &byte) in values.iter_mut().zip(quants) {
                *value = sub_scale * f32::from(nibble(byte)) - sub_minimum;
            }
        }
    }
}

/// The 6-bit scale and minimum of one of eight sub-blocks. The first four lie in the low 6 bits of bytes 0 to 7; the
/// others take 4 bits from bytes 8 to 11 and their upper 2 bits from the top of bytes 0 to 7.
fn six_bit_pair(packed: &[u8], sub_block: usize) -> (u8, u8) {
    if sub_block < 4 {
        (packed[sub_block] & 0x3f, packed[sub_block + 4] & 0x3f)
    } else {
        let shared = packed[sub_block + 4];
        (
            low(shared) | ((packed[sub_block - 4] >> 6) << 4),
            high(shared) | ((packed[sub_block] >> 6) << 4),
        )
    }
}

/// `low: [u8; 128], high: [u8; 64], scales: [i8; 16], scale: f16`: two halves of 128 values. In each half a value has 4
/// bits in `low` and 2 in `high`, minus 32; every 16 values share one 8-bit scale.
fn q6_k(block: &[u8; 210], values: &mut [f32; 256]) {
    let scale = half_at(block, 208);
    for part in 0..2 {
        let low_bits = &block[64 * part..64 * (part + 1)];
        let high_bits = &block[128 + 32 * part..128 + 32 * (part + 1)];
        let scales = &block[192 + 8 * part..192 + 8 * (part + 1)];
        for quarter in 0..4 {
            for index in 0..32 {
                let byte = low_bits[index + 32 * (quarter % 2)];
                let four = if quarter < 2 { low(byte) } else { high(byte) };
                let two = (high_bits[index] >> (2 * quarter)) & 0x03;
                let quant = f32::from(four | (two << 4)) - 32.0;
                let sub_scale = f32::from(scales[2 * quarter + index / 16].cast_signed());
                values[128 * part + 32 * quarter + index] = scale * sub_scale * quant;
            }
        }
    }
}
