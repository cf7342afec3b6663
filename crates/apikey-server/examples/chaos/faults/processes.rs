//! Faults of the replicas' processes.

use std::{fs, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use apikey_testing::history::Outcome;
use futures_util::future::join_all;
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{Evidence, Means};
use crate::{
    cluster::{Cluster, REPLICAS},
    load::try_everywhere,
    world::{CHANGE, Key, VERIFY, World},
};

/// So many keys are revoked while a replica stands still.
const KEYS: usize = 8;
/// How long a client waits for a replica that stands still.
const STANDING: Duration = Duration::from_mins(1);
/// How long bytes may take to reach a socket of the same machine: generously.
const ON_THE_WAY: Duration = Duration::from_millis(100);

pub(super) async fn kill(cluster: &mut Cluster, means: &Means) -> Result<Evidence> {
    for round in 0..means.rounds {
        cluster.replica(round)?.kill().await?;
        sleep(means.lasts / u32::try_from(means.rounds)?).await;
        cluster.replica(round)?.start_and_wait().await?;
    }
    Ok(Evidence::of("replicas killed", means.rounds as u64))
}

pub(super) async fn terminate(cluster: &mut Cluster, means: &Means) -> Result<Evidence> {
    for round in 0..means.rounds {
        cluster.replica(round)?.terminate().await?;
        sleep(means.lasts / u32::try_from(means.rounds)?).await;
        cluster.replica(round)?.start_and_wait().await?;
    }
    Ok(Evidence::of("replicas ended", means.rounds as u64))
}

pub(super) async fn rolling(cluster: &mut Cluster) -> Result<Evidence> {
    for number in 0..REPLICAS {
        cluster.replica(number)?.terminate().await?;
        cluster.replica(number)?.start_and_wait().await?;
    }
    Ok(Evidence::of("replicas replaced", REPLICAS as u64))
}

/// What was sent to the stopped replica before the revocation may be answered either way; what was sent after its OK must be
/// refused, though all of it lies on the same socket.
pub(super) async fn pause(cluster: &mut Cluster, means: &Means) -> Result<Evidence> {
    let world = Arc::clone(&cluster.world);
    let (mut before, mut after) = (0, 0);
    for round in 0..means.rounds {
        let (stopped, other) = (round % REPLICAS, (round + 1) % REPLICAS);
        let keys = fresh_keys(&world, other).await?;
        // It knows them all.
        join_all(keys.iter().map(|key| world.verify(stopped, key, false, VERIFY))).await;
        cluster.replica(stopped)?.stop().await?;
        let queued: Vec<_> =
            keys.iter().flat_map(|key| [queue(&world, stopped, key), queue(&world, stopped, key)]).collect();
        sleep(ON_THE_WAY).await;
        let revoked = join_all(keys.iter().map(|key| world.revoke(other, key))).await;
        let mut late = Vec::new();
        for (key, _) in keys.iter().zip(revoked).filter(|(_, outcome)| *outcome == Some(Outcome::Ok)) {
            late.push(queue(&world, stopped, key));
            late.push(queue(&world, stopped, key));
            try_everywhere(&world, key);
        }
        sleep(ON_THE_WAY).await;
        cluster.replica(stopped)?.resume().await?;
        before += answered(queued).await;
        after += answered(late).await;
    }
    Ok(Evidence::of("replicas stopped", means.rounds as u64)
        .and("verifications answered that had been sent before the revocation", before)
        .and("verifications answered that had been sent after its OK", after))
}

/// The revocation is repeated elsewhere: its OK must hold although the first process, which may have committed, stands still.
pub(super) async fn pause_revoker(cluster: &mut Cluster, means: &Means) -> Result<Evidence> {
    /// So long each message is under way, so that there is a middle.
    const DELAY: Duration = Duration::from_millis(10);
    let world = Arc::clone(&cluster.world);
    let (mut interrupted, mut confirmed) = (0, 0);
    for round in 0..means.rounds * 3 {
        let (stopped, other) = (round % REPLICAS, (round + 1) % REPLICAS);
        let keys = fresh_keys(&world, other).await?;
        for replica in 0..REPLICAS {
            join_all(keys.iter().map(|key| world.verify(replica, key, false, VERIFY))).await;
        }
        cluster.link(stopped)?.change(|condition| condition.delay = DELAY);
        let first: Vec<_> = keys.iter().map(|key| spawn_revoke(&world, stopped, key)).collect();
        // Before it has read the key, before it has committed, before it hears of it.
        sleep(DELAY + DELAY * 3 * u32::try_from(round % 3)? / 2).await;
        cluster.replica(stopped)?.stop().await?;
        interrupted += first.iter().filter(|call| !call.is_finished()).count() as u64;
        let again = join_all(keys.iter().map(|key| world.revoke(other, key))).await;
        for (key, _) in keys.iter().zip(again).filter(|(_, outcome)| *outcome == Some(Outcome::Ok)) {
            confirmed += 1;
            try_everywhere(&world, key);
        }
        sleep(ON_THE_WAY).await;
        cluster.replica(stopped)?.resume().await?;
        cluster.link(stopped)?.heal();
        join_all(first).await;
        for key in &keys {
            try_everywhere(&world, key);
        }
    }
    Ok(Evidence::of("revocations interrupted", interrupted).and("revocations confirmed by another replica", confirmed))
}

/// The clock that the first replica sees is moved while it runs. It must notice, and date nothing by it.
pub(super) async fn clock(cluster: &mut Cluster, means: &Means) -> Result<Evidence> {
    const NOTICED: &str = "apikeys_clock_difference_seconds";
    let library = means.faketime.as_deref().context("libfaketime is missing: run `cargo xtask setup`")?;
    let world = Arc::clone(&cluster.world);
    let file = means.folder.join(format!("{}-clock", cluster.database));
    fs::write(&file, "+0")?;
    let replica = cluster.replica(0)?;
    replica.terminate().await?;
    replica.set("LD_PRELOAD", library);
    replica.set("FAKETIME_TIMESTAMP_FILE", &file.to_string_lossy());
    replica.set("FAKETIME_NO_CACHE", "1");
    // The clocks that only run, and never tell the time, stay as they are.
    replica.set("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    replica.start_and_wait().await?;
    let mut evidence = Evidence::default();
    for (offset, what) in
        [("+3600", "minutes that its clock was ahead"), ("-3600", "minutes that its clock was behind")]
    {
        fs::write(&file, offset)?;
        sleep(means.lasts / 2).await;
        for _ in 0..5 {
            let manager = world.managers.first().context("there is no manager")?;
            if let Some(key) = world.create(0, manager, false, CHANGE).await {
                world.add(key);
            }
        }
        let minutes = timeout(STANDING, async {
            loop {
                let noticed = cluster.replica(0)?.gauge(NOTICED).await?;
                let minutes = Duration::try_from_secs_f64(noticed)?.as_secs() / 60;
                // At the next renewal, which may take its time.
                if minutes >= 59 {
                    return anyhow::Ok(minutes);
                }
                sleep(ON_THE_WAY).await;
            }
        });
        evidence = evidence.and(what, minutes.await.context("the replica did not notice that its clock was moved")??);
    }
    fs::write(&file, "+0")?;
    let sql = "SELECT count(*) FROM api_keys WHERE abs(extract(epoch FROM now() - created_at)) > 1800";
    let misdated = cluster.server.sql(&cluster.database, sql).await?;
    ensure!(misdated == "0", "{misdated} keys were dated by a replica's own clock");
    Ok(evidence)
}

async fn fresh_keys(world: &Arc<World>, replica: usize) -> Result<Vec<Arc<Key>>> {
    let manager = world.managers.first().context("there is no manager")?;
    let created = join_all((0..KEYS).map(|number| world.create(replica, manager, number == 0, CHANGE))).await;
    Ok(created.into_iter().flatten().map(Arc::new).collect())
}

fn queue(world: &Arc<World>, replica: usize, key: &Arc<Key>) -> JoinHandle<bool> {
    let (world, key) = (Arc::clone(world), Arc::clone(key));
    tokio::spawn(async move { world.verify(replica, &key, false, STANDING).await })
}

fn spawn_revoke(world: &Arc<World>, replica: usize, key: &Arc<Key>) -> JoinHandle<Option<Outcome>> {
    let (world, key) = (Arc::clone(world), Arc::clone(key));
    tokio::spawn(async move { world.revoke(replica, &key).await })
}

async fn answered(calls: Vec<JoinHandle<bool>>) -> u64 {
    join_all(calls).await.into_iter().filter(|answered| matches!(answered, Ok(true))).count() as u64
}
