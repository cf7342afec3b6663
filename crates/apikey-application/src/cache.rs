//! Verification from memory: the records of keys as they are, also of revoked and expired ones, under the rule of the fence.
//! Holds no verdicts, knows no store and reads no clock.
//!
//! The fence decides, and publishes here what it decided: the lease's deadline, and what is applied. Two orders carry the
//! promise, and both are kept in this file. `applied` is raised before keys are evicted; and a record is compared with it
//! under the lock that evictions take, in one step with its insert. So whatever was read too early either finds `applied`
//! raised, or is in its place in time to be evicted.

mod cached_key;
mod published;
mod shard;

use std::{
    array,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use apikey_domain::{ApiKey, KeyDigest};

use crate::{
    fence::{Lease, Monotonic, may_cache},
    ports::{Read, Seq},
};

pub use cached_key::CachedKey;
pub use published::Asker;
pub(crate) use published::Published;

use cached_key::Pool;
use shard::Shard;

/// Locks that share the keys among them, so that verifications on different threads rarely meet.
const SHARDS: usize = 64;

/// What the cache may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// The most memory for keys, in bytes. A key takes about 150 of them.
    pub bytes: usize,
    /// How many reads of the store may run at once for keys that services verify and that are not in memory; at least 1. Together
    /// with the next at most half of the store's connections, so that misses leave the other half to everybody else.
    pub reads: usize,
    /// The same for keys by which strangers want to call; at least 1, and the smaller one: whatever strangers present, services'
    /// keys are read.
    pub reads_for_strangers: usize,
}

/// A record that was found in memory.
pub(crate) struct Hit {
    pub(crate) key: Arc<CachedKey>,
    /// It is time to read it again, and this caller shall do it: nobody else is told for a while.
    pub(crate) due: bool,
}

/// What the cache holds, and how it has served since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStatistics {
    /// Keys in memory.
    pub keys: usize,
    /// What they cost, in bytes.
    pub bytes: usize,
    /// Look-ups that found their key.
    pub hits: u64,
    /// Look-ups that did not.
    pub misses: u64,
    /// Keys that had to make room for others.
    pub displaced: u64,
}

/// The keys in memory, and what the fence has published. One per process.
pub struct KeyCache {
    shards: [Mutex<Shard>; SHARDS],
    published: Published,
    pool: Pool,
    limits: CacheLimits,
}

impl KeyCache {
    /// An empty cache of a replica that holds no lease. It is driven by the replica's renewal task, which carries out the
    /// effects of its [`Fence`](crate::fence::Fence) by the methods below, in the fence's order.
    #[must_use]
    pub fn of_replica(lease: Lease, limits: CacheLimits) -> Self {
        Self::new(Published::without_lease(lease), limits)
    }

    /// An empty cache of the only process that uses its store. It needs no lease: every change passes through
    /// [`OneProcess`](crate::OneProcess), which applies it here before it is answered.
    #[must_use]
    pub fn of_one_process(limits: CacheLimits) -> Self {
        Self::new(Published::for_ever(), limits)
    }

    fn new(published: Published, limits: CacheLimits) -> Self {
        let shards = array::from_fn(|_| Mutex::new(Shard::new(limits.bytes / SHARDS)));
        Self { shards, published, pool: Pool::default(), limits }
    }

    /// What the cache may cost.
    #[must_use]
    pub const fn limits(&self) -> CacheLimits {
        self.limits
    }

    /// From now on nothing older enters the cache.
    pub fn raise_applied(&self, applied: Seq) {
        self.published.raise_applied(applied);
    }

    /// As [`KeyCache::raise_applied`], unless something newer is applied already.
    pub(crate) fn raise_applied_at_least(&self, applied: Seq) {
        self.published.raise_applied_at_least(applied);
    }

    /// Takes these keys out of memory.
    pub fn evict(&self, digests: &[KeyDigest]) {
        for digest in digests {
            self.shard(digest).remove(digest);
        }
    }

    /// Empties the cache.
    pub fn evict_all(&self) {
        for shard in &self.shards {
            lock(shard).clear();
        }
    }

    /// The lease ends then; [`Monotonic::ZERO`] drops it.
    pub fn publish_deadline(&self, deadline: Monotonic) {
        self.published.publish_deadline(deadline);
    }

    /// Wakes everybody who waits for a renewal.
    pub fn wake_waiters(&self) {
        self.published.wake_waiters();
    }

    /// An attempt to join or to renew that began then has failed: whoever arrived before it learns so.
    pub fn renewal_failed(&self, begun: Monotonic) {
        self.published.renewal_failed(begun);
    }

    /// Ready when a request waits for a renewal that begins after now. Says who made it; where both did, first the trusted.
    ///
    /// # Cancel safety
    /// A call that is dropped loses no wish.
    pub async fn asked(&self) -> Asker {
        self.published.asked().await
    }

    /// When the lease ends.
    #[must_use]
    pub fn deadline(&self) -> Monotonic {
        self.published.deadline()
    }

    /// What the cache holds, and how it has served.
    #[must_use]
    pub fn statistics(&self) -> CacheStatistics {
        self.shards.iter().fold(CacheStatistics::default(), |sum, shard| lock(shard).add_to(sum))
    }

    pub(crate) const fn published(&self) -> &Published {
        &self.published
    }

    /// Looks a key up. Only for whoever was admitted by the fence before.
    pub(crate) fn look(&self, digest: &KeyDigest, now: Monotonic) -> Option<Hit> {
        self.shard(digest).look(digest, now)
    }

    /// The same for a caller that has looked before, and had to wait since.
    pub(crate) fn look_again(&self, digest: &KeyDigest, now: Monotonic) -> Option<Hit> {
        self.shard(digest).look_again(digest, now)
    }

    /// The record of a key in the form in which it is kept.
    pub(crate) fn record(&self, key: &ApiKey) -> Arc<CachedKey> {
        Arc::new(CachedKey::pooled(key, &self.pool))
    }

    /// Takes in what was read, where it is not older than what is applied. A key that is gone is forgotten.
    pub(crate) fn fill(&self, digest: &KeyDigest, read: &Read<Option<Arc<CachedKey>>>, now: Monotonic) {
        let mut shard = self.shard(digest);
        // Under the shard's lock, and in one step with the insert.
        if may_cache(read.seq, self.published.applied()) {
            match &read.value {
                Some(key) => shard.insert(Arc::clone(key), now),
                None => shard.remove(digest),
            }
        }
    }

    fn shard(&self, digest: &KeyDigest) -> MutexGuard<'_, Shard> {
        // Of a digest every byte is as random as the other; the first eight choose the place within the shard.
        let [.., last] = digest.as_bytes();
        #[expect(clippy::indexing_slicing, reason = "the remainder of a division by the length is an index")]
        lock(&self.shards[usize::from(*last) % SHARDS])
    }
}

/// A panic elsewhere leaves no shard half changed: nothing in one can panic between two changes that belong together.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for KeyCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyCache")
            .field("limits", &self.limits)
            .field("published", &self.published)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use apikey_domain::{
        ApiKeyParts, KeyDigest, KeyId, KeyName, KeyPrefix, KeyType, OrganizationId, PermissionSet, Timestamp,
    };

    use super::*;

    fn a_record(number: u32) -> ApiKey {
        ApiKey::from_parts(ApiKeyParts {
            id: KeyId::from_uuid(uuid::Uuid::from_u128(number.into())),
            organization_id: OrganizationId::parse("organization").unwrap(),
            name: KeyName::parse("a key").unwrap(),
            prefix: KeyPrefix::parse("pidgr_k_Ab3dE6gH").unwrap(),
            digest: digest(number),
            key_type: KeyType::ApiKey,
            permissions: PermissionSet::empty(),
            created_at: Timestamp::from_unix_micros(0).unwrap(),
            expires_at: None,
            revoked_at: None,
            last_used_at: None,
            revision: 1,
        })
        .unwrap()
    }

    pub(super) fn a_key(number: u32) -> Arc<CachedKey> {
        Arc::new(CachedKey::pooled(&a_record(number), &Pool::default()))
    }

    pub(super) fn digest(number: u32) -> KeyDigest {
        let mut bytes = [7; 32];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        bytes[30] = number.to_le_bytes()[0];
        KeyDigest::from_bytes(bytes)
    }

    fn read(cache: &KeyCache, number: u32, seq: Seq) -> Read<Option<Arc<CachedKey>>> {
        Read { value: Some(cache.record(&a_record(number))), seq }
    }

    const LIMITS: CacheLimits = CacheLimits { bytes: 1 << 20, reads: 1, reads_for_strangers: 1 };
    const NOW: Monotonic = Monotonic::ZERO;

    #[test]
    fn what_is_older_than_what_is_applied_or_of_another_timeline_does_not_enter() {
        let cache = KeyCache::of_replica(Lease::DEFAULT, LIMITS);
        cache.raise_applied(Seq::new(2, 5));
        for (number, seq, enters) in [
            (1, Seq::new(2, 4), false),
            (2, Seq::new(2, 5), true),
            (3, Seq::new(2, 6), true),
            (4, Seq::new(1, 9), false),
            (5, Seq::new(3, 9), false),
        ] {
            cache.fill(&digest(number), &read(&cache, number, seq), NOW);
            assert_eq!(cache.look(&digest(number), NOW).is_some(), enters, "{seq:?}");
        }
        cache.evict(&[digest(2)]);
        assert!(cache.look(&digest(2), NOW).is_none() && cache.look(&digest(3), NOW).is_some());
        let gone = Read { value: None, seq: Seq::new(2, 5) };
        cache.fill(&digest(3), &gone, NOW);
        assert!(cache.look(&digest(3), NOW).is_none(), "what is gone is forgotten");
        cache.fill(&digest(2), &read(&cache, 2, Seq::new(2, 5)), NOW);
        assert_eq!(cache.statistics().keys, 1);
        cache.evict_all();
        assert_eq!(cache.statistics().keys, 0);
    }

    #[test]
    fn keys_are_spread_over_all_shards() {
        let cache = KeyCache::of_one_process(LIMITS);
        let shard = |last| std::ptr::from_ref::<Shard>(&cache.shard(&KeyDigest::from_bytes([last; 32])));
        let used: std::collections::BTreeSet<_> = (0..=u8::MAX).map(shard).collect();
        assert_eq!(used.len(), SHARDS);
    }

    #[test]
    fn a_renewal_that_failed_concerns_whoever_arrived_before_it_began() {
        let cache = KeyCache::of_replica(Lease::DEFAULT, LIMITS);
        let at = |nanos| Monotonic::from_origin(std::time::Duration::from_nanos(nanos));
        cache.renewal_failed(at(5));
        let concerned = [4, 5, 6].map(|arrived| cache.published().has_failed_since(at(arrived)));
        assert_eq!(concerned, [true, false, false]);
    }

    #[test]
    fn a_debug_print_shows_the_limits_and_no_key() {
        let cache = KeyCache::of_one_process(LIMITS);
        let shown = format!("{cache:?}");
        assert!(shown.starts_with("KeyCache { limits: CacheLimits {") && !shown.contains("shards"), "{shown}");
    }

    #[test]
    fn one_process_never_lowers_what_it_has_applied() {
        let cache = KeyCache::of_one_process(LIMITS);
        for (number, applied) in [(3, 3), (1, 3), (4, 4)] {
            cache.raise_applied_at_least(Seq::new(0, number));
            assert_eq!(cache.published().applied().number, applied);
        }
    }
}
