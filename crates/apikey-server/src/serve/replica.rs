//! This process as one of several replicas that share a database: its lease, its confirmations, its view of the others.
//!
//! All of it runs on a thread of its own, so that a lease is renewed in time and a revocation is applied at once, however busy the
//! calls are. What is decided, [`Fence`](apikey_application::fence::Fence) decides; here are the loops, the timers and the
//! order in which effects are carried out.

mod renewals;
mod watch;

use std::{io, sync::Arc, thread, time::Duration};

use apikey_application::{
    KeyCache,
    fence::{Lease, Monotonic},
    ports::{KeyStore, Revocations},
};
use tokio::{
    runtime::Builder,
    sync::{oneshot, watch as published},
    task::LocalSet,
    time::timeout,
};
use uuid::Uuid;

use super::shutdown::Shutdown;
use crate::system::DatabaseClock;
use renewals::{Renewals, Told};
use watch::Watch;

pub(super) use watch::Confirmer;

/// How long a new replica may take to get its first lease before it begins to serve without one.
const FIRST_LEASE: Duration = Duration::from_secs(2);

/// How long the thread may take to leave. An unreachable database is left by silence; one that is merely slow is worth a wait, or
/// the next revocation waits for as long as the lease could have lasted.
const LEAVE: Duration = Duration::from_millis(1_500);

/// The replica that this process is.
pub(super) struct Replica {
    stop_watching: Shutdown,
    stop_renewing: Shutdown,
    holds_lease: published::Receiver<bool>,
    left: oneshot::Receiver<()>,
    confirmer: Arc<Confirmer>,
}

/// What a replica is made of.
pub(super) struct Parts<R, S> {
    pub(super) lease: Lease,
    /// Random, and another one for each start.
    pub(super) process: Uuid,
    pub(super) revocations: Arc<R>,
    /// The store whose connections are not trusted any more after a failover.
    pub(super) store: Arc<S>,
    pub(super) cache: Arc<KeyCache>,
    pub(super) clock: Arc<DatabaseClock>,
}

impl Replica {
    /// Joins the others, on a thread of its own.
    ///
    /// # Errors
    /// The system has no thread left.
    pub(super) fn start<R: Revocations, S: KeyStore>(parts: Parts<R, S>) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (stop_watching, stop_renewing) = (Shutdown::new(), Shutdown::new());
        let (confirmer, requests) = Confirmer::new(Arc::clone(&parts.clock));
        let (say_held, holds_lease) = published::channel(false);
        let (say_left, left) = oneshot::channel();
        let (no_watching, no_renewing) = (stop_watching.requested(), stop_renewing.requested());
        thread::Builder::new().name("lease".to_owned()).spawn(move || {
            let (say_mark, mark) = published::channel(None);
            let watch = Watch::new(&parts, requests, mark);
            let renewals = Renewals::new(parts, Told { holds_lease: say_held, mark: say_mark });
            let local = LocalSet::new();
            local.block_on(&runtime, async {
                let watching = tokio::task::spawn_local(watch.run(no_watching));
                renewals.run(no_renewing).await;
                watching.abort();
            });
            // Whoever waits for it may be gone.
            let _ = say_left.send(());
            runtime.shutdown_background();
        })?;
        Ok(Self { stop_watching, stop_renewing, holds_lease, left, confirmer: Arc::new(confirmer) })
    }

    /// Tells when revocations are confirmed.
    pub(super) fn confirmer(&self) -> Arc<Confirmer> {
        Arc::clone(&self.confirmer)
    }

    /// Waits for the first lease, though not for long: a service whose database has just gone is better up than down.
    pub(super) async fn wait_for_first_lease(&self) {
        let mut holds_lease = self.holds_lease.clone();
        if timeout(FIRST_LEASE, holds_lease.wait_for(|held| *held)).await.is_err() {
            tracing::warn!("there is no lease yet: until there is one, verifications are answered as unavailable");
        }
    }

    /// Confirmations that still wait are answered as unavailable; nobody is watched any more.
    pub(super) fn stop_watching(&self) {
        self.stop_watching.request();
    }

    /// Drops the lease, then the row: nobody has to wait for this replica.
    pub(super) async fn leave(self) {
        self.stop_renewing.request();
        if timeout(LEAVE, self.left).await.is_err() {
            tracing::warn!("this replica could not leave in time: revocations wait until its lease has ended");
        }
    }
}

/// How long until that instant.
fn until(instant: Monotonic, now: Monotonic) -> Duration {
    instant.since_origin().saturating_sub(now.since_origin())
}
