//! An open-loop load: so much of everything each second, whether what was sent before has been answered or not. It knows no
//! fault.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use apikey_testing::history::Outcome;
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use crate::world::{CHANGE, Key, VERIFY, World};

/// The load is sent in portions, so many each second.
const PORTIONS: u32 = 200;

/// So many calls may wait for one replica; what comes then is not sent, or the memory of this process would be the limit.
const MOST_OUTSTANDING: usize = 300;

/// So many live keys are held ready.
pub(crate) const LIVE: usize = 150;

/// So often in a row nothing is under way, when all is over: between an answer and what follows from it there is a moment.
const QUIET: u32 = 20;

/// How much of everything, each second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    pub(crate) verify: u32,
    pub(crate) create: u32,
    pub(crate) revoke: u32,
    /// Creates in the name of keys that are revoked now and then.
    pub(crate) act: u32,
    pub(crate) list: u32,
    /// Revocations of other organizations' keys.
    pub(crate) trespass: u32,
}

impl Rates {
    /// An ordinary mixture around that many verifications.
    pub(crate) const fn around(verify: u32) -> Self {
        Self { verify, create: 16, revoke: 20, act: 6, list: 2, trespass: 8 }
    }
}

/// The load, until it is stopped.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Load {
    pub(crate) fn start(world: &Arc<World>, rates: Rates) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(run(Arc::clone(world), rates, Arc::clone(&stop)));
        Self { stop, task }
    }

    /// Sends nothing more, and waits until everything has been answered or given up.
    ///
    /// # Errors
    /// Calls do not end.
    pub(crate) async fn stop(self, world: &World) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.context("the load ended early")?;
        let ended = async {
            let mut quiet = 0;
            while quiet < QUIET {
                quiet = if world.outstanding() > 0 { 0 } else { quiet + 1 };
                sleep(Duration::from_millis(10)).await;
            }
        };
        // Every call ends by itself within this time, those included that the answer to another one makes.
        timeout(CHANGE * 3, ended).await.context("calls do not end")
    }
}

async fn run(world: Arc<World>, rates: Rates, stop: Arc<AtomicBool>) {
    let mut portions = interval(Duration::from_secs(1) / PORTIONS);
    portions.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut due = [0; 6];
    while !stop.load(Ordering::Relaxed) {
        portions.tick().await;
        let Rates { verify, create, revoke, act, list, trespass } = rates;
        // Whoever revokes most of the keys must let some more be created.
        let create = if world.live() < LIVE { create * 2 } else { create };
        let rates = [verify, create, revoke, act, list, trespass];
        for (what, (due, rate)) in due.iter_mut().zip(rates).enumerate() {
            *due += rate;
            while *due >= PORTIONS {
                *due -= PORTIONS;
                send(&world, what);
            }
        }
    }
}

/// Sends one operation to any replica, and waits for nothing.
fn send(world: &Arc<World>, what: usize) {
    let replica = world.random(world.replicas.len());
    if world.outstanding_at(replica) >= MOST_OUTSTANDING {
        return world.tally(|tally| tally.not_sent += 1);
    }
    let world = Arc::clone(world);
    tokio::spawn(async move {
        match what {
            0 => {
                if let Some(key) = world.any_key() {
                    let strict = world.random(32) == 0;
                    world.verify(replica, &key, strict, VERIFY).await;
                }
            }
            1 => create(&world, replica).await,
            2 => revoke(&world, replica).await,
            3 => {
                if let Some(key) = world.managing_key() {
                    act(&world, replica, &key).await;
                }
            }
            4 => {
                if let Some(manager) = world.managers.get(world.random(world.managers.len())) {
                    world.list(replica, manager).await;
                }
            }
            _ => {
                if let Some(key) = world.live_key() {
                    world.revoke_as_a_stranger(replica, &key).await;
                }
            }
        }
    });
}

/// Creates a key of any organization. Says nothing where it fails: the history does.
pub(crate) async fn create(world: &World, replica: usize) {
    let Some(manager) = world.managers.get(world.random(world.managers.len())) else { return };
    if let Some(key) = world.create(replica, manager, world.random(6) == 0, CHANGE).await {
        world.add(key);
    }
}

async fn act(world: &World, replica: usize, key: &Key) {
    if let Some(created) = world.create(replica, key, false, CHANGE).await {
        world.add(created);
    }
}

/// Revokes any key and, as soon as that is answered, tries it everywhere.
async fn revoke(world: &Arc<World>, replica: usize) {
    let Some(key) = world.take() else { return };
    match world.revoke(replica, &key).await {
        Some(Outcome::Ok) => try_everywhere(world, &key),
        Some(Outcome::Unknown) | None => world.doubt(key),
        Some(Outcome::Refused) => {}
    }
}

/// Presents a key to every replica at once, and acts with it where it may.
pub(crate) fn try_everywhere(world: &Arc<World>, key: &Arc<Key>) {
    for replica in 0..world.replicas.len() {
        let (world, key) = (Arc::clone(world), Arc::clone(key));
        tokio::spawn(async move {
            world.verify(replica, &key, world.random(4) == 0, VERIFY).await;
            if key.manages {
                act(&world, replica, &key).await;
            }
        });
    }
}
