//! Where a service listens, as a client is told. Knows no socket.

use std::{fmt, net::IpAddr, str::FromStr};

use http::uri::{Scheme, Uri};

/// `http://host[:port]` or `https://host[:port]`, with nothing else in it: a path would be ignored, and so would a password.
#[derive(Clone, PartialEq, Eq)]
pub struct ServiceAddress(Uri);

/// The text is not the address of a service. Does not hold the text, which may contain a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be http://host[:port] or https://host[:port], without user, password, path and query")]
pub struct ServiceAddressError;

impl ServiceAddress {
    /// Whether connections are encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.0.scheme() == Some(&Scheme::HTTPS)
    }

    /// Whether the host is this machine by its name: `localhost`, 127.0.0.0/8 or `[::1]`.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let host = self.0.host().unwrap_or_default();
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    pub(super) fn uri(&self) -> Uri {
        self.0.clone()
    }
}

impl FromStr for ServiceAddress {
    type Err = ServiceAddressError;

    fn from_str(text: &str) -> Result<Self, ServiceAddressError> {
        let uri: Uri = text.parse().map_err(|_| ServiceAddressError)?;
        let scheme = uri.scheme().is_some_and(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS);
        let place = uri.authority().is_some_and(|authority| {
            // A port that is no number is none to `http`, and would silently be the default.
            let rest = authority.as_str().strip_prefix(authority.host());
            let port = authority.port_u16().is_some_and(|port| port > 0);
            !authority.host().is_empty() && (rest == Some("") || rest.is_some_and(|rest| rest.starts_with(':')) && port)
        });
        // `http` drops a fragment.
        let bare = uri.path() == "/" && uri.query().is_none() && !text.contains('#');
        if scheme && place && bare { Ok(Self(uri)) } else { Err(ServiceAddressError) }
    }
}

impl fmt::Display for ServiceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(authority) = self.0.authority() else { return Ok(()) };
        write!(f, "{}://{authority}", self.0.scheme_str().unwrap_or_default())
    }
}

impl fmt::Debug for ServiceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceAddress({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_scheme_a_host_and_a_port() {
        for (text, shown, loopback) in [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080", true),
            ("http://127.9.9.9/", "http://127.9.9.9", true),
            ("https://[::1]:443", "https://[::1]:443", true),
            ("http://LocalHost:1", "http://LocalHost:1", true),
            ("https://keys.example", "https://keys.example", false),
            ("http://192.0.2.1:8080", "http://192.0.2.1:8080", false),
            ("http://localhost.example", "http://localhost.example", false),
            ("http://127.0.0.1.example", "http://127.0.0.1.example", false),
            ("http://[2001:db8::1]", "http://[2001:db8::1]", false),
        ] {
            let address: ServiceAddress = text.parse().unwrap();
            assert_eq!((address.to_string().as_str(), address.is_loopback()), (shown, loopback), "{text}");
            assert_eq!(address.is_encrypted(), text.starts_with("https"));
        }
        for text in [
            "",
            "127.0.0.1:8080",
            "localhost",
            "/",
            "ftp://a",
            "http://",
            "http://a b",
            "http://a/prefix",
            "http://a//",
            "http://a?b",
            "http://a/?b=c",
            "http://a#b",
            "http://user@a",
            "http://user:hidden@a",
            "http://localhost:hidden@a",
            "http://a:",
            "http://a:0",
            "http://a:65536",
            "http://:8080",
        ] {
            assert_eq!(text.parse::<ServiceAddress>(), Err(ServiceAddressError), "{text}");
        }
    }
}
