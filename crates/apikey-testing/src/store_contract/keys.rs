//! Contract: what was stored is found again, whole and by its own organization alone.

use apikey_application::ports::KeyStore;
use apikey_domain::{Actor, ApiKey, KeyDigest, KeyName, KeyType, PermissionSet, Timestamp, Verdict};

use super::{StoreUnderTest, commit, listing, page, stored};
use crate::fixtures::{
    a_claim, a_key, a_key_with, an_instant, an_organization, another_organization, confirm, issue, organization,
    permissions, revoke, seconds_later,
};

async fn by_digest(under_test: &impl StoreUnderTest, key: &ApiKey) -> Option<ApiKey> {
    under_test.store().find_by_digest(key.digest()).await.expect("the store answers").value
}

pub async fn each_field_survives_a_round_trip(under_test: &impl StoreUnderTest) {
    let plain = a_key(1);
    let full = a_key_with(2, |parts| {
        parts.organization_id = organization(&"~".repeat(128));
        parts.name = KeyName::parse(" Naïve 日本語 👩\u{200D}🚀 ").expect("a name");
        parts.key_type = KeyType::ScimToken;
        parts.permissions = permissions(["A", "PERMISSION_ORG_READ", "Z9_"]);
        parts.created_at = an_instant();
        parts.expires_at = Some(seconds_later(1));
    });
    let bare = a_key_with(3, |parts| parts.permissions = PermissionSet::empty());
    for key in [&plain, &full, &bare] {
        commit(under_test, issue(key)).await;
    }
    for key in [&plain, &full, &bare] {
        assert_eq!(by_digest(under_test, key).await.as_ref(), Some(key));
        assert_eq!(stored(under_test, key).await.as_ref(), Some(key));
        assert!(listing(under_test, key.organization_id(), None, 10).await.contains(key));
    }
    let mut revoked = full;
    commit(under_test, revoke(&revoked, seconds_later(5))).await;
    revoked.revoke(seconds_later(5)).expect("it was not revoked");
    assert_eq!(by_digest(under_test, &revoked).await.as_ref(), Some(&revoked));
    assert_eq!(stored(under_test, &revoked).await.as_ref(), Some(&revoked));
    assert_eq!(listing(under_test, revoked.organization_id(), None, 10).await, [revoked]);
}

pub async fn what_is_absent_is_not_found(under_test: &impl StoreUnderTest) {
    let (absent, present) = (a_key(1), a_key(2));
    for round in ["in an empty store", "beside another key"] {
        let read = under_test.store().find_by_digest(absent.digest()).await.expect("the store answers");
        assert_eq!((read.value, read.seq.number), (None, under_test.head().await), "{round}");
        assert_eq!(stored(under_test, &absent).await, None, "{round}");
        let claim = a_claim(&absent, Actor::operator(), "header", 1);
        let record = under_test.store().find_idempotency(&claim.organization_id, &claim.actor, &claim.key).await;
        assert_eq!(record.expect("the store answers"), None, "{round}");
        let empty = page(under_test, &another_organization(), None, None, 10).await;
        assert_eq!((empty.keys.len(), empty.more, empty.total_count), (0, false, 0), "{round}");
        if round == "in an empty store" {
            commit(under_test, issue(&present)).await;
        }
    }
    let mut near = *present.digest().as_bytes();
    near[31] ^= 1;
    let read = under_test.store().find_by_digest(&KeyDigest::from_bytes(near)).await.expect("the store answers");
    assert_eq!(read.value, None, "a digest that differs in one bit is another digest");
}

pub async fn the_first_and_the_last_instant_are_kept_to_the_microsecond(under_test: &impl StoreUnderTest) {
    let times = [
        (Timestamp::MIN, Some(Timestamp::MAX)),
        (Timestamp::MAX, None),
        (crate::fixtures::instant(-1), Some(crate::fixtures::instant(0))),
        (crate::fixtures::instant(1_999_999), Some(crate::fixtures::instant(2_000_001))),
    ];
    for (seed, (created_at, expires_at)) in (1..).zip(times) {
        let key = a_key_with(seed, |parts| (parts.created_at, parts.expires_at) = (created_at, expires_at));
        commit(under_test, issue(&key)).await;
        assert_eq!(stored(under_test, &key).await, Some(key));
    }
    let all = listing(under_test, &an_organization(), None, 1).await;
    assert!(all.is_sorted_by_key(|key| std::cmp::Reverse(key.parts().created_at)), "instants before 1970 sort too");
}

pub async fn an_expired_key_is_still_found(under_test: &impl StoreUnderTest) {
    // The verdict is the domain's: a store that hides expired keys would turn "expired" into "unknown".
    let expires_at = seconds_later(1);
    let key = a_key_with(1, |parts| parts.expires_at = Some(expires_at));
    commit(under_test, issue(&key)).await;
    let found = by_digest(under_test, &key).await.expect("the key is there");
    let verdict = |now| found.verdict(now, apikey_domain::KeyTypes::default(), &PermissionSet::empty());
    let just_before = Timestamp::from_unix_micros(expires_at.unix_micros() - 1).expect("an instant");
    assert_eq!(verdict(just_before), Verdict::Valid);
    assert_ne!(verdict(expires_at), Verdict::Valid);
    assert!(listing(under_test, &an_organization(), None, 10).await.contains(&key));
}

pub async fn organizations_see_only_their_own_keys(under_test: &impl StoreUnderTest) {
    let ours = a_key(1);
    let theirs = a_key_with(2, |parts| parts.organization_id = another_organization());
    commit(under_test, issue(&ours)).await;
    commit(under_test, issue(&theirs)).await;
    let store = under_test.store();
    let found = store.find_by_id(ours.organization_id(), theirs.id()).await.expect("the store answers").value;
    assert_eq!(found, None, "a key of another organization has no id here");
    for key in [&ours, &theirs] {
        let own = page(under_test, key.organization_id(), None, None, 10).await;
        assert_eq!((own.keys.as_slice(), own.total_count), ([key.clone()].as_slice(), 1));
    }
    // A position in another organization's listing is only a place, and shows none of its keys.
    let after = page(under_test, ours.organization_id(), None, Some(&theirs), 10).await;
    assert!(!after.keys.contains(&theirs));
}

pub async fn organizations_are_compared_to_the_byte(under_test: &impl StoreUnderTest) {
    let names = ["acme", "ACME", "acme%", "acm_", "acme'", "acme\\", "a"];
    let key_of = |seed, name: &str| a_key_with(seed, |parts| parts.organization_id = organization(name));
    let keys: Vec<ApiKey> = (1..).zip(names).map(|(seed, name)| key_of(seed, name)).collect();
    for key in &keys {
        commit(under_test, issue(key)).await;
    }
    for key in &keys {
        let own = page(under_test, key.organization_id(), None, None, 10).await;
        assert_eq!((own.keys.as_slice(), own.total_count), ([key.clone()].as_slice(), 1));
    }
    let ours = &keys[0];
    commit(under_test, revoke(ours, seconds_later(1))).await;
    for key in &keys[1..] {
        let mut misplaced = confirm(ours, seconds_later(1));
        misplaced.change = apikey_application::ports::Change::ConfirmRevoked {
            organization_id: key.organization_id().clone(),
            key_id: ours.id(),
            digest: *ours.digest(),
        };
        under_test.store().commit(misplaced).await.expect_err("the key is of an organization spelled otherwise");
    }
}

pub async fn the_store_answers_a_ping(under_test: &impl StoreUnderTest) {
    under_test.store().ping().await.expect("the store answers");
}
