//! The renewal task: hands the fence what happens, and carries out what it decides. Decides nothing itself.
//!
//! One event at a time, and all of its effects before the next. There is never more than one statement in flight; one that is
//! given up is dropped, which closes its connection.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use apikey_application::{
    Asker,
    fence::{Effect, Fence, Mark, Monotonic, ReplicaId, Statement},
    ports::{Clock as _, KeyStore, Renewal, Renewed, Revocations, Seq, StoreError},
};
use tokio::{
    sync::watch,
    task::{JoinHandle, spawn_local},
    time::{sleep, timeout},
};

use super::{Parts, until};

/// Nobody sleeps longer without looking at the clock, which goes on while the machine sleeps, as timers do not.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// How long a row may take to be deleted that nobody waits for.
const DELETE: Duration = Duration::from_secs(2);

/// How long the last one may take: less than leaving may.
const LAST_DELETE: Duration = Duration::from_millis(1_400);

type InFlight = Pin<Box<dyn Future<Output = Result<Answer, StoreError>>>>;

enum Answer {
    Joined(Seq),
    Renewed(Renewed),
}

/// Who else in this process is told.
pub(super) struct Told {
    pub(super) holds_lease: watch::Sender<bool>,
    /// Of each renewal; of none while this replica is not one of the others.
    pub(super) mark: watch::Sender<Option<Mark>>,
}

pub(super) struct Renewals<R, S> {
    fence: Fence,
    parts: Parts<R, S>,
    told: Told,
    in_flight: Option<(Statement, Monotonic, InFlight)>,
    /// Since when a request has waited for an attempt that cannot begin.
    asked_at: Option<Monotonic>,
    timeline: Option<u32>,
    last_delete: Option<JoinHandle<()>>,
}

impl<R: Revocations, S: KeyStore> Renewals<R, S> {
    pub(super) fn new(parts: Parts<R, S>, told: Told) -> Self {
        let fence = Fence::new(parts.lease, parts.process);
        Self { fence, parts, told, in_flight: None, asked_at: None, timeline: None, last_delete: None }
    }

    /// Renews until `stop` is ready, then leaves.
    pub(super) async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        loop {
            self.tick();
            let pause = self.pause();
            let (cache, revocations) = (Arc::clone(&self.parts.cache), Arc::clone(&self.parts.revocations));
            tokio::select! {
                biased;
                () = &mut stop => break,
                answer = answered(&mut self.in_flight) => self.take(answer),
                asker = cache.asked() => {
                    match asker {
                        Asker::Trusted => self.fence.asked(),
                        Asker::Stranger => self.fence.asked_by_stranger(),
                    }
                    self.asked_at.get_or_insert_with(|| self.parts.clock.monotonic());
                }
                () = revocations.hinted() => self.fence.hinted(self.parts.clock.monotonic()),
                () = sleep(pause) => {}
            }
        }
        let effects = self.fence.leave();
        self.carry_out(effects);
        // Whoever waits for a lease waits in vain.
        self.parts.cache.renewal_failed(Monotonic::MAX);
        if let Some(deleted) = self.last_delete.take()
            && timeout(LAST_DELETE, deleted).await.is_err()
        {
            tracing::warn!(
                "this replica's row could not be deleted in time: revocations wait until its lease has ended"
            );
        }
    }

    /// Tells the fence that time has passed, and those who wait that they wait in vain.
    fn tick(&mut self) {
        let now = self.parts.clock.monotonic();
        let begun = self.in_flight.as_ref().map(|(_, begun, _)| *begun);
        let effects = self.fence.tick(now);
        if effects.iter().any(|effect| matches!(effect, Effect::CloseConnection(_)))
            && let Some(begun) = begun
        {
            count("timed_out");
            tracing::warn!("the lease could not be renewed in time: the database did not answer");
            self.parts.cache.renewal_failed(begun);
        }
        self.carry_out(effects);
        if now >= self.waited_in_vain() {
            self.asked_at = None;
            self.parts.cache.renewal_failed(now);
        }
    }

    /// When those who wait have waited long enough for an attempt that cannot begin, since too many are unanswered.
    fn waited_in_vain(&self) -> Monotonic {
        match self.asked_at {
            Some(asked_at) if self.fence.next_tick() == Monotonic::MAX => {
                asked_at + self.parts.lease.renewal_interval()
            }
            _ => Monotonic::MAX,
        }
    }

    fn pause(&self) -> Duration {
        let next = self.fence.next_tick().min(self.waited_in_vain());
        until(next, self.parts.clock.monotonic()).min(LONGEST_SLEEP)
    }

    fn take(&mut self, (statement, begun, answer): (Statement, Monotonic, Result<Answer, StoreError>)) {
        let now = self.parts.clock.monotonic();
        let effects = match answer {
            Ok(Answer::Joined(head)) => {
                count("joined");
                tracing::info!(timeline = head.timeline, seq = head.number, "this replica has joined the others");
                if self.timeline.replace(head.timeline).is_some_and(|before| before != head.timeline) {
                    // After a failover, what is open may lead to the old primary.
                    self.parts.store.distrust_connections();
                }
                self.fence.joined(statement, head, now)
            }
            Ok(Answer::Renewed(Renewed::Committed(Renewal { head, revoked, now: database_time }))) => {
                count("renewed");
                self.parts.clock.set(begun, database_time);
                self.fence.renewed(statement, head, revoked, now)
            }
            Ok(Answer::Renewed(Renewed::RowGone)) => {
                count("row_gone");
                tracing::warn!("others took this replica for dead: it joins again");
                self.fence.row_gone(statement, now)
            }
            Ok(Answer::Renewed(Renewed::OtherHistory)) => {
                count("other_history");
                tracing::error!(
                    "the database was restored to an earlier state, or is another one: this replica forgets what it knows and \
                     joins again; revocations that were made since that state are lost"
                );
                // What is open may lead to the one before.
                self.parts.store.distrust_connections();
                self.fence.other_history(statement, now)
            }
            Err(error) => {
                count("failed");
                tracing::warn!(error = &error as &dyn std::error::Error, "the lease could not be renewed");
                self.fence.lost(statement, now);
                self.parts.cache.renewal_failed(begun);
                Vec::new()
            }
        };
        self.carry_out(effects);
        self.told.mark.send_replace(self.fence.mark());
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::RaiseApplied(applied) => {
                    self.parts.cache.raise_applied(applied);
                    metrics::gauge!("apikeys_applied_seq").set(u32::try_from(applied.number).unwrap_or(u32::MAX));
                }
                Effect::Evict(digests) => self.parts.cache.evict(&digests),
                Effect::EvictAll => self.parts.cache.evict_all(),
                Effect::PublishDeadline(deadline) => {
                    self.parts.cache.publish_deadline(deadline);
                    self.told.holds_lease.send_replace(deadline != Monotonic::ZERO);
                }
                Effect::WakeWaiters => {
                    self.asked_at = None;
                    self.parts.cache.wake_waiters();
                }
                Effect::CloseConnection(statement) => {
                    self.in_flight.take_if(|(other, ..)| *other == statement);
                }
                Effect::DeleteRow(replica) => self.last_delete = Some(self.delete(replica)),
                Effect::Join(statement, replica) => {
                    let (revocations, lease) = (Arc::clone(&self.parts.revocations), self.parts.lease);
                    let join = async move { revocations.join(replica, lease).await.map(Answer::Joined) };
                    self.send(statement, Box::pin(join));
                }
                Effect::Renew(statement, mark, applied) => {
                    let revocations = Arc::clone(&self.parts.revocations);
                    let renew =
                        async move { revocations.renew(mark, statement.number(), applied).await.map(Answer::Renewed) };
                    self.send(statement, Box::pin(renew));
                }
            }
        }
    }

    fn send(&mut self, statement: Statement, in_flight: InFlight) {
        // The fence's own time of the beginning, read before a connection is sought.
        let begun = self.fence.in_flight_since().unwrap_or(Monotonic::ZERO);
        self.in_flight = Some((statement, begun, in_flight));
    }

    fn delete(&self, replica: ReplicaId) -> JoinHandle<()> {
        let revocations = Arc::clone(&self.parts.revocations);
        spawn_local(async move {
            match timeout(DELETE, revocations.leave(replica)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::info!(error = &error as &dyn std::error::Error, "the replica's row could not be deleted");
                }
                Err(_) => tracing::info!("the replica's row could not be deleted in time"),
            }
        })
    }
}

/// The answer to the statement that is in flight, if one is.
async fn answered(
    in_flight: &mut Option<(Statement, Monotonic, InFlight)>,
) -> (Statement, Monotonic, Result<Answer, StoreError>) {
    let Some((statement, begun, future)) = in_flight else { return std::future::pending().await };
    let answer = (*statement, *begun, future.await);
    *in_flight = None;
    answer
}

fn count(outcome: &'static str) {
    metrics::counter!("apikeys_lease_renewals_total", "outcome" => outcome).increment(1);
}
