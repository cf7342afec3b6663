//! Contract: nothing commits in the name of a key that no longer stands.

use apikey_application::ports::{Commit, CommitError, KeyStore};
use apikey_domain::{ApiKey, Timestamp};
use futures_util::future::join;

use super::{StoreUnderTest, commit, everything, refusal, stored};
use crate::fixtures::{
    a_claim, a_key, a_key_with, a_person, confirm, issue, issue_once, on_behalf_of, revoke, seconds_later,
};

/// One commit of each kind, authorized by that key. `live` and `revoked` are in the store.
fn mutations(authorizer: &ApiKey, new: &ApiKey, live: &ApiKey, revoked: &ApiKey, now: Timestamp) -> [Commit; 3] {
    let commits = [issue(new), revoke(live, now), confirm(revoked, now)];
    commits.map(|commit| Commit { now, ..on_behalf_of(authorizer, commit) })
}

async fn prepare(under_test: &impl StoreUnderTest, authorizer: &ApiKey) -> [ApiKey; 3] {
    let [new, live, revoked] = [a_key(101), a_key(102), a_key(103)];
    for key in [authorizer, &live, &revoked] {
        commit(under_test, issue(key)).await;
    }
    commit(under_test, revoke(&revoked, seconds_later(1))).await;
    [new, live, revoked]
}

async fn all_are_refused(under_test: &impl StoreUnderTest, authorizer: &ApiKey, keys: [ApiKey; 3], now: Timestamp) {
    let [new, live, revoked] = keys;
    for mutation in mutations(authorizer, &new, &live, &revoked, now) {
        let before = (everything(under_test, &new).await, everything(under_test, &live).await);
        let error = refusal(under_test, mutation).await;
        assert!(matches!(error, CommitError::AuthorizerNotStanding), "{error:?}");
        assert_eq!((everything(under_test, &new).await, everything(under_test, &live).await), before);
    }
}

pub async fn a_key_that_stands_authorizes_an_issue_a_revocation_and_a_confirmation(under_test: &impl StoreUnderTest) {
    let authorizer = a_key(1);
    let [new, live, revoked] = prepare(under_test, &authorizer).await;
    for mutation in mutations(&authorizer, &new, &live, &revoked, seconds_later(5)) {
        commit(under_test, mutation).await;
    }
    let rows = under_test.audit_rows(new.id()).await;
    assert_eq!(rows[0].actor, format!("api_key {}", authorizer.id()));
    assert_eq!(stored(under_test, &authorizer).await, Some(authorizer), "authorizing is not a change of the key");
}

pub async fn a_revoked_key_authorizes_nothing(under_test: &impl StoreUnderTest) {
    let authorizer = a_key(1);
    let keys = prepare(under_test, &authorizer).await;
    commit(under_test, revoke(&authorizer, seconds_later(5))).await;
    // Not even at an instant before the revocation: another replica's clock may be late.
    all_are_refused(under_test, &authorizer, keys, seconds_later(4)).await;
}

pub async fn a_key_authorizes_until_just_before_its_expiry(under_test: &impl StoreUnderTest) {
    let expires_at = seconds_later(60);
    let authorizer = a_key_with(1, |parts| parts.expires_at = Some(expires_at));
    let [new, live, revoked] = prepare(under_test, &authorizer).await;
    let keys = [new.clone(), live.clone(), revoked.clone()];
    all_are_refused(under_test, &authorizer, keys, expires_at).await;
    let just_before = Timestamp::from_unix_micros(expires_at.unix_micros() - 1).expect("an instant");
    for mutation in mutations(&authorizer, &new, &live, &revoked, just_before) {
        commit(under_test, mutation).await;
    }
}

pub async fn an_unknown_key_authorizes_nothing(under_test: &impl StoreUnderTest) {
    let keys = prepare(under_test, &a_key(1)).await;
    all_are_refused(under_test, &a_key(2), keys, seconds_later(5)).await;
}

pub async fn a_key_may_revoke_itself_once(under_test: &impl StoreUnderTest) {
    let key = a_key(1);
    commit(under_test, issue(&key)).await;
    let myself = || on_behalf_of(&key, revoke(&key, seconds_later(1)));
    let seq = commit(under_test, myself()).await;
    assert_eq!(under_test.narrowed_seq(key.id()).await, Some(seq.number));
    let again = refusal(under_test, myself()).await;
    assert!(matches!(again, CommitError::AuthorizerNotStanding), "{again:?}");
    let confirmation = refusal(under_test, on_behalf_of(&key, confirm(&key, seconds_later(2)))).await;
    assert!(matches!(confirmation, CommitError::AuthorizerNotStanding), "{confirmation:?}");
}

pub async fn a_mutation_and_the_revocation_of_its_authorizer_at_once_happen_in_some_order(
    under_test: &impl StoreUnderTest,
) {
    for round in 0..16 {
        let (authorizer, new, live) = (a_key(3 * round + 1), a_key(3 * round + 2), a_key(3 * round + 3));
        commit(under_test, issue(&authorizer)).await;
        commit(under_test, issue(&live)).await;
        let (issues, target) = (round % 2 == 0, if round % 2 == 0 { &new } else { &live });
        let mutation = if issues { issue(&new) } else { revoke(&live, seconds_later(1)) };
        let mutation = on_behalf_of(&authorizer, mutation);
        let before = everything(under_test, target).await;
        let revocation = revoke(&authorizer, seconds_later(1));
        let store = under_test.store();
        // Each of the two is polled first in half of the rounds.
        let (mutated, revoked) = if round % 4 < 2 {
            join(store.commit(mutation), store.commit(revocation)).await
        } else {
            let (revoked, mutated) = join(store.commit(revocation), store.commit(mutation)).await;
            (mutated, revoked)
        };
        revoked.expect("the revocation waits for nobody's permission");
        let after = everything(under_test, target).await;
        match mutated {
            Ok(_) => assert_eq!(after.audit.len(), before.audit.len() + 1),
            Err(CommitError::AuthorizerNotStanding) => {
                assert_eq!(
                    (after.key, after.narrowed_seq, after.audit),
                    (before.key, before.narrowed_seq, before.audit)
                );
            }
            Err(error) => panic!("neither done nor refused: {error:?}"),
        }
        // Whoever comes after the revocation is refused.
        let late = on_behalf_of(&authorizer, issue(&a_key(1_000 + round)));
        assert!(matches!(refusal(under_test, late).await, CommitError::AuthorizerNotStanding));
    }
}

pub async fn of_two_keys_that_revoke_each_other_at_once_one_wins(under_test: &impl StoreUnderTest) {
    for round in 0..16 {
        let (one, other) = (a_key(2 * round + 1), a_key(2 * round + 2));
        commit(under_test, issue(&one)).await;
        commit(under_test, issue(&other)).await;
        let store = under_test.store();
        let now = seconds_later(1);
        let outcomes = join(
            store.commit(on_behalf_of(&one, revoke(&other, now))),
            store.commit(on_behalf_of(&other, revoke(&one, now))),
        )
        .await;
        let (winner, loser) = match outcomes {
            (Ok(_), Err(CommitError::AuthorizerNotStanding)) => (one, other),
            (Err(CommitError::AuthorizerNotStanding), Ok(_)) => (other, one),
            outcomes => panic!("one of the two must be refused: {outcomes:?}"),
        };
        assert!(stored(under_test, &winner).await.is_some_and(|key| key.stands(now)));
        assert!(stored(under_test, &loser).await.is_some_and(|key| !key.stands(now)));
        assert_eq!(under_test.head().await, round + 1);
    }
}

pub async fn whoever_no_longer_stands_learns_nothing_else(under_test: &impl StoreUnderTest) {
    let authorizer = a_key(1);
    let [new, live, _] = prepare(under_test, &authorizer).await;
    let claim = a_claim(&new, a_person("alice"), "header", 1);
    commit(under_test, issue_once(&new, claim.clone())).await;
    commit(under_test, revoke(&live, seconds_later(2))).await;
    commit(under_test, revoke(&authorizer, seconds_later(3))).await;
    let now = seconds_later(4);
    for refused_twice_over in [
        issue(&new),
        issue_once(&a_key(104), claim),
        revoke(&live, now),
        revoke(&a_key(105), now),
        confirm(&a_key(105), now),
    ] {
        let error = refusal(under_test, on_behalf_of(&authorizer, refused_twice_over)).await;
        assert!(matches!(error, CommitError::AuthorizerNotStanding), "{error:?}");
    }
}
