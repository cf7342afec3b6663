//! When a question may be answered, and by which read: the fence's rules, with the waiting that they ask for. Knows no store.

use std::sync::Arc;

use event_listener::EventListener;

use crate::{
    cache::{Asker, KeyCache, Published},
    fence::{Admitted, Arrival, Monotonic, Ruling, Waiter},
    ports::{Clock, Seq, StoreError},
};

/// A process's share in the fence, for whoever has a question.
pub(crate) struct Freshness<C> {
    cache: Arc<KeyCache>,
    clock: Arc<C>,
    asker: Asker,
}

impl<C: Clock> Freshness<C> {
    /// For questions of that asker.
    pub(crate) const fn new(cache: Arc<KeyCache>, clock: Arc<C>, asker: Asker) -> Self {
        Self { cache, clock, asker }
    }

    pub(crate) fn published(&self) -> &Published {
        self.cache.published()
    }

    pub(crate) fn now(&self) -> Monotonic {
        self.clock.monotonic()
    }

    /// Waits until a question may be answered.
    pub(crate) async fn admitted(&self, arrival: Arrival) -> Result<Admitted, StoreError> {
        let published = self.published();
        loop {
            let changed = published.listen();
            match arrival.admit(published.lease(), published.deadline(), self.now()) {
                Ok(admitted) => return Ok(admitted),
                // Without a lease nobody can be told from a stranger.
                Err(_) => self.await_change(arrival, changed, Asker::Trusted).await?,
            }
        }
    }

    /// Judges a read that began at `begun` and found something, or not; waits for the renewal that absence asks for, or for one
    /// that others ask for.
    pub(crate) async fn judge(
        &self,
        arrival: Arrival,
        waiter: Waiter,
        found: bool,
        read: Seq,
        begun: Monotonic,
    ) -> Result<Ruling, StoreError> {
        let published = self.published();
        if found {
            return Ok(waiter.judge_record(read, published.applied()));
        }
        loop {
            let changed = published.listen();
            // In this order.
            let (deadline, applied) = (published.deadline(), published.applied());
            match waiter.judge_absence(read, begun, published.lease(), deadline, applied) {
                Ruling::AwaitRenewal => self.await_change(arrival, changed, self.asker).await?,
                ruling => return Ok(ruling),
            }
        }
    }

    /// Asks for a renewal, and waits until something was published since `changed` began to listen.
    async fn await_change(&self, arrival: Arrival, changed: EventListener, asker: Asker) -> Result<(), StoreError> {
        if self.published().has_failed_since(arrival.at()) {
            let source = "no lease could be had from it since the request arrived".into();
            return Err(StoreError::Unavailable(source));
        }
        self.published().ask(asker);
        changed.await;
        Ok(())
    }
}
