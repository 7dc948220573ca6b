//! The same work by PyTorch.

use serde::{Deserialize, Serialize};

/// What a comparison with PyTorch gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "kebab-case", deny_unknown_fields)]
pub enum PeerComparison {
    /// Nothing was compared.
    Skipped {
        /// One sentence without a final period.
        reason: String,
    },
}

/// Compares with PyTorch where it is installed.
pub fn compare_with_pytorch() -> PeerComparison {
    PeerComparison::Skipped {
        reason: "this version of the program does not run PyTorch beside itself".to_owned(),
    }
}
