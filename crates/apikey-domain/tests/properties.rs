//! Laws that hold for every key, name, permission set and instant.

#![expect(clippy::unwrap_used, reason = "a panic is a failed test")]

#[path = "properties/fuzz.rs"]
mod fuzz;

use std::convert::Infallible;

use apikey_domain::{
    ApiKey, ApiKeyParts, IssueApiKeyError, KeyFormat, KeyName, KeyType, KeyTypes, NewApiKey, OrganizationId,
    Permission, PermissionSet, RawKey, RejectionReason, Timestamp, Verdict, pidgr::KEY_FORMAT,
};
use proptest::{
    prelude::*,
    sample::{select, subsequence},
};

const OTHER_FORMAT: KeyFormat = KeyFormat::new("another product's digests", "other_k_", "other_scim_");
const NAMES: [&str; 4] =
    ["PERMISSION_ORG_READ", "PERMISSION_ORG_WRITE", "PERMISSION_INBOX_ACT", "PERMISSION_TEAMS_WRITE"];

/// A generator of bytes from a seed (`SplitMix64`), so that a failing case can be run again.
fn entropy(mut state: u64) -> impl FnMut(&mut [u8]) -> Result<(), Infallible> {
    move |buffer| {
        for byte in buffer {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            *byte = (mixed >> 56) as u8;
        }
        Ok(())
    }
}

fn raw_key(key_type: KeyType, seed: u64) -> RawKey {
    KEY_FORMAT.generate(key_type, &mut entropy(seed)).unwrap()
}

fn at(micros: i64) -> Timestamp {
    Timestamp::from_unix_micros(micros).unwrap()
}

fn key_types() -> impl Strategy<Value = KeyType> {
    select(KeyType::ALL.to_vec())
}

fn permissions() -> impl Strategy<Value = PermissionSet> {
    subsequence(NAMES.to_vec(), 0..=NAMES.len())
        .prop_map(|names| names.into_iter().map(|name| Permission::parse(name).unwrap()).collect())
}

fn instants() -> impl Strategy<Value = Timestamp> {
    (Timestamp::MIN.unix_micros()..=Timestamp::MAX.unix_micros()).prop_map(at)
}

prop_compose! {
    /// A key that was issued at 1000 µs and perhaps expires later.
    fn keys()(key_type in key_types(), seed: u64, permissions in permissions(), lifetime in prop::option::of(1_i64..1_000))
        -> ApiKey {
        let new = NewApiKey {
            organization_id: OrganizationId::parse("acme").unwrap(),
            name: KeyName::parse("CI Integration").unwrap(),
            permissions,
            expires_at: lifetime.map(|lifetime| at(1_000 + lifetime)),
        };
        ApiKey::issue(new, &raw_key(key_type, seed), &mut entropy(seed), at(1_000)).unwrap().0
    }
}

proptest! {
    #[test]
    fn a_generated_key_is_read_back_as_itself(key_type in key_types(), seed: u64) {
        let raw_key = raw_key(key_type, seed);
        let presented = KEY_FORMAT.parse(raw_key.expose()).unwrap();
        prop_assert_eq!(presented.key_type(), key_type);
        prop_assert_eq!(presented.prefix(), raw_key.prefix().clone());
        prop_assert_eq!(presented.digest(), *raw_key.digest());
        prop_assert!(raw_key.expose().starts_with(raw_key.prefix().as_str()));
        prop_assert_eq!(raw_key.expose().len(), KEY_FORMAT.brand(key_type).len() + 46);
        prop_assert!(KEY_FORMAT.claims(raw_key.expose()));
        let pasted = ["é pidgr_k_ ", raw_key.expose(), "!"].concat();
        prop_assert!(KEY_FORMAT.occurs_in(&pasted));
        prop_assert!(!KEY_FORMAT.occurs_in(&raw_key.expose()[..53]) && !OTHER_FORMAT.occurs_in(raw_key.expose()));
        prop_assert!(OTHER_FORMAT.parse(raw_key.expose()).is_err());
    }

    #[test]
    fn no_other_spelling_of_a_key_is_that_key(seed: u64, place in 0_usize..54, character in any::<char>()) {
        let raw_key = raw_key(KeyType::ApiKey, seed);
        let original = raw_key.expose();
        let mut changed: Vec<char> = original.chars().collect();
        changed[place] = character;
        let replaced: String = changed.iter().collect();
        changed.insert(place, character);
        let extended: String = changed.iter().collect();
        // A checksum of 32 bits finds every change of one character.
        prop_assert_eq!(KEY_FORMAT.parse(&replaced).is_ok(), replaced == original);
        prop_assert!(KEY_FORMAT.parse(&extended).is_err());
        prop_assert!(KEY_FORMAT.parse(&original[..place]).is_err());
    }

    #[test]
    fn the_parser_takes_any_text(text in any::<String>(), body in "[0-9A-Za-z]{46}") {
        let _ = KEY_FORMAT.parse(&text);
        // A guess passes the checksum once in 2³² times.
        let guess = format!("pidgr_k_{body}");
        prop_assert!(KEY_FORMAT.parse(&guess).is_err());
    }

    #[test]
    fn digests_depend_on_key_and_context(seed: u64, other: u64) {
        prop_assume!(seed != other);
        let (first, second) = (raw_key(KeyType::ApiKey, seed), raw_key(KeyType::ApiKey, other));
        prop_assert_ne!(first.digest(), second.digest());
        let elsewhere = KeyFormat::new("another context", "pidgr_k_", "pidgr_scim_");
        prop_assert_ne!(elsewhere.parse(first.expose()).unwrap().digest(), *first.digest());
    }

    #[test]
    fn a_key_is_valid_exactly_while_it_stands_and_suffices(
        key in keys(), now in 900_i64..2_100, required in permissions(), accepted in key_types(), revoked: bool,
    ) {
        let mut key = key;
        if revoked {
            key.revoke(at(1_001));
        }
        let expired = key.parts().expires_at.is_some_and(|expires_at| now >= expires_at.unix_micros());
        let other_type = key.parts().key_type != accepted;
        let lacking = required.iter().any(|permission| !key.permissions().contains(permission));
        let expected = [
            (revoked, RejectionReason::Revoked),
            (expired, RejectionReason::Expired),
            (other_type, RejectionReason::KeyTypeNotAccepted),
            (lacking, RejectionReason::PermissionMissing),
        ];
        let expected = expected.into_iter().find(|(applies, _)| *applies);
        let verdict = key.verdict(at(now), KeyTypes::only(accepted), &required);
        prop_assert_eq!(verdict, expected.map_or(Verdict::Valid, |(_, reason)| Verdict::Rejected(reason)));
        prop_assert_eq!(key.stands(at(now)), !revoked && !expired);
    }

    #[test]
    fn the_boundary_instant_belongs_to_the_expired(lifetime in 1_i64..1_000_000, seed: u64) {
        let new = NewApiKey {
            organization_id: OrganizationId::parse("acme").unwrap(),
            name: KeyName::parse("x").unwrap(),
            permissions: PermissionSet::empty(),
            expires_at: Some(at(lifetime)),
        };
        let issued = |now| ApiKey::issue(new.clone(), &raw_key(KeyType::ApiKey, seed), &mut entropy(seed), at(now));
        prop_assert!(matches!(issued(lifetime), Err(IssueApiKeyError::ExpiryNotInFuture)));
        let (key, _) = issued(lifetime - 1).unwrap();
        prop_assert!(key.stands(at(lifetime - 1)));
        prop_assert!(!key.stands(at(lifetime)));
    }

    #[test]
    fn a_revocation_is_final_and_keeps_its_instant(key in keys(), instants in prop::collection::vec(instants(), 1..5)) {
        let mut key = key;
        let before = key.clone();
        let event = key.revoke(instants[0]).unwrap();
        let first = key.parts().revoked_at;
        prop_assert_eq!(first, Some(instants[0].max(at(1_000))));
        prop_assert_eq!(Some(event.at), first);
        prop_assert_eq!(key.parts().revision, before.parts().revision + 1);
        for instant in instants {
            prop_assert!(key.revoke(instant).is_none());
            prop_assert_eq!(key.parts().revoked_at, first);
            prop_assert!(!key.stands(instant));
        }
        let ApiKeyParts { revoked_at, revision, .. } = before.into_parts();
        prop_assert_eq!((revoked_at, revision), (None, 1));
    }

    #[test]
    fn parts_survive_the_way_through_an_adapter(key in keys(), revoked: bool) {
        let mut key = key;
        if revoked {
            key.revoke(at(5_000));
        }
        prop_assert_eq!(ApiKey::from_parts(key.clone().into_parts()), Ok(key));
    }

    #[test]
    fn nobody_grants_what_they_do_not_hold(held in permissions(), granted in permissions()) {
        match held.require(&granted) {
            Ok(()) => prop_assert!(granted.iter().all(|permission| held.contains(permission))),
            Err(missing) => {
                prop_assert!(!missing.permissions().is_empty());
                for permission in missing.permissions().iter() {
                    prop_assert!(granted.contains(permission) && !held.contains(permission));
                }
            }
        }
    }

    #[test]
    fn a_name_is_kept_to_the_byte_or_refused(text in any::<String>()) {
        if let Ok(name) = KeyName::parse(&text) {
            prop_assert_eq!(name.as_str(), text.as_str());
            prop_assert!(text.chars().count() <= KeyName::MAX_LENGTH);
            prop_assert!(!text.chars().any(char::is_control));
        }
    }
}
