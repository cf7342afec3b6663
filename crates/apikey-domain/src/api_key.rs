//! The aggregate: one API key as it is recorded, its transitions, and the verdict on it.

use std::fmt;

use uuid::Uuid;

use crate::{
    KeyDigest, KeyEvent, KeyEventKind, KeyName, KeyPrefix, KeyType, KeyTypes, OrganizationId, PermissionSet, RawKey,
    Standing, Timestamp, Verdict,
};

/// A key's identifier: a UUID of version 7 (RFC 9562), so that keys made one after the other lie near each other in an
/// index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(Uuid);

/// The text is not a hyphenated UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a hyphenated UUID")]
pub struct KeyIdError;

impl KeyId {
    /// An identifier as it was stored; of any version.
    #[must_use]
    pub const fn from_uuid(id: Uuid) -> Self {
        Self(id)
    }

    /// The identifier as a UUID.
    #[must_use]
    pub const fn as_uuid(&self) -> &Uuid {
        &self.0
    }

    /// Reads the hyphenated form of RFC 9562, with digits of either case.
    ///
    /// # Errors
    /// [`KeyIdError`] for every other text, other forms of UUID included.
    pub fn parse(text: &str) -> Result<Self, KeyIdError> {
        // Of the forms that the parser knows, only the hyphenated one has 36 characters.
        if text.len() != uuid::fmt::Hyphenated::LENGTH {
            return Err(KeyIdError);
        }
        Uuid::try_parse(text).map(Self).map_err(|_| KeyIdError)
    }

    fn generate<E>(now: Timestamp, entropy: &mut impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let mut random = [0_u8; 10];
        entropy(&mut random)?;
        let millis = u64::try_from(now.unix_micros() / 1_000).unwrap_or(0);
        Ok(Self(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// One API key as it is recorded: everything but the key itself.
///
/// A key is valid while it is not revoked and `now < expires_at`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    parts: ApiKeyParts,
}

/// What a new key shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewApiKey {
    /// Who owns it.
    pub organization_id: OrganizationId,
    /// Its name, for people.
    pub name: KeyName,
    /// What it may do; nothing, if it only identifies its organization.
    pub permissions: PermissionSet,
    /// When it stops being valid; `None` for never.
    pub expires_at: Option<Timestamp>,
}

/// A key cannot be issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueApiKeyError<E> {
    /// `expires_at` does not lie in the future.
    #[error("expires_at must lie in the future")]
    ExpiryNotInFuture,
    /// There was no entropy.
    #[error("no entropy")]
    Entropy(#[source] E),
}

/// All fields of an [`ApiKey`], for adapters that store and load it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKeyParts {
    /// The key's identifier.
    pub id: KeyId,
    /// Who owns it.
    pub organization_id: OrganizationId,
    /// Its name.
    pub name: KeyName,
    /// Brand and public characters.
    pub prefix: KeyPrefix,
    /// What is stored in the key's place; unique.
    pub digest: KeyDigest,
    /// What the key is for.
    pub key_type: KeyType,
    /// What it may do.
    pub permissions: PermissionSet,
    /// When it was issued.
    pub created_at: Timestamp,
    /// When it stops being valid.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// When it last verified successfully, as far as that has been recorded. Not part of the revision: noting a use is not a
    /// change of the key.
    pub last_used_at: Option<Timestamp>,
    /// Counts the changes of the key, from 1: an adapter commits a change only over the revision that it was made from.
    pub revision: u32,
}

/// The parts contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidApiKeyParts {
    /// `expires_at` is not after `created_at`.
    #[error("expires_at is not after created_at")]
    ExpiryBeforeCreation,
    /// `revoked_at` is before `created_at`.
    #[error("revoked_at is before created_at")]
    RevocationBeforeCreation,
    /// `revision` is 0.
    #[error("revision is 0")]
    Revision,
}

impl ApiKey {
    /// Issues a key: the record of `raw_key`, and the event that says so.
    ///
    /// # Errors
    /// [`IssueApiKeyError::ExpiryNotInFuture`] unless `now < expires_at`; [`IssueApiKeyError::Entropy`] if there is none for
    /// the identifier.
    pub fn issue<E>(
        new: NewApiKey,
        raw_key: &RawKey,
        entropy: &mut impl FnMut(&mut [u8]) -> Result<(), E>,
        now: Timestamp,
    ) -> Result<(Self, KeyEvent), IssueApiKeyError<E>> {
        let NewApiKey { organization_id, name, permissions, expires_at } = new;
        if expires_at.is_some_and(|expires_at| expires_at <= now) {
            return Err(IssueApiKeyError::ExpiryNotInFuture);
        }
        let key = Self {
            parts: ApiKeyParts {
                id: KeyId::generate(now, entropy).map_err(IssueApiKeyError::Entropy)?,
                organization_id,
                name,
                prefix: raw_key.prefix().clone(),
                digest: *raw_key.digest(),
                key_type: raw_key.key_type(),
                permissions,
                created_at: now,
                expires_at,
                revoked_at: None,
                last_used_at: None,
                revision: 1,
            },
        };
        let event = key.event(KeyEventKind::Issued, now);
        Ok((key, event))
    }

    /// Revokes the key, once and for all. A key that is already revoked keeps its `revoked_at`, and there is no event.
    ///
    /// `revoked_at` is never before `created_at`, even if `now`, read from another machine's clock, is.
    pub fn revoke(&mut self, now: Timestamp) -> Option<KeyEvent> {
        if self.parts.revoked_at.is_some() {
            return None;
        }
        let at = now.max(self.parts.created_at);
        self.parts.revoked_at = Some(at);
        self.parts.revision += 1;
        Some(self.event(KeyEventKind::Revoked, at))
    }

    /// What of the key a verification depends on.
    #[must_use]
    pub const fn standing(&self) -> Standing<'_> {
        let ApiKeyParts { key_type, permissions, expires_at, revoked_at, .. } = &self.parts;
        Standing { key_type: *key_type, permissions, expires_at: *expires_at, revoked_at: *revoked_at }
    }

    /// [`Standing::verdict`] of this key.
    #[must_use]
    pub fn verdict(&self, now: Timestamp, key_types: KeyTypes, required: &PermissionSet) -> Verdict {
        self.standing().verdict(now, key_types, required)
    }

    /// [`Standing::stands`] of this key.
    #[must_use]
    pub fn stands(&self, now: Timestamp) -> bool {
        self.standing().stands(now)
    }

    fn event(&self, kind: KeyEventKind, at: Timestamp) -> KeyEvent {
        KeyEvent { key_id: self.parts.id, organization_id: self.parts.organization_id.clone(), kind, at }
    }

    /// A key as an adapter loaded it.
    ///
    /// # Errors
    /// [`InvalidApiKeyParts`] where the parts contradict each other.
    pub fn from_parts(parts: ApiKeyParts) -> Result<Self, InvalidApiKeyParts> {
        if parts.expires_at.is_some_and(|expires_at| expires_at <= parts.created_at) {
            return Err(InvalidApiKeyParts::ExpiryBeforeCreation);
        }
        if parts.revoked_at.is_some_and(|revoked_at| revoked_at < parts.created_at) {
            return Err(InvalidApiKeyParts::RevocationBeforeCreation);
        }
        if parts.revision == 0 {
            return Err(InvalidApiKeyParts::Revision);
        }
        Ok(Self { parts })
    }

    /// All fields, for an adapter that stores them.
    #[must_use]
    pub const fn parts(&self) -> &ApiKeyParts {
        &self.parts
    }

    /// All fields, by value.
    #[must_use]
    pub fn into_parts(self) -> ApiKeyParts {
        self.parts
    }

    /// The key's identifier.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.parts.id
    }

    /// Who owns the key.
    #[must_use]
    pub const fn organization_id(&self) -> &OrganizationId {
        &self.parts.organization_id
    }

    /// What is stored in the key's place.
    #[must_use]
    pub const fn digest(&self) -> &KeyDigest {
        &self.parts.digest
    }

    /// What the key may do.
    #[must_use]
    pub const fn permissions(&self) -> &PermissionSet {
        &self.parts.permissions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> ApiKeyParts {
        let mut entropy = |buffer: &mut [u8]| {
            buffer.fill(1);
            Ok::<_, ()>(())
        };
        let new = NewApiKey {
            organization_id: OrganizationId::parse("acme").unwrap(),
            name: KeyName::parse("CI Integration").unwrap(),
            permissions: PermissionSet::empty(),
            expires_at: None,
        };
        let raw_key = crate::pidgr::KEY_FORMAT.generate(KeyType::ApiKey, &mut entropy).unwrap();
        ApiKey::issue(new, &raw_key, &mut entropy, at(1_700_000_000_123_456)).unwrap().0.into_parts()
    }

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_unix_micros(micros).unwrap()
    }

    #[test]
    fn an_id_begins_with_the_millisecond_in_which_its_key_was_issued() {
        // RFC 9562, section 5.7.
        assert!(parts().id.to_string().starts_with("018bcfe5-687b-7"), "{}", parts().id);
    }

    #[test]
    fn a_key_is_revoked_at_its_creation_at_the_earliest() {
        let revoked = |after: i64| {
            let parts = parts();
            let revoked_at = at(parts.created_at.unix_micros() + after);
            ApiKey::from_parts(ApiKeyParts { revoked_at: Some(revoked_at), ..parts }).map(|_| ())
        };
        assert_eq!(revoked(-1), Err(InvalidApiKeyParts::RevocationBeforeCreation));
        assert_eq!((revoked(0), revoked(1)), (Ok(()), Ok(())));
    }

    #[test]
    fn only_hyphenated_uuids_are_ids() {
        let id = "0198c5f0-7a3b-7cde-8f01-23456789abcd";
        assert_eq!(KeyId::parse(id).map(|id| id.to_string()), Ok(id.to_owned()));
        assert_eq!(KeyId::parse(&id.to_uppercase()).map(|id| id.to_string()), Ok(id.to_owned()));
        for illegal in [
            "",
            "0198c5f07a3b7cde8f0123456789abcd",
            "{0198c5f0-7a3b-7cde-8f01-23456789abcd}",
            "urn:uuid:0198c5f0-7a3b-7cde-8f01-23456789abcd",
            "0198c5f0-7a3b-7cde-8f01-23456789abcg",
            "0198c5f0_7a3b_7cde_8f01_23456789abcd",
            " 0198c5f0-7a3b-7cde-8f01-23456789abcd",
        ] {
            assert_eq!(KeyId::parse(illegal), Err(KeyIdError), "{illegal:?}");
        }
    }
}
