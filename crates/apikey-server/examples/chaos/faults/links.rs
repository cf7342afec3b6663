//! Faults of the links between replicas and database.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::Result;
use tokio::time::sleep;

use super::{Evidence, Means};
use crate::{
    cluster::{Cluster, REPLICAS},
    proxy::{Counts, Way},
};

/// How long a flapping link is in each of its states.
const FLAP: Duration = Duration::from_millis(300);

fn total(cluster: &Cluster, of: fn(&Counts) -> &AtomicU64) -> u64 {
    cluster.count(|counts| of(counts).load(Ordering::Relaxed))
}

pub(super) async fn partition(cluster: &Cluster, means: &Means) -> Result<Evidence> {
    let before = total(cluster, |counts| &counts.held);
    cluster.link(0)?.hold();
    sleep(means.lasts).await;
    Ok(Evidence::of("pieces held up", total(cluster, |counts| &counts.held) - before))
}

pub(super) async fn reset(cluster: &Cluster, means: &Means) -> Result<Evidence> {
    let before = total(cluster, |counts| &counts.reset);
    cluster.link(0)?.change(|condition| condition.refuses = true);
    cluster.link(0)?.reset();
    sleep(means.lasts).await;
    Ok(Evidence::of("connections reset", total(cluster, |counts| &counts.reset) - before))
}

pub(super) async fn one_way(cluster: &Cluster, means: &Means) -> Result<Evidence> {
    let mut evidence = Evidence::default();
    for (what, there, back) in [
        ("answers held up", Way::Open, Way::Held),
        ("requests held up", Way::Held, Way::Open),
        ("answers held up again", Way::Open, Way::Held),
    ] {
        let before = total(cluster, |counts| &counts.held);
        cluster.link(0)?.change(|condition| (condition.to_server, condition.to_client) = (there, back));
        sleep(means.lasts / 3).await;
        evidence = evidence.and(what, total(cluster, |counts| &counts.held) - before);
        cluster.link(0)?.heal();
        // What was held up must be under way before the link fails anew.
        sleep(FLAP).await;
    }
    Ok(evidence)
}

/// One link is silent now and then, another one resets.
pub(super) async fn flap(cluster: &Cluster, means: &Means) -> Result<Evidence> {
    let before = [total(cluster, |counts| &counts.held), total(cluster, |counts| &counts.reset)];
    let mut flapped = 0;
    while FLAP * 2 * flapped < means.lasts {
        cluster.link(0)?.hold();
        cluster.link(1)?.change(|condition| condition.refuses = true);
        cluster.link(1)?.reset();
        sleep(FLAP).await;
        cluster.link(0)?.heal();
        cluster.link(1)?.heal();
        sleep(FLAP).await;
        flapped += 1;
    }
    let [held, reset] = before;
    let evidence = Evidence::of("pieces held up", total(cluster, |counts| &counts.held) - held);
    Ok(evidence.and("connections reset", total(cluster, |counts| &counts.reset) - reset))
}

pub(super) async fn slow(cluster: &Cluster, means: &Means, delay: Duration) -> Result<Evidence> {
    let before = total(cluster, |counts| &counts.held);
    for number in 0..REPLICAS {
        cluster.link(number)?.change(|condition| condition.delay = delay);
    }
    // Whatever happens takes several of these delays.
    sleep(means.lasts.max(delay * 4)).await;
    Ok(Evidence::of("pieces delayed", total(cluster, |counts| &counts.held) - before))
}

pub(super) async fn notifications(cluster: &Cluster, means: &Means) -> Result<Evidence> {
    for number in 0..REPLICAS {
        cluster.link(number)?.change(|condition| condition.drops_notifications = true);
    }
    // Twice as long as other faults: replicas go on by themselves, only later.
    sleep(means.lasts * 2).await;
    Ok(Evidence::of("notifications lost", total(cluster, |counts| &counts.notifications)))
}

pub(super) async fn lost_reply(cluster: &Cluster, means: &Means) -> Result<Evidence> {
    for number in 0..REPLICAS {
        cluster.link(number)?.change(|condition| condition.cuts_every = 5);
    }
    sleep(means.lasts).await;
    Ok(Evidence::of("answers cut off", total(cluster, |counts| &counts.cut)))
}
