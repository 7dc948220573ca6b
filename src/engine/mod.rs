//! Generation: the cache of keys and values, and greedy decoding.

mod cache;
mod generate;

pub use cache::{CachePrecision, LayerCache, PrefixCache, PrefixStatistics, SequenceCache};
pub use generate::{DecodeLimits, Decoded, decode_greedily};
