//! Contract: a request with a header is carried out at most once, for ever, per organization and caller.

use apikey_application::{
    Idempotency,
    ports::{CommitError, KeyStore, StoredIdempotency},
};
use apikey_domain::Actor;
use futures_util::future::join_all;

use super::{StoreUnderTest, commit, everything, listing, refusal, stored};
use crate::fixtures::{a_claim, a_key, a_key_with, a_person, an_organization, another_organization, issue, issue_once};

async fn record(under_test: &impl StoreUnderTest, claim: &Idempotency) -> Option<StoredIdempotency> {
    let found = under_test.store().find_idempotency(&claim.organization_id, &claim.actor, &claim.key).await;
    found.expect("the store answers")
}

fn used(error: CommitError) -> StoredIdempotency {
    match error {
        CommitError::IdempotencyKeyUsed(stored) => stored,
        other => panic!("the header was used before: {other:?}"),
    }
}

pub async fn a_repeated_request_is_told_the_first_key(under_test: &impl StoreUnderTest) {
    let first = a_key(1);
    let claim = a_claim(&first, a_person("alice"), "header", 1);
    commit(under_test, issue_once(&first, claim.clone())).await;
    let expected = StoredIdempotency { key_id: first.id(), request: claim.request };
    assert_eq!(record(under_test, &claim).await, Some(expected));
    let again = a_key(2);
    let before = everything(under_test, &again).await;
    for _ in 0..2 {
        assert_eq!(used(refusal(under_test, issue_once(&again, claim.clone())).await), expected);
    }
    assert_eq!(everything(under_test, &again).await, before, "nothing is ever replaced");
    assert_eq!(record(under_test, &claim).await, Some(expected));
    // A revocation of the key does not free the header.
    commit(under_test, crate::fixtures::revoke(&first, crate::fixtures::seconds_later(1))).await;
    assert_eq!(used(refusal(under_test, issue_once(&again, claim)).await), expected);
}

pub async fn another_message_is_told_the_first_request(under_test: &impl StoreUnderTest) {
    let (first, other) = (a_key(1), a_key(2));
    let claim = a_claim(&first, Actor::operator(), "header", 1);
    commit(under_test, issue_once(&first, claim.clone())).await;
    let error = refusal(under_test, issue_once(&other, a_claim(&other, Actor::operator(), "header", 2))).await;
    assert_eq!(used(error), StoredIdempotency { key_id: first.id(), request: claim.request });
    assert_eq!(stored(under_test, &other).await, None);
}

pub async fn another_caller_or_organization_has_headers_of_its_own(under_test: &impl StoreUnderTest) {
    let ours = a_key(1);
    let theirs = a_key_with(2, |parts| parts.organization_id = another_organization());
    let claims = [
        (a_key(3), a_claim(&ours, a_person("alice"), "header", 1)),
        (a_key(4), a_claim(&ours, a_person("bob"), "header", 1)),
        (a_key(5), a_claim(&ours, Actor::operator(), "header", 1)),
        (a_key(6), a_claim(&ours, Actor::api_key(ours.id()), "header", 1)),
        (a_key(7), a_claim(&ours, a_person("alice"), "another", 1)),
        (theirs.clone(), a_claim(&theirs, a_person("alice"), "header", 1)),
    ];
    for (key, claim) in &claims {
        assert_eq!(record(under_test, claim).await, None);
        commit(under_test, issue_once(key, claim.clone())).await;
    }
    for (key, claim) in &claims {
        let expected = StoredIdempotency { key_id: key.id(), request: claim.request };
        assert_eq!(record(under_test, claim).await, Some(expected));
    }
    commit(under_test, issue(&ours)).await;
}

pub async fn requests_at_once_issue_one_key(under_test: &impl StoreUnderTest) {
    for round in 0..6_u8 {
        let keys: Vec<_> = (0..6).map(|index| a_key(u64::from(round) * 10 + index)).collect();
        let header = format!("header-{round}");
        // The same message from all, or another one from each.
        let message = |index| if round % 2 == 0 { 1 } else { index };
        let store = under_test.store();
        let outcomes = join_all((0..).zip(&keys).map(|(index, key)| {
            store.commit(issue_once(key, a_claim(key, Actor::operator(), &header, message(index))))
        }))
        .await;
        let (mut winners, mut told) = (Vec::new(), Vec::new());
        for (index, outcome) in (0..).zip(outcomes) {
            match outcome {
                Ok(_) => winners.push((&keys[usize::from(index)], message(index))),
                Err(error) => told.push(used(error)),
            }
        }
        let [(winner, its_message)] = winners[..] else { panic!("exactly one is carried out: {winners:?}") };
        let claim = a_claim(winner, Actor::operator(), &header, its_message);
        assert!(told.iter().all(|stored| (stored.key_id, stored.request) == (winner.id(), claim.request)), "{told:?}");
        assert_eq!(under_test.row_counts().await.idempotency_records, u64::from(round) + 1);
        let all = listing(under_test, &an_organization(), None, 100).await;
        assert_eq!(all.len(), usize::from(round) + 1);
        assert!(all.contains(winner));
    }
}

pub async fn a_refused_commit_does_not_use_up_its_header(under_test: &impl StoreUnderTest) {
    let (key, other) = (a_key(1), a_key(3));
    let twin = a_key_with(2, |parts| parts.digest = *key.digest());
    commit(under_test, issue(&key)).await;
    let claim = a_claim(&twin, Actor::operator(), "header", 1);
    let error = refusal(under_test, issue_once(&twin, claim.clone())).await;
    assert!(matches!(error, CommitError::DuplicateDigest), "{error:?}");
    assert_eq!(record(under_test, &claim).await, None);
    commit(under_test, issue_once(&other, claim.clone())).await;
    assert_eq!(record(under_test, &claim).await.map(|record| record.key_id), Some(other.id()));
}

pub async fn headers_are_compared_to_the_byte(under_test: &impl StoreUnderTest) {
    let (long, longer) = ("x".repeat(254), "x".repeat(255));
    let headers = ["a", "A", "a%", "_", "a'", "a\\", "\"a\"", "--", &long, &longer];
    for (seed, header) in (1..).zip(headers) {
        let key = a_key(seed);
        let claim = a_claim(&key, Actor::operator(), header, 1);
        commit(under_test, issue_once(&key, claim.clone())).await;
        assert_eq!(record(under_test, &claim).await.map(|record| record.key_id), Some(key.id()), "{header}");
    }
}
