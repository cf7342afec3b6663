//! Whoever is not known yet: what attempts to call by a key may cost, and what they tell.

use std::{net::IpAddr, num::NonZeroU32, pin::pin, sync::Arc, time::Duration};

use apikey_application::{
    Asker, Attempts, AuthenticationError, Authenticator, Credential, ErrorKind, KeyCache, UsageLog, VerifyApiKey,
    fence::Lease, ports::Clock,
};
use apikey_domain::pidgr;
use apikey_testing::{
    FixedClock, InMemoryStore, StoreCall,
    fixtures::{a_raw_key_with, an_instant},
};
use futures_util::{FutureExt, future::join_all, poll};

use crate::house::{LIMITS, OneToken, an_outage, presented};

/// A replica that serves services and strangers out of one memory.
struct Replica {
    store: InMemoryStore,
    clock: FixedClock,
    cache: Arc<KeyCache>,
    verify: VerifyApiKey<InMemoryStore, FixedClock>,
    authenticate: Authenticator<InMemoryStore, FixedClock, OneToken>,
}

const LEASE: Lease = Lease::DEFAULT;
/// One failure a second, and four at once.
const PER_SECOND: Option<NonZeroU32> = NonZeroU32::new(1);
const AT_ONCE: usize = 4;

fn a_replica() -> Replica {
    let (store, clock) = (InMemoryStore::new(), FixedClock::at(an_instant()));
    let cache = Arc::new(KeyCache::of_replica(LEASE, LIMITS));
    let for_asker = |asker| {
        let (shared, usage) = (Arc::new(clock.clone()), Arc::new(UsageLog::new()));
        VerifyApiKey::new(Arc::new(store.clone()), Arc::clone(&cache), shared, usage, pidgr::KEY_FORMAT, asker)
    };
    let verify = for_asker(Asker::Trusted);
    let strangers = Arc::new(for_asker(Asker::Stranger));
    let authenticate = Authenticator::new(strangers, OneToken, Attempts::limited_to(PER_SECOND));
    let replica = Replica { store, clock, cache, verify, authenticate };
    replica.renews();
    replica
}

fn peer(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

impl Replica {
    fn renews(&self) {
        self.cache.publish_deadline(self.clock.monotonic() + LEASE.held());
        self.cache.wake_waiters();
    }

    fn reads(&self) -> usize {
        self.store.calls(StoreCall::FindByDigest)
    }

    /// An attempt that is answered after the next renewal at the latest.
    async fn attempt(&self, raw_key: &str, peer: IpAddr) -> Result<(), AuthenticationError> {
        let mut attempt = pin!(self.authenticate.authenticate(Credential::ApiKey(raw_key), Some(peer)));
        if let std::task::Poll::Ready(answer) = poll!(&mut attempt) {
            return answer.map(drop);
        }
        self.renews();
        attempt.await.map(drop)
    }

    /// Attempts by unknown keys until no more are let through.
    async fn exhaust(&self, peer: IpAddr) {
        for seed in 0..AT_ONCE {
            let (unknown, _) = a_raw_key_with(1_000 + seed as u64, |_| {});
            let error = self.attempt(unknown.expose(), peer).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");
        }
    }
}

#[tokio::test]
async fn services_are_read_for_whatever_strangers_present() {
    let replica = a_replica();
    let (raw_key, key) = a_raw_key_with(1, |_| {});
    replica.store.put(key);
    let held = replica.store.hold(StoreCall::FindByDigest);
    let unknown: Vec<_> = (0..1_000).map(|seed| a_raw_key_with(1_000 + seed, |_| {}).0).collect();
    let attempts = unknown.iter().map(|key| replica.authenticate.authenticate(Credential::ApiKey(key.expose()), None));
    let mut attempts = pin!(join_all(attempts));
    assert!(poll!(&mut attempts).is_pending());
    assert_eq!(replica.reads(), LIMITS.reads_for_strangers, "as many reads as strangers have, and no more");
    let mut call = pin!(replica.verify.verify(presented(raw_key.expose())));
    assert!(poll!(&mut call).is_pending());
    assert_eq!(replica.reads(), LIMITS.reads_for_strangers + 1, "a service's read begins at once");
    drop(held);
    call.await.unwrap();
}

#[tokio::test]
async fn an_unknown_key_of_a_stranger_is_told_so_after_a_renewal_that_others_may_have_asked_for() {
    let replica = a_replica();
    let (raw_key, key) = a_raw_key_with(1, |_| {});
    let mut attempt = pin!(replica.authenticate.authenticate(Credential::ApiKey(raw_key.expose()), None));
    assert!(poll!(&mut attempt).is_pending());
    assert_eq!(replica.cache.asked().now_or_never(), Some(Asker::Stranger));
    assert_eq!(replica.cache.asked().now_or_never(), None);
    replica.renews();
    assert_eq!(attempt.await.unwrap_err().kind(), ErrorKind::Unauthenticated);
    replica.store.put(key);
    replica.attempt(raw_key.expose(), peer(1)).await.expect("a key that was made before the request arrived");
}

#[tokio::test]
async fn a_peer_that_failed_too_often_makes_the_store_work_no_more_until_time_has_passed() {
    let replica = a_replica();
    replica.exhaust(peer(1)).await;
    let reads = replica.reads();
    let (unknown, _) = a_raw_key_with(1, |_| {});
    let (cold, key) = a_raw_key_with(2, |_| {});
    replica.store.put(key);
    for raw_key in [&unknown, &cold] {
        let error = replica.attempt(raw_key.expose(), peer(1)).await.unwrap_err();
        assert!(matches!(error, AuthenticationError::TooManyFailures), "{error:?}");
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    }
    assert_eq!(replica.reads(), reads, "before any I/O");
    replica.attempt(cold.expose(), peer(2)).await.expect("another peer is not concerned");
    replica.attempt(cold.expose(), peer(1)).await.expect("what is in memory by now is nothing to the store");
    replica.clock.advance(Duration::from_secs(1));
    replica.renews();
    let error = replica.attempt(unknown.expose(), peer(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "one more after a second");
}

#[tokio::test]
async fn a_revoked_key_in_memory_cannot_be_told_from_an_unknown_one_by_what_is_refused() {
    let replica = a_replica();
    let (revoked, key) = a_raw_key_with(1, |parts| parts.revoked_at = Some(an_instant()));
    replica.store.put(key);
    replica.verify.verify(presented(revoked.expose())).await.unwrap();
    replica.exhaust(peer(1)).await;
    let error = replica.attempt(revoked.expose(), peer(1)).await.unwrap_err();
    assert!(matches!(error, AuthenticationError::TooManyFailures), "{error:?}");
}

#[tokio::test]
async fn an_attempt_that_is_given_up_counts_and_an_outage_or_garbage_does_not() {
    let replica = a_replica();
    for seed in 0..2 * AT_ONCE {
        assert!(replica.attempt("pidgr_k_garbage", peer(1)).await.is_err());
        replica.store.fail_next(StoreCall::FindByDigest, an_outage());
        let (raw_key, _) = a_raw_key_with(seed as u64, |_| {});
        let error = replica.attempt(raw_key.expose(), peer(1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
    for seed in 0..AT_ONCE {
        let (raw_key, _) = a_raw_key_with(seed as u64, |_| {});
        let attempt = replica.authenticate.authenticate(Credential::ApiKey(raw_key.expose()), Some(peer(1)));
        assert_eq!(attempt.now_or_never().map(drop), None, "it waits for a renewal, and is given up");
    }
    let (raw_key, _) = a_raw_key_with(1, |_| {});
    let error = replica.attempt(raw_key.expose(), peer(1)).await.unwrap_err();
    assert!(matches!(error, AuthenticationError::TooManyFailures), "{error:?}");
}

#[test]
fn what_cannot_be_a_credential_is_refused_before_anything_is_read() {
    let replica = a_replica();
    let (raw_key, _) = a_raw_key_with(1, |_| {});
    let text = raw_key.expose();
    for possible in [Credential::ApiKey(text), Credential::Bearer(text), Credential::Bearer("a token")] {
        assert!(replica.authenticate.precheck(possible).is_ok());
    }
    let cut = &text[..text.len() - 1];
    for impossible in [Credential::ApiKey("a token"), Credential::ApiKey(cut), Credential::Bearer(cut)] {
        let refused = replica.authenticate.precheck(impossible);
        assert!(matches!(refused, Err(AuthenticationError::Rejected { reason: "the key is malformed" })));
    }
    assert_eq!(replica.reads(), 0);
}
