//! Where a server listens.

use std::fmt;
use std::net::IpAddr;

use ureq::http::Uri;

use crate::compare::{Failure, FailureKind};

/// The address of a server, without a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::compare) struct Address {
    base: String,
    port: u16,
    is_local: bool,
}

impl Address {
    /// A port of this machine.
    pub(in crate::compare) fn local(port: u16) -> Self {
        Self {
            base: format!("http://127.0.0.1:{port}"),
            port,
            is_local: true,
        }
    }

    /// Reads `http://HOST:PORT`, with or without `/v1`.
    ///
    /// # Errors
    /// It is no such address.
    pub(in crate::compare) fn read(text: &str) -> Result<Self, Failure> {
        let wrong = || {
            Failure::of(FailureKind::Unreachable, format!("`{text}` is no address of a server"))
                .with_hint("write it like `http://127.0.0.1:8080`")
        };
        let trimmed = text.trim_end_matches('/');
        let base = trimmed.strip_suffix("/v1").unwrap_or(trimmed);
        let uri: Uri = base.parse().map_err(|_| wrong())?;
        let usual_port = match uri.scheme_str() {
            Some("http") => 80,
            Some("https") => 443,
            _ => return Err(wrong()),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
        Ok(Self {
            base: base.to_owned(),
            port: uri.port_u16().unwrap_or(usual_port),
            is_local: is_loopback(host),
        })
    }

    /// The whole address of `path`, which begins with a slash.
    pub(super) fn of(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// The port that it listens at.
    pub(in crate::compare) fn port(&self) -> u16 {
        self.port
    }

    /// Whether it is this machine by a name that no proxy may be asked for.
    pub(in crate::compare) fn is_local(&self) -> bool {
        self.is_local
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.base)
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::Address;

    #[test]
    fn an_address_is_read_with_and_without_v1() {
        for text in [
            "http://localhost:1234",
            "http://localhost:1234/",
            "http://localhost:1234/v1/",
        ] {
            let address = Address::read(text).unwrap();
            assert_eq!(address.of("/health"), "http://localhost:1234/health");
            assert_eq!((address.port(), address.is_local()), (1234, true));
        }
    }

    #[test]
    fn only_this_machine_is_local() {
        for (text, is_local) in [
            ("http://127.0.0.5:1", true),
            ("http://[::1]:1", true),
            ("https://example.org", false),
            ("http://192.168.0.2:8080", false),
        ] {
            assert_eq!(Address::read(text).unwrap().is_local(), is_local, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "localhost", "ftp://localhost", "http://", "not an address"] {
            assert!(Address::read(text).is_err(), "{text}");
        }
    }
}
