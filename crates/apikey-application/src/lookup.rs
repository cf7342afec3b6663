//! From a digest to the record of its key, as fresh as the fence demands: out of memory under the lease, by a read of the store
//! otherwise. Every question about a presented key takes this way. Knows no verdict.

use std::sync::Arc;

use apikey_domain::KeyDigest;

use crate::{
    cache::{CachedKey, KeyCache, Published},
    fence::{Admitted, Arrival, Ruling, Waiter, may_cache},
    flights::{Flights, Landed},
    ports::{Clock, KeyStore, StoreError},
};

/// So often a question is asked anew that servers answered which lag, or which are no longer the primary.
const ATTEMPTS: usize = 8;

/// Finds the records of presented keys.
pub(crate) struct Lookup<S, C> {
    store: Arc<S>,
    clock: Arc<C>,
    cache: Arc<KeyCache>,
    flights: Flights,
}

impl<S: KeyStore, C: Clock> Lookup<S, C> {
    pub(crate) fn new(store: Arc<S>, clock: Arc<C>, cache: Arc<KeyCache>) -> Self {
        let flights = Flights::new(cache.limits().reads);
        Self { store, clock, cache, flights }
    }

    /// Finds a key for a request that has been read by now. `None` if there is none, and certainly so. `strict` asks for a proof
    /// of freshness that begins after now.
    ///
    /// # Errors
    /// Whatever keeps it from being told.
    pub(crate) async fn find(
        &self,
        digest: &KeyDigest,
        strict: bool,
    ) -> Result<Option<Arc<CachedKey>>, Arc<StoreError>> {
        let now = self.clock.monotonic();
        let arrival = Arrival::new(now, strict);
        let published = self.published();
        if arrival.admit(published.lease(), published.deadline(), now).is_ok()
            && let Some(hit) = self.cache.look(digest, now)
        {
            if hit.due {
                self.read_again(digest).await;
            }
            return Ok(Some(hit.key));
        }
        self.find_slowly(digest, arrival).await
    }

    /// What is not in memory, or must prove its freshness first.
    async fn find_slowly(
        &self,
        digest: &KeyDigest,
        arrival: Arrival,
    ) -> Result<Option<Arc<CachedKey>>, Arc<StoreError>> {
        for _ in 0..ATTEMPTS {
            let waiter = self.admitted(arrival).await?.note(self.published().applied());
            if let Some(hit) = self.cache.look(digest, self.clock.monotonic()) {
                return Ok(Some(hit.key));
            }
            let landed = self.read(digest).await?;
            match self.judge(&landed, waiter, arrival).await? {
                Ruling::Take => return Ok(landed.read.value),
                Ruling::ReadAgain if !may_cache(landed.read.seq, waiter.noted()) => self.store.distrust_connections(),
                // A read that began before this request did not find the key: the next one begins after it.
                Ruling::ReadAgain | Ruling::BeginAnew | Ruling::AwaitRenewal => {}
            }
        }
        Err(Arc::new(StoreError::Unavailable("every read was answered by a server that is not the primary".into())))
    }

    /// Waits until the request may be answered.
    async fn admitted(&self, arrival: Arrival) -> Result<Admitted, Arc<StoreError>> {
        let published = self.published();
        loop {
            let changed = published.listen();
            match arrival.admit(published.lease(), published.deadline(), self.clock.monotonic()) {
                Ok(admitted) => return Ok(admitted),
                Err(_) => self.await_change(arrival, changed).await?,
            }
        }
    }

    async fn judge(&self, landed: &Landed, waiter: Waiter, arrival: Arrival) -> Result<Ruling, Arc<StoreError>> {
        let Landed { begun, read } = landed;
        let published = self.published();
        if read.value.is_some() {
            return Ok(waiter.judge_record(read.seq, published.applied()));
        }
        loop {
            let changed = published.listen();
            let (deadline, applied) = (published.deadline(), published.applied());
            match waiter.judge_absence(read.seq, *begun, published.lease(), deadline, applied) {
                Ruling::AwaitRenewal => self.await_change(arrival, changed).await?,
                ruling => return Ok(ruling),
            }
        }
    }

    /// Asks for a renewal, and waits until something was published since `changed` began to listen.
    async fn await_change(
        &self,
        arrival: Arrival,
        changed: event_listener::EventListener,
    ) -> Result<(), Arc<StoreError>> {
        if self.published().has_failed_since(arrival.at()) {
            let source = "no lease could be had from it since the request arrived".into();
            return Err(Arc::new(StoreError::Unavailable(source)));
        }
        self.published().ask();
        changed.await;
        Ok(())
    }

    /// The record has been in memory for long: changes that were made by hand, past the service, show now. Whatever keeps it
    /// from being read, the lease vouches for what is there.
    async fn read_again(&self, digest: &KeyDigest) {
        // The failure of a read that nobody depends on.
        drop(self.read(digest).await);
    }

    async fn read(&self, digest: &KeyDigest) -> Result<Landed, Arc<StoreError>> {
        let read = || async {
            let begun = self.clock.monotonic();
            let read = self.store.find_by_digest(digest).await?;
            let value = read.value.map(|key| self.cache.record(&key));
            let read = crate::ports::Read { value, seq: read.seq };
            self.cache.fill(digest, &read, begun);
            Ok(Landed { begun, read })
        };
        self.flights.read(digest, read).await
    }

    fn published(&self) -> &Published {
        self.cache.published()
    }
}
