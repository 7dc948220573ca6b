//! The key to a server's API.

use std::fmt;

/// A key, which is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::compare) struct ApiKey(String);

impl ApiKey {
    /// A key.
    pub(in crate::compare) fn new(key: String) -> Self {
        Self(key)
    }

    /// The value of the header `Authorization` (RFC 6750).
    pub(super) fn authorization(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ApiKey(..)")
    }
}
