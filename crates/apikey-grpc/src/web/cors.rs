//! Which pages of other origins may call (CORS, as the Fetch standard says), and what they may send and see.
//!
//! No origin may by default. Credentials are headers that a page sends itself; cookies play no part.

use std::{collections::HashSet, fmt, str::FromStr};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use tonic::body::Body;

/// What a page may send: the content type and what the three protocols and our own contract need.
const ALLOWED_HEADERS: &str = "authorization, connect-protocol-version, connect-timeout-ms, content-type, grpc-timeout, \
                               idempotency-key, x-api-key, x-grpc-web, x-request-id, x-user-agent";
const ALLOWED_METHODS: &str = "GET, POST";
/// What a page may see beside the few headers that every page may.
const EXPOSED_HEADERS: &str =
    "apikeys-revocation-confirmed, grpc-message, grpc-status, grpc-status-details-bin, www-authenticate, x-request-id";
/// Seconds for which a browser remembers a preflight's answer: two hours, the most that Chromium takes.
const MAX_AGE: &str = "7200";
/// A preflight's answer depends on these headers of its request.
const PREFLIGHT_VARY: &str = "origin, access-control-request-method, access-control-request-headers";

/// The text is not an origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// Every page of every site, which no list can mean.
    #[error("`*` is not an origin: name each one")]
    Wildcard,
    /// Not `https://host[:port]`.
    #[error("`{0}` is not an origin: `https://host[:port]`, without a path; `http` only for a loopback host")]
    Malformed(String),
}

/// An origin as browsers write it: scheme, host and, where it is not the scheme's own, port.
///
/// `http` is taken for loopback hosts alone (`localhost`, `*.localhost`, `127.0.0.1`, `[::1]`): a page that came in clear text may be
/// anybody's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AllowedOrigin(String);

impl AllowedOrigin {
    /// The origin as browsers send it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AllowedOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for AllowedOrigin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        let malformed = || OriginError::Malformed(text.to_owned());
        if text == "*" {
            return Err(OriginError::Wildcard);
        }
        let (scheme, authority) = text.split_once("://").ok_or_else(malformed)?;
        let uri: Uri = text.parse().map_err(|_| malformed())?;
        let host = uri.host().ok_or_else(malformed)?.to_ascii_lowercase();
        let legal_host =
            !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte));
        if !legal_host || authority.contains(['/', '?', '#', '@']) {
            return Err(malformed());
        }
        let own_port = match scheme.to_ascii_lowercase().as_str() {
            "https" => 443,
            "http" if is_loopback(&host) => 80,
            _ => return Err(malformed()),
        };
        let scheme = scheme.to_ascii_lowercase();
        match authority.get(host.len()..) {
            Some("") => Ok(Self(format!("{scheme}://{host}"))),
            Some(port) => {
                let digits = port.strip_prefix(':').ok_or_else(malformed)?;
                let number: u16 = digits.parse().map_err(|_| malformed())?;
                if number == 0 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                    Err(malformed())
                } else if number == own_port {
                    Ok(Self(format!("{scheme}://{host}")))
                } else {
                    Ok(Self(format!("{scheme}://{host}:{number}")))
                }
            }
            None => Err(malformed()),
        }
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost") || host == "127.0.0.1" || host == "[::1]"
}

/// The origins whose pages may call; none by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedOrigins(HashSet<AllowedOrigin>);

impl FromIterator<AllowedOrigin> for AllowedOrigins {
    fn from_iter<I: IntoIterator<Item = AllowedOrigin>>(origins: I) -> Self {
        Self(origins.into_iter().collect())
    }
}

impl FromStr for AllowedOrigins {
    type Err = OriginError;

    /// Origins separated by commas, with or without spaces; the empty text is none.
    fn from_str(text: &str) -> Result<Self, OriginError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        text.split(',').map(|origin| origin.trim().parse()).collect::<Result<HashSet<_>, _>>().map(Self)
    }
}

impl AllowedOrigins {
    /// The request's origin, where its pages may call.
    fn find<'a>(&self, headers: &'a HeaderMap) -> Option<&'a HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        let text = origin.to_str().ok()?;
        // An allowed origin is what a browser would write, so that nothing has to be normalized here.
        self.0.contains(&AllowedOrigin(text.to_owned())).then_some(origin)
    }

    /// The answer to a browser's question before a call, if this is one.
    pub(super) fn preflight<B>(&self, request: &Request<B>) -> Option<Response<Body>> {
        let asks = request.method() == Method::OPTIONS
            && request.headers().contains_key(header::ORIGIN)
            && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if self.0.is_empty() || !asks {
            return None;
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(header::VARY, HeaderValue::from_static(PREFLIGHT_VARY));
        // A page of another origin is told nothing, and its browser refuses the call.
        if let Some(origin) = self.find(request.headers()) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(ALLOWED_METHODS));
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(ALLOWED_HEADERS));
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
        }
        Some(response)
    }

    /// What an answer to a request with these headers has to say about who may read it.
    pub(super) fn annotation(&self, request_headers: &HeaderMap) -> Annotation {
        let origin = self.find(request_headers).cloned();
        Annotation { varies: !self.0.is_empty(), origin }
    }
}

/// What an answer says about who may read it.
pub(super) struct Annotation {
    varies: bool,
    origin: Option<HeaderValue>,
}

impl Annotation {
    pub(super) fn add_to(self, headers: &mut HeaderMap) {
        if self.varies {
            headers.append(header::VARY, HeaderValue::from_static("origin"));
        }
        if let Some(origin) = self.origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED_HEADERS));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_kept_as_browsers_write_it() {
        for (text, origin) in [
            ("https://app.pidgr.com", "https://app.pidgr.com"),
            ("HTTPS://App.Pidgr.com:443", "https://app.pidgr.com"),
            ("https://app.pidgr.com:8443", "https://app.pidgr.com:8443"),
            ("http://localhost:5173", "http://localhost:5173"),
            ("http://127.0.0.1:80", "http://127.0.0.1"),
            ("http://[::1]:3000", "http://[::1]:3000"),
            ("http://dev.localhost", "http://dev.localhost"),
        ] {
            assert_eq!(text.parse::<AllowedOrigin>().as_ref().map(AllowedOrigin::as_str), Ok(origin), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        assert_eq!("*".parse::<AllowedOrigin>(), Err(OriginError::Wildcard));
        for text in [
            "",
            "null",
            "app.pidgr.com",
            "http://app.pidgr.com",
            "http://localhost.evil.com",
            "https://",
            "https://*.pidgr.com",
            "https://a/",
            "https://a/b",
            "https://a?b",
            "https://a#b",
            "https://u@a",
            "https://a:",
            "https://a:0",
            "https://a:+1",
            "https://a:99999",
            "https://a b",
            "ftp://a",
            "file:///a",
            "https://ä",
            "https://a:1:2",
            "http://localhost@evil.com",
        ] {
            assert!(text.parse::<AllowedOrigin>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_list_is_separated_by_commas() {
        assert_eq!("".parse(), Ok(AllowedOrigins::default()));
        let list: AllowedOrigins = "https://a, http://localhost:1,https://a".parse().unwrap();
        assert_eq!(list, ["https://a", "http://localhost:1"].map(|text| text.parse().unwrap()).into_iter().collect());
        assert!("https://a,,https://b".parse::<AllowedOrigins>().is_err());
        assert!("https://a,*".parse::<AllowedOrigins>().is_err());
    }
}
