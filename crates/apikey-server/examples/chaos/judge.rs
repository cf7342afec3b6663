//! What the store itself holds when all is over, and the verdict on everything. Knows the schema's names.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use apikey_domain::{KeyEventKind, KeyId};
use apikey_testing::history::{FOREVER, History, Kind, Operation, Outcome, Sight, Violation};
use tokio::time::sleep;
use tokio_postgres::Client;

use crate::{
    cluster::Cluster,
    world::{LostCreate, World, locked},
};

/// How often, with a pause of 50 ms, it is looked whether what was begun before has ended: a minute.
const LOOKS: u32 = 1_200;

/// Of the service's own sessions: whether any still works on what began that long ago.
const UNDER_WAY: &str = "SELECT count(*) FROM pg_stat_activity \
     WHERE datname = current_database() AND usename = 'apikeys' AND xact_start < now() - $1::text::interval";

/// What came of a run.
pub(crate) struct Verdict {
    pub(crate) operations: usize,
    pub(crate) keys: usize,
    pub(crate) violations: Vec<Violation>,
}

/// Looks at every key in the store, and at the audit trail, and judges everything that was recorded.
pub(crate) async fn judge(cluster: &Cluster) -> Result<Verdict> {
    let client = cluster.server.connect(&cluster.database).await?;
    wait_until_quiet(&client).await?;
    let world = &cluster.world;
    look(world, &client).await?;
    let history = std::mem::take(&mut *locked(&world.history));
    // It takes its time, in which nothing else is to stand still.
    let judged = tokio::task::spawn_blocking(move || (history.check(), history));
    let (violations, history) = judged.await.context("the check ended early")?;
    let mut keys: Vec<KeyId> = history.operations.iter().map(|operation| operation.key).collect();
    keys.sort_unstable();
    keys.dedup();
    Ok(Verdict { operations: history.operations.len() + history.uses.len(), keys: keys.len(), violations })
}

/// Changes that nobody waits for any more may yet be carried out.
async fn wait_until_quiet(client: &Client) -> Result<()> {
    for waited in 0..LOOKS {
        let since = format!("{} milliseconds", u64::from(waited) * 50);
        let under_way: i64 = client.query_one(UNDER_WAY, &[&since]).await?.get(0);
        if waited > 4 && under_way == 0 {
            return Ok(());
        }
        sleep(Duration::from_millis(50)).await;
    }
    bail!("the database did not become quiet")
}

async fn look(world: &World, client: &Client) -> Result<()> {
    let start = world.now();
    let rows = client.query("SELECT id::text, name, revoked_at IS NOT NULL FROM api_keys", &[]).await?;
    let end = world.now();
    let keys = rows.iter().map(|row| Ok((KeyId::parse(row.get(0))?, (row.get(1), row.get(2)))));
    let keys: HashMap<KeyId, (&str, bool)> = keys.collect::<Result<_>>()?;

    let rows = client.query("SELECT key_id::text, kind FROM audit_events", &[]).await?;
    let events = rows.iter().map(|row| {
        let name: &str = row.get(1);
        let kind = KeyEventKind::ALL.into_iter().find(|kind| kind.name() == name);
        Ok((KeyId::parse(row.get(0))?, kind.with_context(|| format!("{name} is no kind of event"))?))
    });
    let audit = Some(events.collect::<Result<_>>()?);

    let mut history = locked(&world.history);
    history.merge(History { audit, ..History::default() });
    history.operations.extend(found_again(&locked(&world.keys).lost, &keys));
    let mut sights: HashMap<KeyId, Sight> =
        history.operations.iter().map(|operation| (operation.key, Sight::Absent)).collect();
    let seen = |revoked| if revoked { Sight::Revoked } else { Sight::Live };
    sights.extend(keys.into_iter().map(|(key, (_, revoked))| (key, seen(revoked))));
    let looks = sights.into_iter().map(|(key, sight)| Operation { key, start, end, kind: Kind::Look(sight) });
    history.operations.extend(looks);
    if let Some((dumped, restored)) = *locked(&world.restored) {
        forget_what_was_lost(&mut history, dumped, restored);
    }
    Ok(())
}

/// Nothing is promised of keys that were created or revoked, or may have been, after the dump was begun and before it took the
/// database's place; of all others, everything.
fn forget_what_was_lost(history: &mut History, dumped: u64, restored: u64) {
    let lost = |operation: &&Operation| {
        let (Kind::Create(_, outcome) | Kind::Revoke(outcome)) = &operation.kind else { return false };
        operation.start <= restored && (*outcome == Outcome::Unknown || operation.end >= dumped)
    };
    let lost: HashSet<KeyId> = history.operations.iter().filter(lost).map(|operation| operation.key).collect();
    history.operations.retain(|operation| !lost.contains(&operation.key));
    history.uses.retain(|reading| reading.start > restored && !lost.contains(&reading.key));
    if let Some(audit) = &mut history.audit {
        audit.retain(|(key, _)| !lost.contains(key));
    }
}

/// What has become of creates whose answers were lost: those whose keys are there were carried out, in the name of whom they were
/// asked for by.
fn found_again(lost: &[LostCreate], keys: &HashMap<KeyId, (&str, bool)>) -> Vec<Operation> {
    let ids: HashMap<&str, KeyId> = keys.iter().map(|(id, (name, _))| (*name, *id)).collect();
    let mut operations = Vec::new();
    for LostCreate { name, organization, authorizer, start } in lost {
        let Some(id) = ids.get(name.as_str()) else { continue };
        let operation = |key, kind| Operation { key, start: *start, end: FOREVER, kind };
        operations.push(operation(*id, Kind::Create(organization.clone(), Outcome::Unknown)));
        operations.push(operation(*authorizer, Kind::Act(Outcome::Ok)));
    }
    operations
}
