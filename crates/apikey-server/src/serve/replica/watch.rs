//! Watches the other replicas' rows: confirms revocations, and clears up behind the dead. One poller for all who wait. What a
//! poll means, [`Confirmation`] and [`Reaper`] say.

use std::{sync::Arc, time::Duration};

use apikey_application::{
    fence::{Confirmation, Lease, Mark, Monotonic, Progress, Reaper, Reaping, ReplicaRow},
    ports::{Clock as _, Confirmations, Confirmed, KeyStore, Read, Revocations, Seq, StoreError},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{sleep, timeout},
};

use super::{Parts, until};
use crate::system::DatabaseClock;

/// How long one poll may take; then another connection is tried.
const POLL: Duration = Duration::from_secs(1);

/// How soon polls follow each other: at first about as soon as a healthy replica can answer, then a quarter of what has been
/// waited for. This replica's own renewals are polled after at once: the others renew at about the same time.
const SOONEST: Duration = Duration::from_millis(1);
const LATEST: Duration = Duration::from_millis(25);

/// How many may wait to be confirmed at once: as many as revocations can be at work.
const QUEUE: usize = 1_024;

type Answer = Result<Confirmed, StoreError>;

/// Asks the watch for confirmations.
pub(crate) struct Confirmer {
    requests: mpsc::Sender<Request>,
    clock: Arc<DatabaseClock>,
}

pub(super) struct Request {
    commit: Seq,
    seen: Monotonic,
    answer: oneshot::Sender<Answer>,
}

impl Confirmer {
    pub(super) fn new(clock: Arc<DatabaseClock>) -> (Self, mpsc::Receiver<Request>) {
        let (requests, receiver) = mpsc::channel(QUEUE);
        (Self { requests, clock }, receiver)
    }
}

impl Confirmations for Confirmer {
    async fn confirm(&self, commit: Seq) -> Answer {
        let seen = self.clock.monotonic();
        let (answer, answered) = oneshot::channel();
        let stopping = || StoreError::Unavailable("this replica stops".into());
        self.requests.send(Request { commit, seen, answer }).await.map_err(|_| stopping())?;
        let confirmed = answered.await.map_err(|_| stopping())??;
        let took = until(self.clock.monotonic(), seen);
        let Confirmed { acknowledged, waited_out } = confirmed;
        metrics::histogram!("apikeys_revocation_confirmation_seconds").record(took);
        count(acknowledged, "acknowledged");
        count(waited_out, "waited_out");
        let milliseconds = took.as_secs_f64() * 1_000.0;
        tracing::info!(seq = commit.number, acknowledged, waited_out, milliseconds, "the revocation is confirmed");
        Ok(confirmed)
    }
}

fn count(replicas: usize, how: &'static str) {
    let replicas = u64::try_from(replicas).unwrap_or(u64::MAX);
    metrics::counter!("apikeys_revocation_confirmations_total", "how" => how).increment(replicas);
}

pub(super) struct Watch<R, S> {
    revocations: Arc<R>,
    store: Arc<S>,
    clock: Arc<DatabaseClock>,
    lease: Lease,
    requests: mpsc::Receiver<Request>,
    /// What this replica itself has renewed; it tells of each renewal.
    own: watch::Receiver<Option<Mark>>,
    waiting: Vec<Waiting>,
    reaper: Reaper,
}

struct Waiting {
    confirmation: Confirmation,
    answer: oneshot::Sender<Answer>,
}

impl<R: Revocations, S: KeyStore> Watch<R, S> {
    pub(super) fn new(
        parts: &Parts<R, S>,
        requests: mpsc::Receiver<Request>,
        own: watch::Receiver<Option<Mark>>,
    ) -> Self {
        let Parts { lease, revocations, store, clock, .. } = parts;
        Self {
            revocations: Arc::clone(revocations),
            store: Arc::clone(store),
            clock: Arc::clone(clock),
            lease: *lease,
            requests,
            own,
            waiting: Vec::new(),
            reaper: Reaper::default(),
        }
    }

    /// Watches until `stop` is ready.
    pub(super) async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        loop {
            let pause = self.pause();
            tokio::select! {
                biased;
                () = &mut stop => return,
                request = self.requests.recv() => match request {
                    Some(request) => self.admit(request),
                    None => return,
                },
                Ok(()) = self.own.changed(), if !self.waiting.is_empty() => {}
                () = sleep(pause) => {}
            }
            while let Ok(request) = self.requests.try_recv() {
                self.admit(request);
            }
            tokio::select! {
                biased;
                () = &mut stop => return,
                () = self.poll() => {}
            }
        }
    }

    fn admit(&mut self, Request { commit, seen, answer }: Request) {
        self.waiting.push(Waiting { confirmation: Confirmation::new(commit, seen, self.lease), answer });
    }

    /// With nobody waiting, often enough for the reaper to see every renewal.
    fn pause(&self) -> Duration {
        let now = self.clock.monotonic();
        let youngest = self.waiting.iter().map(|waiting| waiting.confirmation.seen()).max();
        youngest.map_or(self.lease.renewal_interval(), |seen| (until(now, seen) / 4).clamp(SOONEST, LATEST))
    }

    async fn poll(&mut self) {
        // Before the poll begins.
        let own = *self.own.borrow_and_update();
        let poll = timeout(POLL, self.revocations.replicas()).await.unwrap_or(Err(StoreError::TimedOut));
        let now = self.clock.monotonic();
        match poll {
            Ok(Read { value: rows, seq: head }) => {
                // Whoever is not one of the others just now will be, or gives up.
                if own.is_some_and(|own| self.confirm(head, &rows, own, now)) {
                    self.store.distrust_connections();
                }
                self.reap(&rows, now).await;
            }
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "the replicas could not be looked at");
            }
        }
        self.give_up(now);
    }

    /// Answers those whose wait is over. Says whether the poll came from a server that does not know what was committed.
    fn confirm(&mut self, head: Seq, rows: &[ReplicaRow], own: Mark, now: Monotonic) -> bool {
        let mut is_foreign = false;
        let waiting = std::mem::take(&mut self.waiting);
        for mut waiting in waiting {
            match waiting.confirmation.polled(head, rows, own, now) {
                // Whoever waited may be gone.
                Progress::Confirmed { acknowledged, waited_out } => {
                    let _ = waiting.answer.send(Ok(Confirmed { acknowledged, waited_out }));
                }
                Progress::Waiting(_) => self.waiting.push(waiting),
                Progress::Foreign => {
                    is_foreign = true;
                    self.waiting.push(waiting);
                }
            }
        }
        is_foreign
    }

    fn give_up(&mut self, now: Monotonic) {
        for waiting in self
            .waiting
            .extract_if(.., |waiting| waiting.answer.is_closed() || now >= waiting.confirmation.gives_up_at())
        {
            let _ = waiting.answer.send(Err(StoreError::TimedOut));
        }
    }

    async fn reap(&mut self, rows: &[ReplicaRow], now: Monotonic) {
        metrics::gauge!("apikeys_replicas").set(u32::try_from(rows.len()).unwrap_or(u32::MAX));
        for watched in self.reaper.polled(rows, now) {
            let Reaping { id, renewals: _ } = watched;
            match timeout(POLL, self.revocations.reap(watched)).await.unwrap_or(Err(StoreError::TimedOut)) {
                Ok(true) => {
                    metrics::counter!("apikeys_replicas_reaped_total").increment(1);
                    tracing::warn!(replica = %id.as_uuid(), "a replica was silent for as long as its lease can last, and is taken for dead");
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "a dead replica's row could not be deleted"
                    );
                }
            }
        }
    }
}
