//! At most once: the header that names a request, and the digest that recognizes it.

use std::fmt;

use apikey_domain::{Actor, KeyName, KeyType, OrganizationId, PermissionSet, Timestamp};

/// The value of an `idempotency-key` header: 1 to 255 visible ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Box<str>);

/// The text is not an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to {max} visible ASCII characters", max = IdempotencyKey::MAX_LENGTH)]
pub struct IdempotencyKeyError;

impl IdempotencyKey {
    /// The longest value, in characters.
    pub const MAX_LENGTH: usize = 255;

    /// Accepts 1 to 255 visible ASCII characters, as they are.
    ///
    /// # Errors
    /// [`IdempotencyKeyError`] for every other text.
    pub fn parse(text: &str) -> Result<Self, IdempotencyKeyError> {
        let legal = (1..=Self::MAX_LENGTH).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if legal { Ok(Self(text.into())) } else { Err(IdempotencyKeyError) }
    }

    /// The value as it was sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A digest by which a repeated request is told from another one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestDigest([u8; 32]);

impl RequestDigest {
    /// A digest as it was stored.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The digest of a request to issue a key. Each field is preceded by its length, so that no two requests share a digest.
    #[must_use]
    pub fn of_issue(
        name: &KeyName,
        permissions: &PermissionSet,
        expires_at: Option<Timestamp>,
        key_type: KeyType,
    ) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("apikey-application 2026-11 issue request digest v1");
        let mut field = |bytes: &[u8]| {
            hasher.update(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
            hasher.update(bytes);
        };
        field(name.as_str().as_bytes());
        field(key_type.name().as_bytes());
        field(&expires_at.map(|at| at.unix_micros().to_le_bytes().to_vec()).unwrap_or_default());
        for permission in permissions.iter() {
            field(permission.as_str().as_bytes());
        }
        Self(*hasher.finalize().as_bytes())
    }
}

impl fmt::Debug for RequestDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second, third, fourth, ..] = self.0;
        write!(f, "RequestDigest({first:02x}{second:02x}{third:02x}{fourth:02x}…)")
    }
}

/// The claim that a request is carried out at most once, for ever, per organization and actor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// Whose request.
    pub organization_id: OrganizationId,
    /// Who made it.
    pub actor: Actor,
    /// The name that the caller gave it.
    pub key: IdempotencyKey,
    /// What it asked for.
    pub request: RequestDigest,
}

#[cfg(test)]
mod tests {
    use apikey_domain::Permission;

    use super::*;

    #[test]
    fn visible_ascii_of_legal_length_is_accepted_and_nothing_else() {
        for legal in ["a", "0198c5f0-7a3b", &"~".repeat(255)] {
            assert_eq!(IdempotencyKey::parse(legal).unwrap().as_str(), legal);
        }
        for illegal in ["", " ", "a b", "é", &"a".repeat(256)] {
            assert_eq!(IdempotencyKey::parse(illegal), Err(IdempotencyKeyError), "{illegal:?}");
        }
    }

    #[test]
    fn a_digest_shows_only_its_first_bytes() {
        assert_eq!(format!("{:?}", RequestDigest::from_bytes([0xAB; 32])), "RequestDigest(abababab…)");
    }

    #[test]
    fn requests_that_differ_anywhere_have_different_digests() {
        let at = |micros| Timestamp::from_unix_micros(micros).unwrap();
        let set = |names: &[&str]| names.iter().map(|name| Permission::parse(name).unwrap()).collect();
        let digest = |name: &str, permissions: &[&str], expires_at: Option<i64>, key_type| {
            RequestDigest::of_issue(&KeyName::parse(name).unwrap(), &set(permissions), expires_at.map(at), key_type)
        };
        let first = digest("a", &["A", "B"], Some(1), KeyType::ApiKey);
        assert_eq!(first, digest("a", &["B", "A", "A"], Some(1), KeyType::ApiKey));
        for other in [
            digest("b", &["A", "B"], Some(1), KeyType::ApiKey),
            digest("a", &["AB"], Some(1), KeyType::ApiKey),
            digest("a", &["A", "B"], Some(2), KeyType::ApiKey),
            digest("a", &["A", "B"], None, KeyType::ApiKey),
            digest("a", &["A", "B"], Some(1), KeyType::ScimToken),
        ] {
            assert_ne!(first, other);
        }
    }
}
