//! Verified claims into a principal (RFC 7519 section 4.1). Must be given nothing whose signature was not checked.

use std::time::Duration;

use apikey_domain::{Actor, OrganizationId, PermissionCatalogue, PermissionSet, Principal, Timestamp};
use serde_json::{Map, Value};

use crate::{
    rejection::Rejection,
    strict_json::{StrictJsonError, parse_object},
};

/// What full names of permissions start with; tokens may leave it out.
const PERMISSION_PREFIX: &str = "PERMISSION_";

/// What tokens must claim, and how to read it.
#[derive(Clone, Debug)]
pub(crate) struct ClaimRules {
    pub(crate) issuer: String,
    pub(crate) audiences: Vec<String>,
    pub(crate) organization_claim: String,
    pub(crate) permissions_claim: String,
    pub(crate) leeway: Duration,
    pub(crate) catalogue: PermissionCatalogue,
}

impl ClaimRules {
    /// The principal that the claims stand for at that instant.
    pub(crate) fn principal(&self, claims: &[u8], now: Timestamp) -> Result<Principal, Rejection> {
        let claims = parse_object(claims).map_err(|error| match error {
            StrictJsonError::Malformed => Rejection::Encoding,
            StrictJsonError::DuplicateMember => Rejection::DuplicateMember,
        })?;
        if string(&claims, "iss") != Some(&self.issuer) {
            return Err(Rejection::Issuer);
        }
        if !self.accepts_audience(&claims) {
            return Err(Rejection::Audience);
        }
        // Without an expiry a leaked token lives for ever, so that claim is required. Its bound is exclusive: the token is
        // refused "on or after" it.
        let expires_at = instant(&claims, "exp", Rejection::Expiry)?.ok_or(Rejection::Expiry)?;
        if now >= expires_at.saturating_add(self.leeway) {
            return Err(Rejection::Expiry);
        }
        let not_before = instant(&claims, "nbf", Rejection::NotBefore)?;
        if not_before.is_some_and(|not_before| now.saturating_add(self.leeway) < not_before) {
            return Err(Rejection::NotBefore);
        }
        // Only its form: RFC 7519 gives `iat` no say in whether a token is valid.
        instant(&claims, "iat", Rejection::IssuedAt)?;

        let actor = string(&claims, "sub")
            .and_then(|subject| Actor::token(&self.issuer, subject).ok())
            .ok_or(Rejection::Subject)?;
        let organization_id = string(&claims, &self.organization_claim)
            .and_then(|organization| OrganizationId::parse(organization).ok())
            .ok_or(Rejection::Organization)?;
        Ok(Principal { organization_id, permissions: self.permissions(&claims)?, actor })
    }

    /// Whether one of the token's audiences is one of ours; every one of them must be a string.
    fn accepts_audience(&self, claims: &Map<String, Value>) -> bool {
        let ours = |audience: &str| self.audiences.iter().any(|accepted| accepted == audience);
        match claims.get("aud") {
            Some(Value::String(audience)) => ours(audience),
            Some(Value::Array(audiences)) => {
                audiences.iter().all(Value::is_string) && audiences.iter().filter_map(Value::as_str).any(ours)
            }
            _ => false,
        }
    }

    /// The permissions of the catalogue that the token names. A token without the claim holds none.
    fn permissions(&self, claims: &Map<String, Value>) -> Result<PermissionSet, Rejection> {
        match claims.get(&self.permissions_claim) {
            None => Ok(PermissionSet::empty()),
            Some(Value::String(names)) => Ok(names.split(' ').filter_map(|name| self.permission(name)).collect()),
            Some(Value::Array(names)) if names.iter().all(Value::is_string) => {
                Ok(names.iter().filter_map(Value::as_str).filter_map(|name| self.permission(name)).collect())
            }
            Some(_) => Err(Rejection::Permissions),
        }
    }

    fn permission(&self, name: &str) -> Option<apikey_domain::Permission> {
        self.catalogue.find(name).or_else(|| self.catalogue.find(&format!("{PERMISSION_PREFIX}{name}"))).cloned()
    }
}

fn string<'claims>(claims: &'claims Map<String, Value>, name: &str) -> Option<&'claims String> {
    match claims.get(name) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

/// A `NumericDate`: seconds since the Unix epoch, whole or not. Absence is no error, every other value that is not an instant
/// of the years 0001 to 9999 is.
fn instant(claims: &Map<String, Value>, name: &str, rejection: Rejection) -> Result<Option<Timestamp>, Rejection> {
    const MICROS_PER_SECOND: i64 = 1_000_000;

    let Some(value) = claims.get(name) else { return Ok(None) };
    let micros = match (value.as_i64(), value.as_f64()) {
        (Some(seconds), _) => seconds.checked_mul(MICROS_PER_SECOND),
        #[expect(clippy::cast_possible_truncation, reason = "it saturates, far beyond the bounds of a timestamp")]
        (None, Some(seconds)) => Some((seconds * 1e6).floor() as i64),
        (None, None) => None,
    };
    let at = micros.and_then(|micros| Timestamp::from_unix_micros(micros).ok()).ok_or(rejection)?;
    Ok(Some(at))
}
