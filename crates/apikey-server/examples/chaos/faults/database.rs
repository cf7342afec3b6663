//! Faults of the database.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tokio::time::sleep;

use super::{Evidence, Means};
use crate::{
    cluster::{Cluster, REPLICAS},
    database::Server,
    tally::Stage,
};

/// How many calls of verification and change ended without success while the fault lasted.
fn failures(cluster: &Cluster) -> u64 {
    let tallies = cluster.world.tallies();
    let tally = tallies.get(Stage::Fault as usize);
    tally.map_or(0, |tally| tally.failed.values().sum::<u64>() + tally.unknown)
}

/// So long there are commits whose log is in memory alone, unless they waited for it.
const UNWRITTEN: Duration = Duration::from_secs(1);

/// The database is killed, is away for a while, and is started again. What is counted begins with its death.
pub(super) async fn kill(cluster: &Cluster, means: &Means) -> Result<Evidence> {
    cluster.world.enter(Stage::Healthy);
    cluster.server.stop_lazy_writer().await?;
    sleep(UNWRITTEN).await;
    cluster.world.enter(Stage::Fault);
    outage(cluster, means).await
}

pub(super) async fn outage(cluster: &Cluster, means: &Means) -> Result<Evidence> {
    cluster.server.kill().await?;
    sleep(means.lasts).await;
    let evidence = Evidence::of("databases killed", 1).and("calls that failed", failures(cluster));
    cluster.server.start_again().await?;
    cluster.find_database().await?;
    Ok(evidence)
}

/// The rows that changes wait for are held, so that changes fill the pools: a second and a half at a time, which is longer than a call
/// waits for a row or for a connection.
pub(super) async fn exhaust_pools(cluster: &Cluster, means: &Means) -> Result<Evidence> {
    let before = failures(cluster);
    let client = cluster.server.connect(&cluster.database).await?;
    let rounds = u32::try_from(means.lasts.as_millis() / 1_700)?.max(1);
    for _ in 0..rounds {
        client
            .batch_execute(
                "BEGIN; SELECT FROM revocation_head FOR UPDATE; LOCK TABLE key_counts IN EXCLUSIVE MODE; \
                 SELECT pg_sleep(1.5); COMMIT",
            )
            .await?;
        sleep(Duration::from_millis(200)).await;
    }
    Ok(Evidence::of("locks held", u64::from(rounds)).and("calls that failed", failures(cluster) - before))
}

/// So many numbers of the restored history are yet to come when it begins: whoever acknowledges what the lost one had as many of
/// never sees these revocations.
const TO_COME: u64 = 3;

/// Longer than the lease that replicas have then, and a second: until then nobody may revoke anything.
const AWAY: Duration = Duration::from_secs(5);

/// How often, with a pause of 10 ms, it is looked whether they have come: half a minute.
const LOOKS: u32 = 3_000;

/// A dump is made, revocations follow, and then the dump takes the database's place, longer than a lease after its end. The first
/// replica stands still until there are as many revocations as in the lost one, which is before the others take it for dead.
pub(super) async fn restore(cluster: &mut Cluster, means: &Means) -> Result<Evidence> {
    let (server, database, world) = (Arc::clone(&cluster.server), cluster.database.clone(), Arc::clone(&cluster.world));
    let (server, database) = (&*server, &*database);
    let dumped = world.now();
    let dump = format!("{database}_dump");
    server.copy(database, &dump).await?;
    let dumped_head = head(server, &dump).await?;
    let mut lost_head = head(server, database).await?;
    while lost_head <= dumped_head + TO_COME {
        sleep(Duration::from_millis(10)).await;
        lost_head = head(server, database).await?;
    }
    cluster.replica(0)?.stop().await?;
    let lost_head = head(server, database).await?.max(lost_head);
    server.sql("postgres", &format!("DROP DATABASE {database} WITH (FORCE)")).await?;
    server.sql(&dump, &format!("UPDATE revocation_head SET seq = {}", lost_head - TO_COME)).await?;
    sleep(AWAY).await;
    server.sql("postgres", &format!("ALTER DATABASE {dump} RENAME TO {database}")).await?;
    world.restored(dumped);
    let client = server.connect(database).await?;
    let (mut looks, mut now) = (0, 0);
    while now < i64::try_from(lost_head)? {
        looks += 1;
        ensure!(looks < LOOKS, "nobody revokes anything after the restore");
        sleep(Duration::from_millis(10)).await;
        now = client.query_one("SELECT seq FROM revocation_head", &[]).await?.get(0);
    }
    cluster.replica(0)?.resume().await?;
    sleep(means.lasts).await;
    Ok(Evidence::of("revocations lost", lost_head - dumped_head).and("databases restored", 1))
}

async fn head(server: &Server, database: &str) -> Result<u64> {
    Ok(server.sql(database, "SELECT seq FROM revocation_head").await?.parse()?)
}

/// The standby is promoted. The first replica keeps its connections to the old primary for a while, which still answers its reads;
/// the others are led to the new one at once. Then the old primary is killed.
pub(crate) async fn fail_over(cluster: &mut Cluster, standby: Server, means: &Means) -> Result<Evidence> {
    let standby = Arc::new(standby);
    let address = standby.address().await?;
    standby.promote().await?;
    for number in 1..REPLICAS {
        cluster.link(number)?.change(|condition| condition.server = address);
        cluster.link(number)?.reset();
    }
    // What ended with those connections is counted by then.
    sleep(Duration::from_millis(200)).await;
    let before = transactions(&cluster.server, &cluster.database).await?;
    // New connections of the first one too lead to the new primary, half-way through: its reads then come from both.
    sleep(means.lasts / 2).await;
    cluster.link(0)?.change(|condition| condition.server = address);
    sleep(means.lasts / 2).await;
    let old = std::mem::replace(&mut cluster.server, Arc::clone(&standby));
    let connections = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'apikeys'";
    let answered = transactions(&old, &cluster.database).await? - before;
    let moved: u64 = standby.sql("postgres", connections).await?.parse()?;
    old.kill().await?;
    let reset = cluster.count(|counts| counts.reset.load(Ordering::Relaxed));
    // Its container is removed, which takes a while.
    tokio::task::spawn_blocking(move || drop(old)).await.context("the old primary")?;
    Ok(Evidence::of("transactions that the old primary answered", answered)
        .and("connections to the new primary", moved)
        .and("connections reset", reset))
}

/// How many transactions a server has ended in that database.
async fn transactions(server: &Server, database: &str) -> Result<u64> {
    let sql = format!("SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = '{database}'");
    Ok(server.sql("postgres", &sql).await?.parse()?)
}
