//! The secret that requests bring.

use std::fmt;

use subtle::ConstantTimeEq;

/// A secret that is never printed, and compared in a time that does not tell how much of a guess was right.
#[derive(Clone)]
pub struct ApiKey(String);

impl ApiKey {
    /// The key, unless it is empty or could not stand in a header: visible ASCII only.
    pub fn new(key: &str) -> Option<Self> {
        let is_usable = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
        is_usable.then(|| Self(key.to_owned()))
    }

    /// Whether `authorization`, the value of that header, is `Bearer` and this key.
    pub(super) fn is_in(&self, authorization: &[u8]) -> bool {
        const SCHEME: &[u8] = b"bearer ";
        let (scheme, given) = authorization.split_at(authorization.len().min(SCHEME.len()));
        scheme.eq_ignore_ascii_case(SCHEME) && bool::from(given.ct_eq(self.0.as_bytes()))
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ApiKey(..)")
    }
}
