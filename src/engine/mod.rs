//! Generation: the cache of keys and values, and greedy decoding.

mod cache;
mod generate;

pub use cache::{KeyValueCache, caches};
pub use generate::{DecodeLimits, Decoded, decode_greedily};
