//! The one credential in a request's headers. It is not judged here, only found.

use apikey_application::Credential;
use http::{HeaderMap, HeaderName, header::AUTHORIZATION};

/// The header for API keys alone.
pub(crate) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Why there is not exactly one credential. The caller is told nothing of it; the log is.
pub(crate) type CredentialError = &'static str;

/// Finds the one credential: `authorization: Bearer …` or `x-api-key: …`.
///
/// Exactly one header of both kinds together. The scheme is compared without regard to case (RFC 9110, section 11.1) and followed
/// by exactly one space; everything after it is the credential, to the byte.
pub(crate) fn find(headers: &HeaderMap) -> Result<Credential<'_>, CredentialError> {
    let mut authorizations = headers.get_all(AUTHORIZATION).iter();
    let mut keys = headers.get_all(X_API_KEY).iter();
    let found = (authorizations.next(), keys.next());
    if authorizations.next().is_some() || keys.next().is_some() {
        return Err("a credential was sent twice");
    }
    match found {
        (None, None) => Err("no credential was sent"),
        (Some(_), Some(_)) => Err("two credentials were sent"),
        (None, Some(key)) => key.to_str().map(Credential::ApiKey).map_err(|_| "the credential is not visible ASCII"),
        (Some(value), None) => {
            let value = value.to_str().map_err(|_| "the credential is not visible ASCII")?;
            let (scheme, credential) = value.split_once(' ').ok_or("the credential has no scheme")?;
            if scheme.eq_ignore_ascii_case("bearer") {
                Ok(Credential::Bearer(credential))
            } else {
                Err("the credential is of another scheme")
            }
        }
    }
}
