//! One run: a system of its own, a load, a fault, the healing, silence, and the verdict.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::{join_all, try_join_all};
use tokio::time::{sleep, timeout};

use crate::{
    cluster::{Cluster, Plan, REPLICAS},
    database::Server,
    faults::{Evidence, Fault, Means, fail_over},
    judge::judge,
    load::{LIVE, Load, Rates, create},
    report::Outcome,
    tally::Stage,
    world::{World, locked},
};

/// How long each replica may take to answer again.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long one try of it may take.
const TRY: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);

/// The servers of all runs.
pub(crate) struct Servers {
    pub(crate) image: String,
    /// One for all faults that leave it as it was.
    pub(crate) shared: Arc<Server>,
}

/// How much is done.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    /// Before the fault, and after it has been healed.
    pub(crate) calm: Duration,
    pub(crate) rates: Rates,
    pub(crate) means: Means,
}

/// Makes one run, and tells what came of it.
pub(crate) async fn run(name: &str, fault: Fault, servers: &Servers, plan: &Plan, pace: &Pace) -> Result<Outcome> {
    let database = format!("run_{}", name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "_"));
    let mut plan = plan.clone();
    plan.settings.extend(fault.settings());
    let (server, standby) = if fault.needs_standby() {
        let primary = Server::start(&servers.image).await?;
        let standby = Server::start_standby(&servers.image, &primary).await?;
        (Arc::new(primary), Some(standby))
    } else {
        (Arc::clone(&servers.shared), None)
    };
    let mut cluster = Cluster::start(server, &database, &plan).await?;
    let world = Arc::clone(&cluster.world);
    join_all((0..LIVE).map(|number| create(&world, number % REPLICAS))).await;
    ensure!(world.live() > LIVE / 2, "no keys could be created");

    let load = Load::start(&world, pace.rates);
    sleep(pace.calm).await;
    world.enter(Stage::Fault);
    let evidence: Evidence = match standby {
        Some(standby) => fail_over(&mut cluster, standby, &pace.means).await?,
        None => fault.inflict(&mut cluster, &pace.means).await?,
    };
    world.enter(Stage::Healed);
    cluster.heal().await?;
    let normal_after = recovery(&world).await;
    if normal_after.is_some() {
        sleep(pace.calm).await;
    }
    load.stop(&world).await?;
    let verdict = judge(&cluster).await?;
    let tallies = world.tallies();
    let unclean = std::mem::take(&mut *locked(&world.unclean));
    end(cluster).await?;
    Ok(Outcome { name: name.to_owned(), evidence, verdict, tallies, unclean, normal_after })
}

/// How long it takes until every replica verifies and changes again; nothing if it does not.
async fn recovery(world: &Arc<World>) -> Option<Duration> {
    #[expect(clippy::disallowed_methods, reason = "a duration for the report")]
    let healed = Instant::now();
    let answers = (0..REPLICAS).map(|replica| async move {
        let manager = world.managers.first().context("there is no manager")?;
        while !world.verify(replica, manager, true, TRY).await {
            sleep(PAUSE).await;
        }
        loop {
            if let Some(key) = world.create(replica, manager, false, TRY).await {
                world.add(key);
                return anyhow::Ok(());
            }
            sleep(PAUSE).await;
        }
    });
    timeout(PATIENCE, try_join_all(answers)).await.ok()?.ok()?;
    Some(healed.elapsed())
}

/// Ends the replicas, as an operator does: what they do then is a part of the run.
async fn end(mut cluster: Cluster) -> Result<()> {
    try_join_all(cluster.replicas.iter_mut().map(crate::replica::Replica::terminate)).await?;
    // A container of its own is removed with it, which takes a while.
    tokio::task::spawn_blocking(move || drop(cluster)).await.context("the system")
}
