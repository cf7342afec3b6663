//! The faults: each is inflicted while the load runs, and proves that it happened. Healing is not theirs.

mod database;
mod links;
mod processes;

use std::{path::PathBuf, sync::atomic::Ordering, time::Duration};

use anyhow::{Result, ensure};
use clap::ValueEnum;

use crate::cluster::Cluster;
pub(crate) use database::fail_over;

/// What can be inflicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// A replica is killed.
    Kill,
    /// A replica is told to end.
    Terminate,
    /// A replica is stopped with verifications on its socket, and goes on after a revocation elsewhere.
    Pause,
    /// A replica is stopped in the middle of a revocation.
    PauseRevoker,
    /// Nothing passes between a replica and the database, and nobody is told.
    Partition,
    /// A replica's connections to the database are reset, and new ones refused.
    Reset,
    /// Only what a replica sends passes, then only what the database sends.
    OneWay,
    /// A replica's link breaks and heals, again and again.
    Flap,
    /// The database is killed and started again.
    DatabaseKill,
    /// A synchronous standby is promoted, while the old primary still answers a replica that kept its connections.
    Failover,
    /// Each message between replicas and database takes 50 ms.
    Slow50ms,
    /// Each takes 500 ms.
    Slow500ms,
    /// Each takes 5 s.
    Slow5s,
    /// The database is put back to an earlier state while the replicas run on, and then grows as long as it was.
    Restore,
    /// All connections of the replicas' small pools wait for a row.
    Pool,
    /// No notification arrives.
    Notifications,
    /// One replica's wall clock is moved by an hour, forward and back.
    Clock,
    /// Answers to changes are cut off.
    LostReply,
    /// The replicas are replaced one after the other.
    Rolling,
    /// A replica is cut off, another one stopped, and the database killed.
    Together,
    /// A slow database whose notifications are lost and whose answers are cut off now and then, and a rolling restart.
    TogetherSlowly,
}

impl Fault {
    /// What fits into a few minutes.
    pub(crate) const BRIEF: [Self; 15] = [
        Self::Kill,
        Self::Pause,
        Self::PauseRevoker,
        Self::Partition,
        Self::OneWay,
        Self::Flap,
        Self::DatabaseKill,
        Self::Failover,
        Self::Restore,
        Self::Slow500ms,
        Self::Pool,
        Self::Clock,
        Self::LostReply,
        Self::Rolling,
        Self::Together,
    ];

    /// Whether the database has to be a primary with a standby of its own.
    pub(crate) const fn needs_standby(self) -> bool {
        matches!(self, Self::Failover)
    }

    /// What replicas are started with besides.
    pub(crate) fn settings(self) -> Vec<(String, String)> {
        match self {
            Self::Pool => vec![("APIKEYS_DATABASE_CONNECTIONS".to_owned(), "2".to_owned())],
            // Before the others take the one for dead that stands still, there must be time for as many revocations as are lost.
            Self::Restore => vec![("APIKEYS_LEASE".to_owned(), "3s".to_owned())],
            _ => Vec::new(),
        }
    }
}

/// What a fault needs besides the system that it is inflicted on.
#[derive(Clone, Debug)]
pub(crate) struct Means {
    /// How long the fault lasts, as far as that is a matter of choice.
    pub(crate) lasts: Duration,
    /// How often what takes no time is repeated.
    pub(crate) rounds: usize,
    /// The library that moves a process's wall clock.
    pub(crate) faketime: Option<String>,
    /// Where files are put.
    pub(crate) folder: PathBuf,
}

/// What shows that a fault happened: what was counted, each at least once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evidence(pub(crate) Vec<(&'static str, u64)>);

impl Evidence {
    fn and(mut self, what: &'static str, count: u64) -> Self {
        self.0.push((what, count));
        self
    }

    fn of(what: &'static str, count: u64) -> Self {
        Self::default().and(what, count)
    }

    /// A fault that did not happen shows nothing.
    pub(crate) fn check(&self) -> Result<()> {
        for (what, count) in &self.0 {
            ensure!(*count > 0, "the fault did not happen: {what}: none");
        }
        Ok(())
    }
}

impl Fault {
    /// Inflicts the fault, until it has lasted long enough.
    pub(crate) async fn inflict(self, cluster: &mut Cluster, means: &Means) -> Result<Evidence> {
        match self {
            Self::Kill => processes::kill(cluster, means).await,
            Self::Terminate => processes::terminate(cluster, means).await,
            Self::Pause => processes::pause(cluster, means).await,
            Self::PauseRevoker => processes::pause_revoker(cluster, means).await,
            Self::Clock => processes::clock(cluster, means).await,
            Self::Rolling => processes::rolling(cluster).await,
            Self::Partition => links::partition(cluster, means).await,
            Self::Reset => links::reset(cluster, means).await,
            Self::OneWay => links::one_way(cluster, means).await,
            Self::Flap => links::flap(cluster, means).await,
            Self::Slow50ms => links::slow(cluster, means, Duration::from_millis(50)).await,
            Self::Slow500ms => links::slow(cluster, means, Duration::from_millis(500)).await,
            Self::Slow5s => links::slow(cluster, means, Duration::from_secs(5)).await,
            Self::Notifications => links::notifications(cluster, means).await,
            Self::LostReply => links::lost_reply(cluster, means).await,
            Self::DatabaseKill => database::kill(cluster, means).await,
            Self::Restore => database::restore(cluster, means).await,
            Self::Failover => anyhow::bail!("a failover needs a standby"),
            Self::Pool => database::exhaust_pools(cluster, means).await,
            Self::Together => together(cluster, means).await,
            Self::TogetherSlowly => together_slowly(cluster, means).await,
        }
    }
}

async fn together(cluster: &mut Cluster, means: &Means) -> Result<Evidence> {
    cluster.link(0)?.hold();
    cluster.replica(1)?.stop().await?;
    let evidence = database::outage(cluster, means).await?;
    cluster.replica(1)?.resume().await?;
    let held = cluster.count(|counts| counts.held.load(Ordering::Relaxed));
    Ok(evidence.and("pieces held up", held).and("replicas stopped", 1))
}

async fn together_slowly(cluster: &mut Cluster, means: &Means) -> Result<Evidence> {
    for replica in &cluster.replicas {
        replica.link.change(|condition| {
            condition.delay = Duration::from_millis(20);
            condition.drops_notifications = true;
            condition.cuts_every = 10;
        });
    }
    let evidence = processes::rolling(cluster).await?;
    tokio::time::sleep(means.lasts).await;
    let cut = cluster.count(|counts| counts.cut.load(Ordering::Relaxed));
    let delayed = cluster.count(|counts| counts.held.load(Ordering::Relaxed));
    Ok(evidence.and("answers cut off", cut).and("pieces delayed", delayed))
}
