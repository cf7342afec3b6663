//! Keys, callers and commits for tests: each is ordinary unless a test says what is special about it.

use std::time::Duration;

use apikey_application::{
    Caller, Idempotency, IdempotencyKey, RequestDigest,
    ports::{Change, Commit},
};
use apikey_domain::{
    Actor, ApiKey, ApiKeyParts, AuditEvent, KeyEvent, KeyEventKind, KeyName, KeyType, NewApiKey, OrganizationId,
    Origin, Permission, PermissionSet, Principal, RawKey, Timestamp, pidgr,
};

use crate::SeededEntropy;

/// 2026-11-02T09:00:00Z, when most fixtures come into being.
#[must_use]
pub fn an_instant() -> Timestamp {
    instant(1_793_610_000_000_000)
}

/// That many microseconds after the Unix epoch.
#[must_use]
pub fn instant(unix_micros: i64) -> Timestamp {
    Timestamp::from_unix_micros(unix_micros).expect("an instant of the years 0001 to 9999")
}

/// That many seconds after [`an_instant`].
#[must_use]
pub fn seconds_later(seconds: u64) -> Timestamp {
    an_instant().saturating_add(Duration::from_secs(seconds))
}

/// The organization `acme`.
#[must_use]
pub fn an_organization() -> OrganizationId {
    organization("acme")
}

/// The organization `globex`.
#[must_use]
pub fn another_organization() -> OrganizationId {
    organization("globex")
}

/// The organization of that name.
#[must_use]
pub fn organization(name: &str) -> OrganizationId {
    OrganizationId::parse(name).expect("1 to 128 visible ASCII characters")
}

/// A set of the permissions with these names.
#[must_use]
pub fn permissions<const N: usize>(names: [&str; N]) -> PermissionSet {
    names.into_iter().map(|name| Permission::parse(name).expect("a permission's name")).collect()
}

/// Where fixtures' calls come from.
#[must_use]
pub fn an_origin() -> Origin {
    Origin { address: Some("192.0.2.7".to_owned()), request_id: Some("request-1".to_owned()) }
}

/// The operator of the service, with every permission of Pidgr's catalogue, in [`an_organization`].
#[must_use]
pub fn a_caller() -> Caller {
    a_caller_with(Actor::operator(), pidgr::CATALOGUE.all())
}

/// A caller in [`an_organization`].
#[must_use]
pub fn a_caller_with(actor: Actor, permissions: PermissionSet) -> Caller {
    Caller { principal: Principal { organization_id: an_organization(), permissions, actor }, origin: an_origin() }
}

/// The principal of a token about that subject.
#[must_use]
pub fn a_person(subject: &str) -> Actor {
    Actor::token("https://issuer.example", subject).expect("an issuer and a subject")
}

/// The key of that seed: of [`an_organization`], named `CI Integration`, an API key that may read campaigns, made at
/// [`an_instant`], never expiring. Two seeds give two keys.
#[must_use]
pub fn a_key(seed: u64) -> ApiKey {
    a_key_with(seed, |_| ())
}

/// The key of that seed, with what the test changes in it.
#[must_use]
pub fn a_key_with(seed: u64, change: impl FnOnce(&mut ApiKeyParts)) -> ApiKey {
    a_raw_key_with(seed, change).1
}

/// The key of that seed together with its raw form, with what the test changes in the record.
#[must_use]
pub fn a_raw_key_with(seed: u64, change: impl FnOnce(&mut ApiKeyParts)) -> (RawKey, ApiKey) {
    let entropy = SeededEntropy::new(seed.wrapping_mul(0xD134_2543_DE82_EF95).wrapping_add(1));
    let mut fill = |buffer: &mut [u8]| entropy.fill_always(buffer);
    let raw_key = pidgr::KEY_FORMAT.generate(KeyType::ApiKey, &mut fill).unwrap_or_else(|never| match never {});
    let new = NewApiKey {
        organization_id: an_organization(),
        name: KeyName::parse("CI Integration").expect("a key's name"),
        permissions: permissions(["PERMISSION_CAMPAIGNS_READ"]),
        expires_at: None,
    };
    let (key, _) = ApiKey::issue(new, &raw_key, &mut fill, an_instant()).expect("a key that never expires is issued");
    let mut parts = key.into_parts();
    change(&mut parts);
    (raw_key, ApiKey::from_parts(parts).expect("parts that agree with each other"))
}

/// An event of that key, by the operator, from [`an_origin`].
#[must_use]
pub fn an_event(key: &ApiKey, kind: KeyEventKind, at: Timestamp) -> AuditEvent {
    AuditEvent {
        event: KeyEvent { key_id: key.id(), organization_id: key.organization_id().clone(), kind, at },
        actor: Actor::operator(),
        origin: an_origin(),
    }
}

/// The commit that issues that key, by the operator.
#[must_use]
pub fn issue(key: &ApiKey) -> Commit {
    let now = key.parts().created_at;
    Commit {
        change: Change::Issue { key: key.clone(), idempotency: None, most_live: None },
        events: vec![an_event(key, KeyEventKind::Issued, now)],
        on_behalf_of: None,
        now,
    }
}

/// The commit that issues that key at most once.
#[must_use]
pub fn issue_once(key: &ApiKey, idempotency: Idempotency) -> Commit {
    Commit { change: Change::Issue { key: key.clone(), idempotency: Some(idempotency), most_live: None }, ..issue(key) }
}

/// A claim of that key's organization and that actor, for a request that `message` stands for.
#[must_use]
pub fn a_claim(key: &ApiKey, actor: Actor, header: &str, message: u8) -> Idempotency {
    Idempotency {
        organization_id: key.organization_id().clone(),
        actor,
        key: IdempotencyKey::parse(header).expect("1 to 255 visible ASCII characters"),
        request: RequestDigest::from_bytes([message; 32]),
    }
}

/// The commit that revokes that key, by the operator. The key must not be revoked yet.
#[must_use]
pub fn revoke(key: &ApiKey, now: Timestamp) -> Commit {
    let mut revoked = key.clone();
    let event = revoked.revoke(now).expect("the key is not revoked yet");
    let events = vec![AuditEvent { event, actor: Actor::operator(), origin: an_origin() }];
    Commit { change: Change::Revoke { key: revoked }, events, on_behalf_of: None, now }
}

/// The commit that confirms that the key is revoked, by the operator.
#[must_use]
pub fn confirm(key: &ApiKey, now: Timestamp) -> Commit {
    let change = Change::ConfirmRevoked {
        organization_id: key.organization_id().clone(),
        key_id: key.id(),
        digest: *key.digest(),
    };
    Commit { change, events: Vec::new(), on_behalf_of: None, now }
}

/// The same commit, authorized by that key.
#[must_use]
pub fn on_behalf_of(authorizer: &ApiKey, mut commit: Commit) -> Commit {
    commit.on_behalf_of = Some(authorizer.id());
    for event in &mut commit.events {
        event.actor = Actor::api_key(authorizer.id());
    }
    commit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_key_and_two_seeds_give_two() {
        assert_eq!(a_key(1), a_key(1));
        assert_ne!(a_key(1).id(), a_key(2).id());
        assert_ne!(a_key(1).digest(), a_key(2).digest());
    }
}
