//! Reads of the store for keys that are not in memory: one for all who wait for the same key, and only so many at once.
//! Knows no rule of the fence.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use apikey_domain::KeyDigest;
use async_lock::{Semaphore, SemaphoreGuard};
use event_listener::Event;

use crate::{
    cache::CachedKey,
    fence::Monotonic,
    ports::{Read, StoreError},
};

/// So many reads may wait for each that runs, before more are refused at once. A read takes about a millisecond: whoever asks a
/// replica that has just started waits some hundredths of a second, and is not refused.
const WAITING_PER_READ: usize = 64;

/// A read that has ended.
#[derive(Clone)]
pub(crate) struct Landed {
    /// When it began, before a connection was sought.
    pub(crate) begun: Monotonic,
    pub(crate) read: Read<Option<Arc<CachedKey>>>,
}

/// How a flight ends for everybody who waits for it.
type Outcome = Result<Landed, Arc<StoreError>>;

/// The reads under way.
pub(crate) struct Flights {
    under_way: Mutex<HashMap<KeyDigest, Arc<Flight>>>,
    running: Semaphore,
    waiting: AtomicUsize,
    most_waiting: usize,
}

#[derive(Default)]
struct Flight {
    /// Stays empty where whoever flew it went away.
    outcome: OnceLock<Outcome>,
    ended: Event,
}

/// Ends a flight for everybody who waits for it, however it ends.
struct Pilot<'a> {
    flights: &'a Flights,
    digest: &'a KeyDigest,
    flight: Arc<Flight>,
}

impl Flights {
    /// At most that many reads at once; at least 1.
    pub(crate) fn new(reads: usize) -> Self {
        let reads = reads.max(1);
        Self {
            under_way: Mutex::default(),
            running: Semaphore::new(reads),
            waiting: AtomicUsize::new(0),
            most_waiting: reads.saturating_mul(WAITING_PER_READ),
        }
    }

    /// Reads a key by `read`, or waits for whoever reads it already. `read` is carried out while there is room for it.
    ///
    /// # Errors
    /// Those of the read, the same for all who wait for it; [`StoreError::Overloaded`] where there is no room.
    ///
    /// # Cancel safety
    /// A call that is dropped leaves the read to one of those who wait for it.
    pub(crate) async fn read<F>(&self, digest: &KeyDigest, read: impl Fn() -> F) -> Outcome
    where
        F: Future<Output = Result<Landed, StoreError>>,
    {
        loop {
            let (flight, is_new) = match self.under_way().entry(*digest) {
                Entry::Occupied(entry) => (Arc::clone(entry.get()), false),
                Entry::Vacant(entry) => (Arc::clone(entry.insert(Arc::default())), true),
            };
            if is_new {
                let pilot = Pilot { flights: self, digest, flight };
                let outcome = self.when_there_is_room(&read).await.map_err(Arc::new);
                return pilot.land(outcome);
            }
            let ended = flight.ended.listen();
            if flight.outcome.get().is_none() && self.is_under_way(digest, &flight) {
                ended.await;
            }
            if let Some(outcome) = flight.outcome.get() {
                return outcome.clone();
            }
        }
    }

    async fn when_there_is_room<F>(&self, read: impl Fn() -> F) -> Result<Landed, StoreError>
    where
        F: Future<Output = Result<Landed, StoreError>>,
    {
        let _running = self.admit().await?;
        read().await
    }

    async fn admit(&self) -> Result<SemaphoreGuard<'_>, StoreError> {
        if let Some(running) = self.running.try_acquire() {
            return Ok(running);
        }
        if self.waiting.fetch_add(1, Ordering::AcqRel) >= self.most_waiting {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            return Err(StoreError::Overloaded);
        }
        let _waiting = Waiting(&self.waiting);
        Ok(self.running.acquire().await)
    }

    fn is_under_way(&self, digest: &KeyDigest, flight: &Arc<Flight>) -> bool {
        self.under_way().get(digest).is_some_and(|other| Arc::ptr_eq(other, flight))
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<KeyDigest, Arc<Flight>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pilot<'_> {
    fn land(self, outcome: Outcome) -> Outcome {
        self.flight.outcome.get_or_init(|| outcome).clone()
    }
}

impl Drop for Pilot<'_> {
    fn drop(&mut self) {
        self.flights.under_way().remove(self.digest);
        self.flight.ended.notify(usize::MAX);
    }
}

/// One of those who wait for room.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
