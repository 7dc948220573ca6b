//! Keys and values of the tokens that sequences have had so far.

mod buffer;
mod layer;
mod prefix;
mod sequence;

pub use layer::{CachePrecision, LayerCache};
pub use prefix::PrefixCache;
pub use sequence::SequenceCache;
