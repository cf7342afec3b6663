//! From a digest to the record of its key, as fresh as the fence demands: out of memory under the lease, by a read of the store
//! otherwise. Every question about a presented key takes this way. Knows no verdict.

use std::sync::Arc;

use apikey_domain::KeyDigest;

use crate::{
    cache::{Asker, CachedKey, KeyCache},
    fence::{Arrival, Monotonic, Ruling, may_cache},
    flights::{Flights, Landed},
    freshness::Freshness,
    ports::{Clock, KeyStore, Read, StoreError},
};

/// So often a question is asked anew that servers answered which lag, or which are no longer the primary.
const ATTEMPTS: usize = 8;

/// What a question about a key found.
pub(crate) struct Found {
    /// The key; `None` if there is none, and certainly so.
    pub(crate) key: Option<Arc<CachedKey>>,
    /// When that was known.
    pub(crate) at: Monotonic,
}

/// Finds the records of presented keys.
pub(crate) struct Lookup<S, C> {
    store: Arc<S>,
    cache: Arc<KeyCache>,
    freshness: Freshness<C>,
    flights: Flights,
}

impl<S: KeyStore, C: Clock> Lookup<S, C> {
    /// Each asker has a budget of its own for what is not in memory.
    pub(crate) fn new(store: Arc<S>, clock: Arc<C>, cache: Arc<KeyCache>, asker: Asker) -> Self {
        let flights = Flights::new(match asker {
            Asker::Trusted => cache.limits().reads,
            Asker::Stranger => cache.limits().reads_for_strangers,
        });
        Self { store, freshness: Freshness::new(Arc::clone(&cache), clock, asker), cache, flights }
    }

    /// Finds a key for a request that has been read by now. `strict` asks for a proof of freshness that begins after now. Without
    /// `may_read` only memory is asked.
    ///
    /// # Errors
    /// Whatever keeps it from being told; [`StoreError::Overloaded`] where it may not be read and is not in memory.
    pub(crate) async fn find(
        &self,
        digest: &KeyDigest,
        strict: bool,
        may_read: bool,
    ) -> Result<Found, Arc<StoreError>> {
        let now = self.freshness.now();
        let arrival = Arrival::new(now, strict);
        let published = self.freshness.published();
        if arrival.admit(published.lease(), published.deadline(), now).is_ok()
            && let Some(hit) = self.cache.look(digest, now)
        {
            if !hit.due {
                return Ok(Found { key: Some(hit.key), at: now });
            }
            Box::pin(self.read_again(digest)).await;
            return Ok(Found { key: Some(hit.key), at: self.freshness.now() });
        }
        if !may_read {
            return Err(Arc::new(StoreError::Overloaded));
        }
        // In a box, so that what is found in memory does not carry the room for all this.
        let key = Box::pin(self.find_slowly(digest, arrival)).await?;
        Ok(Found { key, at: self.freshness.now() })
    }

    /// What is not in memory, or must prove its freshness first.
    async fn find_slowly(
        &self,
        digest: &KeyDigest,
        arrival: Arrival,
    ) -> Result<Option<Arc<CachedKey>>, Arc<StoreError>> {
        for _ in 0..ATTEMPTS {
            let waiter = self.freshness.admitted(arrival).await?.note(self.freshness.published().applied());
            let noted_at = self.freshness.now();
            if let Some(hit) = self.cache.look_again(digest, noted_at) {
                return Ok(Some(hit.key));
            }
            let Landed { begun, read: Read { value, seq } } = self.read(digest).await?;
            match self.freshness.judge(arrival, waiter, value.is_some(), seq, begun).await? {
                Ruling::Take => return Ok(value),
                Ruling::ReadAgain if begun >= noted_at && !may_cache(seq, waiter.noted()) => {
                    self.store.distrust_connections();
                }
                // Somebody else's read, which began too early to contain what was noted, or to tell of absence: the next one
                // begins later. It says nothing against its connection.
                Ruling::ReadAgain | Ruling::BeginAnew | Ruling::AwaitRenewal => {}
            }
        }
        Err(Arc::new(StoreError::Unavailable("every read was answered by a server that is not the primary".into())))
    }

    /// The record has been in memory for long: changes that were made by hand, past the service, show now. Whatever keeps it
    /// from being read, the lease vouches for what is there.
    async fn read_again(&self, digest: &KeyDigest) {
        // The failure of a read that nobody depends on.
        drop(self.read(digest).await);
    }

    async fn read(&self, digest: &KeyDigest) -> Result<Landed, Arc<StoreError>> {
        let read = || async {
            let begun = self.freshness.now();
            let Read { value, seq } = self.store.find_by_digest(digest).await?;
            let read = Read { value: value.map(|key| self.cache.record(&key)), seq };
            self.cache.fill(digest, &read, begun);
            Ok(Landed { begun, read })
        };
        self.flights.read(digest, read).await
    }
}
