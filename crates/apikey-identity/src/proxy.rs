//! Which proxy the issuer's keys are fetched through. Reads no environment.

use std::fmt;

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{ClientBuilder, Proxy, Url};

use crate::settings::JwksUrl;

/// An HTTP proxy, and the hosts that are reached without it.
///
/// Only https addresses beyond loopback are ever fetched through it: a proxy could answer everything else itself.
/// `Display` and `Debug` show neither user nor password.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpProxy {
    url: Url,
    no_proxy: String,
}

/// The text is not the URL of an HTTP proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be the http:// or https:// URL of a proxy, without path and query")]
pub struct HttpProxyError;

impl HttpProxy {
    /// Parses `http://[user:password@]host[:port]` or the same with `https`; a missing scheme means `http`, as it does for curl.
    ///
    /// # Errors
    /// [`HttpProxyError`] for every other text.
    pub fn parse(text: &str) -> Result<Self, HttpProxyError> {
        let url = if text.contains("://") { Url::parse(text) } else { Url::parse(&format!("http://{text}")) };
        let url = url.map_err(|_| HttpProxyError)?;
        let legal = matches!(url.scheme(), "http" | "https") && matches!(url.path(), "" | "/") && url.query().is_none();
        if legal { Ok(Self { url, no_proxy: String::new() }) } else { Err(HttpProxyError) }
    }

    /// The same proxy, but not for these hosts: names, addresses and networks separated by commas; `*` is all of them.
    #[must_use]
    pub fn except(self, no_proxy: impl Into<String>) -> Self {
        Self { no_proxy: no_proxy.into(), ..self }
    }

    /// Whether that address is fetched through this proxy.
    pub(crate) fn is_for(&self, url: &JwksUrl) -> bool {
        let Ok(uri) = url.get().as_str().parse() else { return false };
        let matcher = Matcher::builder().https(self.url.as_str()).no(self.no_proxy.as_str()).build();
        url.may_use_proxy() && matcher.intercept(&uri).is_some()
    }

    /// A client that sends its https requests through this proxy.
    pub(crate) fn carry(&self, client: ClientBuilder) -> reqwest::Result<ClientBuilder> {
        Ok(client.proxy(Proxy::https(self.url.clone())?))
    }
}

impl fmt::Display for HttpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url.origin().ascii_serialization())
    }
}

impl fmt::Debug for HttpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpProxy({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_beyond_loopback_goes_through_a_proxy() {
        let proxy = HttpProxy::parse("http://proxy.example:3128").unwrap();
        let is_for = |proxy: &HttpProxy, url: &str| proxy.is_for(&JwksUrl::parse(url).unwrap());
        assert!(is_for(&proxy, "https://issuer.example/jwks"));
        for direct in [
            "http://127.0.0.1:1/jwks",
            "http://localhost/jwks",
            "http://[::1]/jwks",
            "https://127.0.0.1/jwks",
            "https://localhost/jwks",
            "https://[::1]:1/jwks",
        ] {
            assert!(!is_for(&proxy, direct), "{direct}");
        }
        for (no_proxy, expected) in [
            ("other.example", true),
            ("issuer.example", false),
            ("other.example, .example", false),
            ("*", false),
            ("", true),
        ] {
            let proxy = proxy.clone().except(no_proxy);
            assert_eq!(is_for(&proxy, "https://issuer.example/jwks"), expected, "{no_proxy}");
        }
    }

    #[test]
    fn a_proxy_is_shown_without_its_password() {
        let proxy = HttpProxy::parse("http://user:hidden@proxy.example:3128/").unwrap();
        assert_eq!(format!("{proxy} {proxy:?}"), "http://proxy.example:3128 HttpProxy(http://proxy.example:3128)");
        assert_eq!(HttpProxy::parse("proxy.example:3128").unwrap().to_string(), "http://proxy.example:3128");
        for illegal in ["", "socks5://proxy.example", "http://", "http://proxy.example/path", "http://proxy.example?x"]
        {
            assert_eq!(HttpProxy::parse(illegal), Err(HttpProxyError), "{illegal}");
        }
    }
}
