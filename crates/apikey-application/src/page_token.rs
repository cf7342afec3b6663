//! The token that continues a listing: opaque to callers, stateless, bound to its organization and filter.
//!
//! It holds no secret. Its digest finds every alteration that was not made on purpose; one that was made on purpose gains
//! nothing, since the organization always comes from the credential.

use std::fmt;

use apikey_domain::{KeyId, KeyType, OrganizationId, Timestamp};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::ports::Position;

/// The layout's version: the first byte.
const VERSION: u8 = 1;
/// Version, filter, `created_at` (8 bytes, big-endian), id (16 bytes).
const FIXED_LENGTH: usize = 1 + 1 + 8 + 16;
/// The digest at the end: enough of BLAKE3's output to find every accident.
const DIGEST_LENGTH: usize = 16;
/// The longest token: a longer text is not even decoded.
const MAX_LENGTH: usize = (FIXED_LENGTH + OrganizationId::MAX_LENGTH + DIGEST_LENGTH).div_ceil(3) * 4;

/// Continues a listing after a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageToken(String);

/// The text is not a token for this organization and filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPageToken {
    /// It was altered, cut, or never was a token of this service.
    #[error("is not a page token of this service")]
    Malformed,
    /// It was issued to another organization or for another filter.
    #[error("was issued for another listing; the filter must stay the same from page to page")]
    OtherListing,
}

impl PageToken {
    /// The token that continues after `position`.
    #[must_use]
    pub fn new(position: Position, organization_id: &OrganizationId, key_type: Option<KeyType>) -> Self {
        let mut bytes = Vec::with_capacity(FIXED_LENGTH + organization_id.as_str().len() + DIGEST_LENGTH);
        bytes.extend([VERSION, filter_byte(key_type)]);
        bytes.extend(position.created_at.unix_micros().to_be_bytes());
        bytes.extend(position.id.as_uuid().as_bytes());
        bytes.extend(organization_id.as_str().as_bytes());
        let digest = digest(&bytes);
        bytes.extend(digest);
        Self(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Reads a token that a caller sent back.
    ///
    /// # Errors
    /// [`InvalidPageToken`] unless this service made it for that organization and filter.
    pub fn read(
        text: &str,
        organization_id: &OrganizationId,
        key_type: Option<KeyType>,
    ) -> Result<Position, InvalidPageToken> {
        if text.len() > MAX_LENGTH {
            return Err(InvalidPageToken::Malformed);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidPageToken::Malformed)?;
        let (covered, sent_digest) = bytes.split_last_chunk::<DIGEST_LENGTH>().ok_or(InvalidPageToken::Malformed)?;
        if *sent_digest != digest(covered) {
            return Err(InvalidPageToken::Malformed);
        }
        let (head, rest) = covered.split_first_chunk::<2>().ok_or(InvalidPageToken::Malformed)?;
        let (created_at, rest) = rest.split_first_chunk::<8>().ok_or(InvalidPageToken::Malformed)?;
        let (id, organization) = rest.split_first_chunk::<16>().ok_or(InvalidPageToken::Malformed)?;
        let [version, filter] = *head;
        if version != VERSION {
            return Err(InvalidPageToken::Malformed);
        }
        if organization != organization_id.as_str().as_bytes() || filter != filter_byte(key_type) {
            return Err(InvalidPageToken::OtherListing);
        }
        let created_at = Timestamp::from_unix_micros(i64::from_be_bytes(*created_at));
        Ok(Position {
            created_at: created_at.map_err(|_| InvalidPageToken::Malformed)?,
            id: KeyId::from_uuid(uuid::Uuid::from_bytes(*id)),
        })
    }

    /// The token as callers see it: base64url without padding (RFC 4648, section 5).
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// 0 for all types, otherwise the type's number on the wire.
const fn filter_byte(key_type: Option<KeyType>) -> u8 {
    match key_type {
        None => 0,
        Some(KeyType::ApiKey) => 1,
        Some(KeyType::ScimToken) => 2,
    }
}

fn digest(covered: &[u8]) -> [u8; DIGEST_LENGTH] {
    let digest = blake3::derive_key("apikey-application 2026-11 page token digest v1", covered);
    let mut short = [0; DIGEST_LENGTH];
    short.iter_mut().zip(digest).for_each(|(short, byte)| *short = byte);
    short
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn position(micros: i64, id: u128) -> Position {
        let created_at = Timestamp::from_unix_micros(micros).unwrap();
        Position { created_at, id: KeyId::from_uuid(uuid::Uuid::from_u128(id)) }
    }

    fn organization(name: &str) -> OrganizationId {
        OrganizationId::parse(name).unwrap()
    }

    #[test]
    fn the_layout_never_changes() {
        // Tokens survive restarts and upgrades: a page that was begun on one version is continued on the next.
        let token = PageToken::new(position(1_767_225_600_000_000, 7), &organization("acme"), Some(KeyType::ApiKey));
        assert_eq!(token.as_str(), "AQEABkdIRiBAAAAAAAAAAAAAAAAAAAAAAAdhY21l1_fIL01CR2NR8zRYghRykw");
    }

    #[test]
    fn texts_that_never_were_tokens_are_malformed() {
        let long = "A".repeat(MAX_LENGTH + 1);
        for text in ["", "a", "AQ", "not base64!", "AQEABkdM=", long.as_str()] {
            let outcome = PageToken::read(text, &organization("acme"), None);
            assert_eq!(outcome, Err(InvalidPageToken::Malformed), "{text:?}");
        }
    }

    #[test]
    fn a_token_of_another_version_is_malformed() {
        let token = PageToken::new(position(1, 1), &organization("acme"), None);
        let mut bytes = URL_SAFE_NO_PAD.decode(token.as_str()).unwrap();
        bytes.truncate(bytes.len() - DIGEST_LENGTH);
        bytes[0] = VERSION + 1;
        let digest = digest(&bytes);
        bytes.extend(digest);
        let outcome = PageToken::read(&URL_SAFE_NO_PAD.encode(bytes), &organization("acme"), None);
        assert_eq!(outcome, Err(InvalidPageToken::Malformed));
    }

    proptest! {
        #[test]
        fn a_token_continues_its_own_listing_and_no_other(
            micros in Timestamp::MIN.unix_micros()..=Timestamp::MAX.unix_micros(),
            id: u128,
            owner in "[!-~]{1,128}",
            other in "[!-~]{1,128}",
        ) {
            prop_assume!(owner != other);
            let (owner, other) = (organization(&owner), organization(&other));
            let token = PageToken::new(position(micros, id), &owner, Some(KeyType::ApiKey));
            prop_assert!(token.as_str().len() <= MAX_LENGTH);
            prop_assert_eq!(PageToken::read(token.as_str(), &owner, Some(KeyType::ApiKey)), Ok(position(micros, id)));
            for (organization, filter) in [(&owner, None), (&owner, Some(KeyType::ScimToken)), (&other, Some(KeyType::ApiKey))] {
                prop_assert_eq!(PageToken::read(token.as_str(), organization, filter), Err(InvalidPageToken::OtherListing));
            }
        }

        #[test]
        fn an_altered_token_is_refused(place in 0_usize..60, character in "[A-Za-z0-9_-]") {
            let token = PageToken::new(position(1_767_225_600_000_000, 7), &organization("acme"), None);
            let mut altered = token.as_str().to_owned();
            altered.replace_range(place..=place, &character);
            prop_assume!(altered != token.as_str());
            prop_assert!(PageToken::read(&altered, &organization("acme"), None).is_err());
            prop_assert!(PageToken::read(&token.as_str()[..place], &organization("acme"), None).is_err());
        }

        #[test]
        fn the_reader_takes_any_text(text in any::<String>()) {
            let _ = PageToken::read(&text, &organization("acme"), None);
        }
    }
}
