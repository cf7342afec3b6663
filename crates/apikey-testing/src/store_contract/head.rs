//! Contract: the revocation head counts every narrowing of a right, and each read proves how much of it it has seen.

use std::sync::atomic::{AtomicBool, Ordering};

use apikey_application::ports::{Change, CommitError, KeyStore};
use futures_util::future::{join, join_all};

use super::{StoreUnderTest, commit, everything, refusal, stored};
use crate::fixtures::{
    a_key, a_key_with, an_organization, another_organization, confirm, issue, on_behalf_of, revoke, seconds_later,
};

pub async fn an_issue_does_not_move_the_head(under_test: &impl StoreUnderTest) {
    let (first, second) = (a_key(1), a_key(2));
    commit(under_test, issue(&first)).await;
    commit(under_test, revoke(&first, seconds_later(1))).await;
    let head = under_test.head().await;
    let seq = commit(under_test, issue(&second)).await;
    assert!(seq.number <= head, "an issue reports no head that was not reached");
    assert_eq!(under_test.head().await, head);
    assert_eq!(under_test.narrowed_seq(second.id()).await, None);
}

pub async fn each_revocation_moves_the_head_by_one_and_is_noted_on_its_key(under_test: &impl StoreUnderTest) {
    let keys: Vec<_> = (1..=3).map(a_key).collect();
    for key in &keys {
        commit(under_test, issue(key)).await;
    }
    let start = under_test.head().await;
    for (number, key) in (start + 1..).zip(&keys) {
        let seq = commit(under_test, revoke(key, seconds_later(1))).await;
        assert_eq!((seq.number, under_test.head().await), (number, number));
        assert_eq!(under_test.narrowed_seq(key.id()).await, Some(number));
        let read = under_test.store().find_by_digest(key.digest()).await.expect("the store answers");
        assert_eq!(read.seq, seq, "a read after the commit is of the commit's timeline and number");
    }
    assert_eq!(under_test.narrowed_seq(keys[0].id()).await, Some(start + 1), "later revocations leave it alone");
}

pub async fn revocations_at_once_have_a_number_each(under_test: &impl StoreUnderTest) {
    let keys: Vec<_> = (1..=24).map(a_key).collect();
    for key in &keys {
        commit(under_test, issue(key)).await;
    }
    let start = under_test.head().await;
    let store = under_test.store();
    let outcomes = join_all(keys.iter().map(|key| store.commit(revoke(key, seconds_later(1))))).await;
    let mut numbers = Vec::new();
    for (key, outcome) in keys.iter().zip(outcomes) {
        let seq = outcome.expect("different keys do not stand in each other's way");
        assert_eq!(under_test.narrowed_seq(key.id()).await, Some(seq.number));
        numbers.push(seq.number);
    }
    numbers.sort_unstable();
    assert!(numbers.iter().copied().eq(start + 1..=start + 24), "{numbers:?}");
    assert_eq!(under_test.head().await, start + 24);
}

pub async fn a_read_shows_every_change_up_to_its_head(under_test: &impl StoreUnderTest) {
    for seed in 1..=24 {
        let key = a_key(seed);
        commit(under_test, issue(&key)).await;
        let (store, committed) = (under_test.store(), AtomicBool::new(false));
        let revocation = async {
            let seq = store.commit(revoke(&key, seconds_later(1))).await;
            committed.store(true, Ordering::SeqCst);
            seq.expect("nothing speaks against the revocation")
        };
        // Reads without a pause, so that some fall into the instant of the commit, and one more after it.
        let reader = || async {
            let mut reads = Vec::new();
            loop {
                let last = committed.load(Ordering::SeqCst);
                let read = store.find_by_digest(key.digest()).await.expect("the store answers");
                reads.push((read.value.is_some_and(|key| key.parts().revoked_at.is_some()), read.seq));
                if last {
                    return reads;
                }
            }
        };
        let (seq, readers) = join(revocation, join_all([reader(), reader(), reader()])).await;
        for reads in readers {
            for (revoked, read_at) in &reads {
                assert_eq!(read_at.timeline, seq.timeline);
                assert_eq!(*revoked, read_at.number >= seq.number, "key and head are not of one snapshot");
            }
            assert!(reads.last().is_some_and(|(revoked, _)| *revoked), "the revocation is visible after its commit");
        }
    }
}

pub async fn a_confirmation_returns_the_keys_own_number_and_moves_nothing(under_test: &impl StoreUnderTest) {
    let (first, second) = (a_key(1), a_key(2));
    for key in [&first, &second] {
        commit(under_test, issue(key)).await;
    }
    let own = commit(under_test, revoke(&first, seconds_later(1))).await;
    let latest = commit(under_test, revoke(&second, seconds_later(2))).await;
    assert_ne!(own, latest);
    let before = everything(under_test, &first).await;
    for _ in 0..2 {
        assert_eq!(commit(under_test, confirm(&first, seconds_later(3))).await, own);
    }
    assert_eq!(everything(under_test, &first).await, before);
    let store = under_test.store();
    let (one, other) =
        join(store.commit(confirm(&first, seconds_later(3))), store.commit(confirm(&first, seconds_later(3)))).await;
    assert_eq!((one.expect("confirmed"), other.expect("confirmed")), (own, own), "confirmations at once");
    let revoked_meanwhile = stored(under_test, &first).await.expect("the key is there");
    assert_eq!(revoked_meanwhile.parts().revoked_at, Some(seconds_later(1)));
}

pub async fn a_live_foreign_or_unknown_key_cannot_be_confirmed(under_test: &impl StoreUnderTest) {
    let (live, revoked) = (a_key(1), a_key(2));
    let foreign = a_key_with(3, |parts| parts.organization_id = another_organization());
    for key in [&live, &revoked, &foreign] {
        commit(under_test, issue(key)).await;
    }
    commit(under_test, revoke(&revoked, seconds_later(1))).await;
    commit(under_test, revoke(&foreign, seconds_later(1))).await;
    for key in [&live, &foreign, &a_key(4)] {
        let before = everything(under_test, key).await;
        let mut confirmation = confirm(key, seconds_later(2));
        confirmation.change =
            Change::ConfirmRevoked { organization_id: an_organization(), key_id: key.id(), digest: *key.digest() };
        for attempt in [confirmation.clone(), on_behalf_of(&live, confirmation)] {
            let error = refusal(under_test, attempt).await;
            assert!(matches!(error, CommitError::NotFound), "{error:?}");
        }
        assert_eq!(everything(under_test, key).await, before);
    }
}
