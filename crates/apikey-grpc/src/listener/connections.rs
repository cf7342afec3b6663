//! Which connections are open, and which of them goes where there are too many.
//!
//! A connection that has been without a call for longest makes room: a handshake that never ends, a keep-alive that nobody uses, a
//! stream that waits for nothing. One with a call in flight stays.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use metrics::Gauge;
use tokio::{
    sync::{Notify, futures::OwnedNotified},
    time::Instant,
};

use super::{Activity, PeerAddress};

const OPEN: &str = "apikeys_connections";

/// How often the log says that there are too many.
const SAID_AGAIN: Duration = Duration::from_mins(1);

/// How soon it is looked again for a connection without a call, where each had one.
const LOOKED_AGAIN: Duration = Duration::from_millis(50);

/// The open connections of one listener.
pub(super) struct Connections {
    most: usize,
    per_peer: usize,
    state: Mutex<State>,
    ended: Notify,
    gauge: Gauge,
}

#[derive(Default)]
struct State {
    next: u64,
    /// In the order in which they were opened.
    open: BTreeMap<u64, Entry>,
    said: Option<Instant>,
}

struct Entry {
    peer: IpAddr,
    activity: Activity,
    makes_room: Arc<Notify>,
}

impl State {
    /// Which connection makes room: of one peer's, or of all.
    fn quietest(&self, of: Option<IpAddr>, now: Instant) -> Option<u64> {
        let candidates = self.open.iter().filter(|(_, entry)| of.is_none_or(|peer| peer == entry.peer));
        let idle = candidates.filter(|(_, entry)| !entry.activity.is_busy(now));
        idle.min_by_key(|(number, entry)| (entry.activity.last_call(), **number)).map(|(number, _)| *number)
    }

    /// Ends that connection. Its place is free at once.
    fn end(&mut self, number: u64) {
        if let Some(entry) = self.open.remove(&number) {
            entry.makes_room.notify_one();
        }
    }

    /// Says so, seldom.
    fn complain(&mut self, now: Instant, peer: IpAddr, most: usize) {
        if self.said.is_none_or(|said| now.duration_since(said) >= SAID_AGAIN) {
            self.said = Some(now);
            tracing::warn!(%peer, most, "there are as many connections as there may be: those without calls make room");
        }
    }
}

impl Connections {
    /// At most so many connections, and so many from one peer's address.
    pub(super) fn new(listener: &'static str, most: usize, per_peer: usize) -> Arc<Self> {
        metrics::describe_gauge!(OPEN, "Open connections, by listener.");
        let gauge = metrics::gauge!(OPEN, "listener" => listener);
        gauge.set(0);
        let (state, ended) = (Mutex::default(), Notify::new());
        Arc::new(Self { most: most.max(1), per_peer: per_peer.max(1), state, ended, gauge })
    }

    /// Makes room for a connection of that peer, and waits for it where every other one has a call in flight. `None` where the peer has
    /// its share, and a call in flight on each.
    pub(super) async fn open(self: &Arc<Self>, peer: PeerAddress, activity: &Activity) -> Option<Opened> {
        let peer = super::network(peer);
        loop {
            let ended = self.ended.notified();
            let mut ended = std::pin::pin!(ended);
            // From now on: one that ends while we look is not missed.
            ended.as_mut().enable();
            {
                let now = Instant::now();
                let mut state = self.lock();
                let of_peer = state.open.values().filter(|entry| entry.peer == peer).count();
                if of_peer >= self.per_peer {
                    state.complain(now, peer, self.per_peer);
                    let quietest = state.quietest(Some(peer), now)?;
                    state.end(quietest);
                }
                if state.open.len() >= self.most {
                    state.complain(now, peer, self.most);
                    if let Some(quietest) = state.quietest(None, now) {
                        state.end(quietest);
                    }
                }
                if state.open.len() < self.most {
                    return Some(self.enter(&mut state, peer, activity.clone()));
                }
            }
            // A call that ends wakes nobody.
            let _ = tokio::time::timeout(LOOKED_AGAIN, ended).await;
        }
    }

    fn enter(self: &Arc<Self>, state: &mut State, peer: IpAddr, activity: Activity) -> Opened {
        let (number, makes_room) = (state.next, Arc::new(Notify::new()));
        state.next += 1;
        state.open.insert(number, Entry { peer, activity, makes_room: Arc::clone(&makes_room) });
        self.gauge.set(u32::try_from(state.open.len()).unwrap_or(u32::MAX));
        Opened { connections: Arc::clone(self), number, makes_room }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection, until it is dropped.
pub(super) struct Opened {
    connections: Arc<Connections>,
    number: u64,
    makes_room: Arc<Notify>,
}

impl Opened {
    /// Is ready when this connection has to make room for another one.
    pub(super) fn makes_room(&self) -> OwnedNotified {
        Arc::clone(&self.makes_room).notified_owned()
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let mut state = self.connections.lock();
        state.open.remove(&self.number);
        self.connections.gauge.set(u32::try_from(state.open.len()).unwrap_or(u32::MAX));
        drop(state);
        self.connections.ended.notify_one();
    }
}
