//! Which connections are open, and which of them goes where there are too many.
//!
//! A connection that has been without a call for longest makes room: a handshake that never ends, a keep-alive that nobody uses, a
//! stream that waits for nothing. One with a call in flight stays.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
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

/// Of so many connections one is noted as quiet when all are looked at, so that a flood of new ones has each look at so many.
const LOOKED_AT: usize = 64;

#[derive(Default)]
struct State {
    next: u64,
    /// In the order in which they were opened.
    open: BTreeMap<u64, Entry>,
    of_peers: HashMap<IpAddr, Peer>,
    quiet: Quiet,
    said: Option<Instant>,
}

/// The connections of one peer.
#[derive(Default)]
struct Peer {
    open: usize,
    quiet: Quiet,
}

/// The connections that were quietest when they were last looked at, with the beginning of their last calls then: the quietest first.
type Quiet = VecDeque<(Instant, u64)>;

struct Entry {
    peer: IpAddr,
    activity: Activity,
    makes_room: Arc<Notify>,
}

impl State {
    /// Which connection makes room: of one peer's, or of all.
    fn quietest(&mut self, of: Option<IpAddr>, now: Instant) -> Option<u64> {
        let Self { open, of_peers, quiet, .. } = self;
        let quiet = match of {
            Some(peer) => &mut of_peers.get_mut(&peer)?.quiet,
            None => quiet,
        };
        let is_quiet = |entry: &Entry| !entry.activity.is_busy(now);
        while let Some((last_call, number)) = quiet.pop_front() {
            if open.get(&number).is_some_and(|entry| is_quiet(entry) && entry.activity.last_call() == last_call) {
                return Some(number);
            }
        }
        let candidates = open.iter().filter(|(_, entry)| of.is_none_or(|peer| peer == entry.peer) && is_quiet(entry));
        let mut found: Vec<_> = candidates.map(|(number, entry)| (entry.activity.last_call(), *number)).collect();
        let noted = found.len().div_ceil(LOOKED_AT);
        found.sort_unstable();
        found.truncate(noted);
        *quiet = found.into();
        quiet.pop_front().map(|(_, number)| number)
    }

    /// Ends that connection. Its place is free at once.
    fn end(&mut self, number: u64) {
        if let Some(entry) = self.remove(number) {
            entry.makes_room.notify_one();
        }
    }

    fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.open.remove(&number)?;
        if let Some(peer) = self.of_peers.get_mut(&entry.peer) {
            peer.open -= 1;
            if peer.open == 0 {
                self.of_peers.remove(&entry.peer);
            }
        }
        Some(entry)
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
                if state.of_peers.get(&peer).is_some_and(|of_peer| of_peer.open >= self.per_peer) {
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
        state.of_peers.entry(peer).or_default().open += 1;
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
        state.remove(self.number);
        self.connections.gauge.set(u32::try_from(state.open.len()).unwrap_or(u32::MAX));
        drop(state);
        self.connections.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use futures_util::FutureExt as _;

    use super::*;

    const PEER: u8 = 1;
    const ANOTHER: u8 = 2;

    async fn open(connections: &Arc<Connections>, peer: u8, opened: &mut Vec<Opened>) {
        let peer = PeerAddress(SocketAddr::from((Ipv4Addr::new(192, 0, 2, peer), 1)));
        opened.push(connections.open(peer, &Activity::new()).await.unwrap());
    }

    /// Which of them were told to make room since they were last asked.
    fn told(opened: &[Opened]) -> Vec<u64> {
        let told = opened.iter().filter(|one| one.makes_room().now_or_never().is_some());
        told.map(|one| one.number).collect()
    }

    #[tokio::test]
    async fn the_quietest_make_room_in_their_order_of_one_peer_and_of_all() {
        let connections = Connections::new("of a test", 300, 200);
        let mut opened = Vec::new();
        for _ in 0..200 {
            open(&connections, PEER, &mut opened).await;
        }
        assert!(told(&opened).is_empty());
        for number in 0..10 {
            open(&connections, PEER, &mut opened).await;
            assert_eq!(told(&opened), [number], "a peer that has its share");
        }
        for _ in 0..100 {
            open(&connections, ANOTHER, &mut opened).await;
        }
        assert!(told(&opened).is_empty());
        for number in 10..30 {
            open(&connections, ANOTHER, &mut opened).await;
            assert_eq!(told(&opened), [number], "there are as many as there may be");
        }
        // Those that have ended need make no room, and whoever had made room for them is not asked twice.
        opened.drain(..40);
        for _ in 0..10 {
            open(&connections, PEER, &mut opened).await;
        }
        assert!(told(&opened).is_empty());
        open(&connections, PEER, &mut opened).await;
        assert_eq!(told(&opened), [40]);
        drop(opened);
        let state = connections.lock();
        assert!(state.open.is_empty() && state.of_peers.is_empty());
    }
}
