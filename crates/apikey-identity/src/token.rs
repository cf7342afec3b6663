//! A token's outer form: JWS compact serialization (RFC 7515) and the JOSE header. Trusts nothing: what comes out of here has
//! not been verified. Must never read the claims.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use crate::{
    rejection::Rejection,
    strict_json::{StrictJsonError, parse_object},
};

/// The longest token, in bytes. Headers are limited to 16 KiB in all, and issuers keep tokens under 8 KiB for the sake of
/// proxies, most of which stop there.
pub(crate) const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// The algorithms that are accepted, and no other (RFC 7518 section 3.1, RFC 8037 section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Rs256,
    Es256,
    EdDsa,
}

impl Algorithm {
    /// The algorithm with that name; names are case-sensitive.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            "EdDSA" => Some(Self::EdDsa),
            _ => None,
        }
    }
}

/// A token of legal form whose signature nobody has checked yet.
pub(crate) struct UnverifiedToken<'token> {
    pub(crate) algorithm: Algorithm,
    pub(crate) key_id: Option<String>,
    /// What is signed: the encoded header, a full stop and the encoded claims.
    pub(crate) message: &'token str,
    /// The encoded signature.
    pub(crate) signature: &'token str,
    /// The claims' bytes.
    pub(crate) claims: Vec<u8>,
}

impl<'token> UnverifiedToken<'token> {
    /// Takes a token apart.
    pub(crate) fn parse(token: &'token str) -> Result<Self, Rejection> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Rejection::Size);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(Rejection::Encoding)?;
        let (header, claims) = message.split_once('.').ok_or(Rejection::Encoding)?;
        // A fourth part leaves a full stop in the claims, which is not of the alphabet.
        let (header, claims) = (decode(header)?, decode(claims)?);
        decode(signature)?;

        let header = parse_object(&header).map_err(|error| match error {
            StrictJsonError::Malformed => Rejection::Encoding,
            StrictJsonError::DuplicateMember => Rejection::DuplicateMember,
        })?;
        // Extensions that must be understood; none is (RFC 7515 section 4.1.11). `b64` changes what is signed (RFC 7797).
        if header.contains_key("crit") || header.contains_key("b64") || !is_jwt(&header) {
            return Err(Rejection::Header);
        }
        let algorithm =
            header.get("alg").and_then(Value::as_str).and_then(Algorithm::from_name).ok_or(Rejection::Algorithm)?;
        let key_id = match header.get("kid") {
            None => None,
            Some(Value::String(key_id)) => Some(key_id.clone()),
            Some(_) => return Err(Rejection::KeyId),
        };
        Ok(Self { algorithm, key_id, message, signature, claims })
    }
}

/// One spelling for each sequence of bytes: no padding, no white space, no bits beyond the last byte.
pub(crate) fn decode(part: &str) -> Result<Vec<u8>, Rejection> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Rejection::Encoding)
}

/// Whether `typ` is absent, `JWT` or `at+jwt` (RFC 9068 section 2.1): media types, thus of any case and with or without
/// `application/`. Other types of token have other rules.
fn is_jwt(header: &Map<String, Value>) -> bool {
    match header.get("typ") {
        None => true,
        Some(Value::String(media_type)) => {
            let media_type = media_type.to_ascii_lowercase();
            matches!(media_type.strip_prefix("application/").unwrap_or(&media_type), "jwt" | "at+jwt")
        }
        Some(_) => false,
    }
}
