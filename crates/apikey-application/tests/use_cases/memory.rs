//! Verification from memory: what is read, how often, by whom, and when it has to wait.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use apikey_application::{
    Asker, ErrorKind, KeyCache, OneProcess, UsageLog, Verification, VerificationRequest, VerifyApiKey, VerifyError,
    fence::{Lease, Monotonic},
    ports::{Clock, CommitError, KeyStore, Seq, StoreError},
};
use apikey_domain::{RejectionReason, pidgr};
use apikey_testing::{
    FixedClock, InMemoryStore, StoreCall,
    fixtures::{a_raw_key_with, an_instant, seconds_later},
};
use futures_util::{FutureExt, future::join_all, poll};

use crate::house::{LIMITS, a_house, a_manager, an_outage, presented};

fn reads(store: &InMemoryStore) -> usize {
    store.calls(StoreCall::FindByDigest)
}

fn is_valid(answer: &Result<Verification, VerifyError>) -> bool {
    matches!(answer, Ok(Verification::Valid(_)))
}

fn is_rejected(answer: &Result<Verification, VerifyError>, because: RejectionReason) -> bool {
    matches!(answer, Ok(Verification::Rejected { reason, .. }) if *reason == because)
}

#[tokio::test]
async fn a_key_is_read_once_and_revoked_and_expired_ones_are_no_exception() {
    let house = a_house();
    let issued = house.issued().await;
    for _ in 0..3 {
        assert!(is_valid(&house.verify.verify(presented(issued.raw_key.expose())).await));
    }
    assert_eq!(reads(&house.store), 1);
    house.revoke.revoke(&a_manager(), Ok(issued.key.id())).await.unwrap();
    for _ in 0..3 {
        let answer = house.verify.verify(presented(issued.raw_key.expose())).await;
        assert!(is_rejected(&answer, RejectionReason::Revoked));
    }
    assert_eq!(reads(&house.store), 2, "the revocation took it out of memory, and it was read once more");
    let (raw_key, key) = a_raw_key_with(1, |parts| parts.expires_at = Some(seconds_later(10)));
    house.store.put(key);
    house.clock.set(seconds_later(10));
    for _ in 0..3 {
        assert!(is_rejected(&house.verify.verify(presented(raw_key.expose())).await, RejectionReason::Expired));
    }
    assert_eq!(reads(&house.store), 3);
}

#[tokio::test]
async fn a_key_in_memory_expires_to_the_instant() {
    let house = a_house();
    let (raw_key, key) = a_raw_key_with(1, |parts| parts.expires_at = Some(seconds_later(10)));
    house.store.put(key);
    assert!(is_valid(&house.verify.verify(presented(raw_key.expose())).await));
    house.clock.set(seconds_later(10));
    assert!(is_rejected(&house.verify.verify(presented(raw_key.expose())).await, RejectionReason::Expired));
    assert_eq!(reads(&house.store), 1);
}

#[tokio::test]
async fn a_revocation_whose_outcome_is_unknown_leaves_nothing_in_memory() {
    let house = a_house();
    let issued = house.issued().await;
    assert!(is_valid(&house.verify.verify(presented(issued.raw_key.expose())).await));
    house.store.fail_next(StoreCall::Commit, StoreError::OutcomeUnknown("the answer was lost".into()));
    let error = house.revoke.revoke(&a_manager(), Ok(issued.key.id())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let answer = house.verify.verify(presented(issued.raw_key.expose())).await;
    assert!(is_rejected(&answer, RejectionReason::Revoked), "{answer:?}");
}

#[tokio::test]
async fn unknown_keys_are_not_remembered_and_a_key_that_is_created_works_at_once() {
    let house = a_house();
    let (raw_key, key) = a_raw_key_with(1, |_| {});
    for _ in 0..2 {
        assert!(is_rejected(&house.verify.verify(presented(raw_key.expose())).await, RejectionReason::Unknown));
    }
    assert_eq!(reads(&house.store), 2);
    house.store.put(key);
    assert!(is_valid(&house.verify.verify(presented(raw_key.expose())).await));
}

#[tokio::test]
async fn whoever_waits_for_the_same_key_shares_one_read_and_its_failure() {
    let house = a_house();
    let issued = house.issued().await;
    let held = house.store.hold(StoreCall::FindByDigest);
    let mut all = pin!(join_all((0..10).map(|_| house.verify.verify(presented(issued.raw_key.expose())))));
    assert!(poll!(&mut all).is_pending());
    house.store.fail_next(StoreCall::FindByDigest, an_outage());
    drop(held);
    for answer in all.await {
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    assert_eq!(reads(&house.store), 1);
    assert!(is_valid(&house.verify.verify(presented(issued.raw_key.expose())).await), "a failure is not remembered");
}

#[tokio::test]
async fn a_read_whose_caller_went_away_is_taken_over() {
    let house = a_house();
    let issued = house.issued().await;
    let held = house.store.hold(StoreCall::FindByDigest);
    let verify = || Box::pin(house.verify.verify(presented(issued.raw_key.expose())));
    let (mut first, mut second) = (verify(), verify());
    assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
    drop(first);
    assert!(poll!(&mut second).is_pending());
    assert_eq!(reads(&house.store), 2);
    drop(held);
    assert!(is_valid(&second.await));
}

#[tokio::test]
async fn absence_is_not_told_from_a_read_that_began_before_the_question() {
    let house = a_house();
    let (raw_key, _) = a_raw_key_with(1, |_| {});
    let held = house.store.hold(StoreCall::FindByDigest);
    let verify = || Box::pin(house.verify.verify(presented(raw_key.expose())));
    let (mut first, mut second) = (verify(), verify());
    assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
    assert_eq!(reads(&house.store), 1);
    drop(held);
    assert!(is_rejected(&first.await, RejectionReason::Unknown));
    assert!(is_rejected(&second.await, RejectionReason::Unknown));
    assert_eq!(reads(&house.store), 2);
}

#[tokio::test]
async fn questions_about_unknown_keys_are_shed_before_they_take_what_others_need() {
    let house = a_house();
    let held = house.store.hold(StoreCall::FindByDigest);
    let keys: Vec<_> = (0..200).map(|seed| a_raw_key_with(seed, |_| {}).0).collect();
    let mut all: Vec<Pin<Box<_>>> =
        keys.iter().map(|raw_key| Box::pin(house.verify.verify(presented(raw_key.expose())))).collect();
    let mut shed = 0;
    for call in &mut all {
        if let std::task::Poll::Ready(answer) = poll!(call) {
            assert_eq!(answer.unwrap_err().kind(), ErrorKind::ResourceExhausted);
            shed += 1;
        }
    }
    let reading = LIMITS.reads;
    assert_eq!((reads(&house.store), shed), (reading, 200 - reading - 64 * reading));
    drop((held, all));
    let (raw_key, _) = a_raw_key_with(250, |_| {});
    assert!(is_rejected(&house.verify.verify(presented(raw_key.expose())).await, RejectionReason::Unknown));
}

#[tokio::test]
async fn what_was_changed_by_hand_shows_after_ten_minutes_and_an_outage_then_changes_nothing() {
    let house = a_house();
    let (raw_key, key) = a_raw_key_with(1, |_| {});
    house.store.put(key.clone());
    assert!(is_valid(&house.verify.verify(presented(raw_key.expose())).await));
    let mut parts = key.into_parts();
    parts.revoked_at = Some(seconds_later(1));
    house.store.put(apikey_domain::ApiKey::from_parts(parts).unwrap());
    assert!(is_valid(&house.verify.verify(presented(raw_key.expose())).await), "it is still in memory");
    house.clock.advance(Duration::from_secs(661));
    house.store.fail_next(StoreCall::FindByDigest, an_outage());
    assert!(is_valid(&house.verify.verify(presented(raw_key.expose())).await));
    house.clock.advance(Duration::from_secs(30));
    let _reads_again = house.verify.verify(presented(raw_key.expose())).await;
    assert!(is_rejected(&house.verify.verify(presented(raw_key.expose())).await, RejectionReason::Revoked));
    assert_eq!(reads(&house.store), 3);
}

/// A replica whose renewal task is the test.
struct Replica {
    store: InMemoryStore,
    clock: FixedClock,
    cache: Arc<KeyCache>,
    verify: VerifyApiKey<InMemoryStore, FixedClock>,
}

const LEASE: Lease = Lease::DEFAULT;

fn a_replica() -> Replica {
    a_replica_for(Asker::Trusted)
}

fn a_replica_for(asker: Asker) -> Replica {
    let (store, clock) = (InMemoryStore::new(), FixedClock::at(an_instant()));
    let cache = Arc::new(KeyCache::of_replica(LEASE, LIMITS));
    let (usage, shared) = (Arc::new(UsageLog::new()), Arc::new(clock.clone()));
    let store_of_verify = Arc::new(store.clone());
    let verify = VerifyApiKey::new(store_of_verify, Arc::clone(&cache), shared, usage, pidgr::KEY_FORMAT, asker);
    Replica { store, clock, cache, verify }
}

impl Replica {
    fn renews(&self) {
        self.renews_since(self.clock.monotonic());
    }

    fn renews_since(&self, begun: Monotonic) {
        self.cache.publish_deadline(begun + LEASE.held());
        self.cache.wake_waiters();
    }

    fn is_asked(&self) -> bool {
        self.cache.asked().now_or_never().is_some()
    }
}

fn strictly(request: VerificationRequest<'_>) -> VerificationRequest<'_> {
    VerificationRequest { strict: true, ..request }
}

#[tokio::test]
async fn without_a_lease_a_replica_asks_for_a_renewal_and_waits_for_one_that_began_later() {
    let replica = a_replica();
    let (raw_key, key) = a_raw_key_with(1, |_| {});
    replica.store.put(key);
    let before = replica.clock.monotonic();
    assert!(!replica.is_asked());
    let mut call = pin!(replica.verify.verify(presented(raw_key.expose())));
    assert!(poll!(&mut call).is_pending());
    assert!(replica.is_asked());
    replica.clock.advance(LEASE.held());
    replica.renews_since(before);
    assert!(poll!(&mut call).is_pending(), "that renewal began before the request, and its lease has ended");
    assert_eq!(reads(&replica.store), 0);
    replica.renews();
    assert!(is_valid(&call.await));
    replica.clock.advance(LEASE.held());
    let mut call = pin!(replica.verify.verify(presented(raw_key.expose())));
    assert!(poll!(&mut call).is_pending(), "the lease has ended, though the key is in memory");
    replica.renews();
    assert!(is_valid(&call.await));
    assert_eq!(reads(&replica.store), 1);
}

#[tokio::test]
async fn a_renewal_that_fails_is_an_outage_for_whoever_arrived_before_it_began() {
    let replica = a_replica();
    let (raw_key, key) = a_raw_key_with(1, |_| {});
    replica.store.put(key);
    let before = replica.clock.monotonic();
    let mut call = pin!(replica.verify.verify(presented(raw_key.expose())));
    assert!(poll!(&mut call).is_pending());
    replica.cache.renewal_failed(before);
    assert!(poll!(&mut call).is_pending(), "the next attempt may succeed");
    replica.cache.renewal_failed(replica.clock.monotonic());
    assert_eq!(call.await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn strict_waits_for_a_renewal_of_its_own_while_others_are_answered() {
    let replica = a_replica();
    let (raw_key, key) = a_raw_key_with(1, |_| {});
    replica.store.put(key);
    replica.renews();
    assert!(is_valid(&replica.verify.verify(presented(raw_key.expose())).await));
    let mut call = pin!(replica.verify.verify(strictly(presented(raw_key.expose()))));
    assert!(poll!(&mut call).is_pending());
    assert!(is_valid(&replica.verify.verify(presented(raw_key.expose())).await));
    replica.renews();
    assert!(is_valid(&call.await));
    assert_eq!(reads(&replica.store), 1);
}

#[tokio::test]
async fn absence_is_told_only_after_a_renewal_that_began_after_the_question() {
    let replica = a_replica();
    replica.renews();
    let (raw_key, _) = a_raw_key_with(1, |_| {});
    let mut call = pin!(replica.verify.verify(presented(raw_key.expose())));
    assert!(poll!(&mut call).is_pending());
    assert_eq!(reads(&replica.store), 1);
    assert!(replica.is_asked());
    replica.renews();
    assert!(is_rejected(&call.await, RejectionReason::Unknown));
    assert_eq!(reads(&replica.store), 1, "the same read is judged again");
}

#[tokio::test]
async fn a_read_of_a_server_that_lags_is_not_taken_and_its_connection_not_used_again() {
    let replica = a_replica();
    let (raw_key, key) = a_raw_key_with(1, |_| {});
    replica.store.put(key);
    replica.cache.raise_applied(Seq::new(0, 1));
    replica.renews();
    let error = replica.verify.verify(presented(raw_key.expose())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(reads(&replica.store), replica.store.calls(StoreCall::DistrustConnections));
    assert_eq!(replica.cache.statistics().keys, 0);
    let (_, revoked) = a_raw_key_with(2, |parts| parts.revoked_at = Some(an_instant()));
    replica.store.put(revoked);
    assert!(is_valid(&replica.verify.verify(presented(raw_key.expose())).await), "now it has caught up");
}

#[tokio::test]
async fn a_read_that_somebody_else_began_too_early_is_not_taken_but_its_connection_is_blameless() {
    let replica = a_replica();
    let (raw_key, key) = a_raw_key_with(1, |_| {});
    replica.store.put(key);
    replica.renews();
    let held = replica.store.hold(StoreCall::FindByDigest);
    let verify = || Box::pin(replica.verify.verify(presented(raw_key.expose())));
    let (mut first, mut second) = (verify(), verify());
    assert!(poll!(&mut first).is_pending());
    replica.cache.raise_applied(Seq::new(0, 1));
    assert!(poll!(&mut second).is_pending());
    assert_eq!(reads(&replica.store), 1);
    drop(held);
    assert!(is_valid(&first.await));
    let (_, revoked) = a_raw_key_with(2, |parts| parts.revoked_at = Some(an_instant()));
    replica.store.put(revoked);
    assert!(is_valid(&second.await));
    assert_eq!((reads(&replica.store), replica.store.calls(StoreCall::DistrustConnections)), (2, 0));
}

#[tokio::test]
async fn a_replica_on_another_timeline_takes_nothing_of_the_old_one() {
    let replica = a_replica();
    let (raw_key, key) = a_raw_key_with(1, |_| {});
    replica.store.put(key);
    replica.renews();
    let held = replica.store.hold(StoreCall::FindByDigest);
    let mut call = pin!(replica.verify.verify(presented(raw_key.expose())));
    assert!(poll!(&mut call).is_pending());
    replica.cache.publish_deadline(Monotonic::ZERO);
    replica.cache.raise_applied(Seq::new(1, 0));
    replica.cache.evict_all();
    drop(held);
    assert!(is_valid(&call.await), "it was admitted before, and read what was true then");
    assert_eq!(replica.cache.statistics().keys, 0, "but nobody who comes later may be answered by that");
    replica.renews();
    let later = replica.verify.verify(presented(raw_key.expose())).await;
    assert_eq!(later.unwrap_err().kind(), ErrorKind::Unavailable, "this store stays on the old timeline");
}

#[tokio::test]
async fn one_process_passes_everything_else_on() {
    let house = a_house();
    let store = OneProcess::new(house.store.clone(), Arc::new(KeyCache::of_one_process(LIMITS)));
    let issued = house.issued().await;
    store.ping().await.unwrap();
    store.distrust_connections();
    let found = store.find_by_id(issued.key.organization_id(), issued.key.id()).await.unwrap().value;
    assert_eq!(found, Some(issued.key.clone()));
    let again = store.commit(apikey_testing::fixtures::issue(&issued.key)).await;
    assert!(matches!(again, Err(CommitError::DuplicateDigest)));
}
