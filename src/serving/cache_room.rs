//! How many tokens a machine has room for.

use mlx_rs::Dtype;

use crate::engine::CachePrecision;
use crate::model::ModelConfiguration;

/// The part of the free memory that keys and values may take: the rest is for the weights, which are not loaded yet, for
/// what a step computes, and for other programs.
const PART: u64 = 4;
/// Tokens beyond which more room serves few machines, and a mistake in a request costs much.
const MOST: u64 = 32_768;
/// Tokens that are always promised: a conversation needs some.
const LEAST: u64 = 1024;
/// Bytes of a scale and of a bias of packed values.
const SCALE_AND_BIAS: u64 = 8;

/// Bytes that the keys and values of one token take in all blocks of a model that computes in `dtype`.
pub fn cache_bytes_per_token(configuration: &ModelConfiguration, precision: CachePrecision, dtype: Dtype) -> u64 {
    let heads = configuration.num_key_value_heads as u64;
    let values = 2 * configuration.num_hidden_layers as u64 * heads * configuration.head_dim as u64;
    match precision {
        CachePrecision::Whole if dtype == Dtype::Float32 => values * 4,
        CachePrecision::Whole => values * 2,
        CachePrecision::Packed { group_size, bits } => {
            let groups = values / u64::from(group_size.unsigned_abs().max(1));
            values * u64::from(bits.unsigned_abs()) / 8 + groups * SCALE_AND_BIAS
        }
    }
}

/// Tokens whose keys and values fit into a part of `available` bytes of free memory.
pub fn cache_tokens(bytes_per_token: u64, available: u64) -> usize {
    let tokens = available / PART / bytes_per_token.max(1);
    // Within the bounds it is no more than 32,768.
    tokens.clamp(LEAST, MOST) as usize
}

#[cfg(test)]
mod tests {
    use super::cache_tokens;

    #[test]
    fn a_small_machine_has_room_for_less_and_a_large_one_for_no_more_than_is_useful() {
        // A 3B model in 16 bits: 28 blocks, 8 heads of 128, keys and values.
        let bytes = 28 * 2 * 8 * 128 * 2;
        assert_eq!(cache_tokens(bytes, 8 << 30), 18_724);
        assert_eq!(cache_tokens(bytes, 512 << 30), 32_768);
        assert_eq!(cache_tokens(bytes, 1 << 20), 1024);
    }
}
