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

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use futures_util::FutureExt as _;

    use super::*;

    fn digest(number: u8) -> KeyDigest {
        KeyDigest::from_bytes([number; 32])
    }

    fn absent() -> Landed {
        let seq = crate::ports::Seq::new(0, 0);
        Landed { begun: Monotonic::ZERO, read: Read { value: None, seq } }
    }

    /// A read of that key, begun: it has the room, or waits for it.
    fn begin<'a>(flights: &'a Flights, digest: &'a KeyDigest) -> Pin<Box<dyn Future<Output = Outcome> + 'a>> {
        let mut reading = Box::pin(flights.read(digest, std::future::pending));
        assert!(reading.as_mut().now_or_never().is_none());
        reading
    }

    fn is_refused(flights: &Flights, digest: &KeyDigest) -> bool {
        let outcome = flights.read(digest, std::future::pending).now_or_never();
        outcome.is_some_and(|outcome| matches!(outcome, Err(error) if matches!(*error, StoreError::Overloaded)))
    }

    #[test]
    fn whoever_goes_away_gives_its_place_in_the_queue_to_others() {
        let digests: Vec<_> = (0..=u8::MAX).map(digest).collect();
        let flights = Flights::new(1);
        let running = begin(&flights, &digests[0]);
        for _ in 0..3 {
            let waiting: Vec<_> = digests[1..=WAITING_PER_READ].iter().map(|digest| begin(&flights, digest)).collect();
            assert!(is_refused(&flights, &digests[255]), "the queue is full");
            assert!(is_refused(&flights, &digests[254]), "and whoever was refused takes no place in it");
            drop(waiting);
            assert!(!is_refused(&flights, &digests[255]), "it is empty again");
        }
        drop(running);
        let read = flights.read(&digests[0], || async { Ok(absent()) }).now_or_never();
        assert!(read.is_some_and(|outcome| outcome.is_ok()));
    }

    #[test]
    fn whoever_waits_for_a_read_that_is_given_up_reads_itself() {
        let flights = Flights::new(2);
        let key = digest(1);
        let first = begin(&flights, &key);
        let mut second = Box::pin(flights.read(&key, || async { Ok(absent()) }));
        assert!(second.as_mut().now_or_never().is_none(), "it waits for the first one");
        drop(first);
        assert!(second.now_or_never().is_some_and(|outcome| outcome.is_ok()));
    }
}
