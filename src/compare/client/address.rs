//! Where a server listens.

use std::fmt;
use std::net::IpAddr;

use ureq::http::Uri;

use crate::compare::{Failure, FailureKind};
use crate::excerpt::beginning;

/// What an address looks like.
const HINT: &str = "write it like `http://127.0.0.1:8080`";

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
    /// It is no such address; a name and a password in it are not shown.
    pub(in crate::compare) fn read(text: &str) -> Result<Self, Failure> {
        let wrong = |found: String| Failure::of(FailureKind::Unreachable, found).with_hint(HINT);
        let no_address = || wrong(format!("`{}` is no address of a server", beginning(text)));
        if text.contains('@') {
            return Err(wrong(
                "an address has a name or a password in it, or another `@`".to_owned(),
            ));
        }
        if text.contains(['?', '#']) {
            return Err(wrong(format!(
                "`{}` has a query or a fragment, and is no address of a server",
                beginning(text)
            )));
        }
        let trimmed = text.trim_end_matches('/');
        let base = trimmed.strip_suffix("/v1").unwrap_or(trimmed);
        let uri: Uri = base.parse().map_err(|_| no_address())?;
        let usual_port = match uri.scheme_str() {
            Some("http") => 80,
            Some("https") => 443,
            _ => return Err(no_address()),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(no_address)?;
        // The parser takes any digits, and tells a port that is none as absent.
        let named = uri
            .authority()
            .and_then(|authority| authority.as_str().strip_prefix(host))
            .unwrap_or("");
        let port = match (named, uri.port_u16()) {
            ("", _) => usual_port,
            (_, Some(port)) if port > 0 => port,
            _ => return Err(wrong(format!("`{}` has no port between 1 and 65535", beginning(text)))),
        };
        Ok(Self {
            base: base.to_owned(),
            port,
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
        for text in [
            "",
            "localhost",
            "ftp://localhost",
            "http://",
            "not an address",
            "http://127.0.0.1:99999",
            "http://127.0.0.1:0",
            "http://127.0.0.1:",
            "http://127.0.0.1:x",
            "http://[::1]:70000",
            "http://host/path?x=1",
            "http://host#y",
        ] {
            assert!(Address::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_password_in_an_address_is_refused_and_not_shown() {
        let failure = Address::read("http://user:secret@host:1").unwrap_err();
        assert!(!failure.reason.contains("secret"), "{failure}");
    }

    #[test]
    fn a_path_before_the_interface_stays() {
        let address = Address::read("https://example.org/service/v1").unwrap();
        assert_eq!(address.of("/v1/models"), "https://example.org/service/v1/models");
        assert_eq!(address.port(), 443);
    }
}
