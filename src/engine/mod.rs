//! Generation: the cache of keys and values, and greedy decoding.

mod cache;
mod generate;

pub use cache::{caches, KeyValueCache};
pub use generate::{decode_greedily, DecodeLimits, Decoded};
