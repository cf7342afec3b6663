//! The link between one replica and its database, which can be cut, held, delayed and led elsewhere. It knows the protocol's
//! frames, and nothing of what is said.

mod carry;
mod frames;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};

use carry::carry;

/// How long the proxy itself waits for the database to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// What the link does to what passes by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    /// Where new connections lead; those that exist stay.
    pub(crate) server: SocketAddr,
    /// What becomes of what the replica sends.
    pub(crate) to_server: Way,
    /// What becomes of what the database sends.
    pub(crate) to_client: Way,
    /// How long everything is under way, one way.
    pub(crate) delay: Duration,
    /// New connections are reset.
    pub(crate) refuses: bool,
    /// Notifications are taken out.
    pub(crate) drops_notifications: bool,
    /// The answer to every so many changes is cut off; 0 for none.
    pub(crate) cuts_every: u64,
    /// Connections made in an earlier age are reset.
    age: u64,
}

/// What becomes of what passes in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// It passes.
    Open,
    /// Nothing arrives until the way is open again: then everything does, as TCP sends again what was lost.
    Held,
}

/// What happened on a link.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Connections that were made.
    pub(crate) made: AtomicU64,
    /// Connections that were reset.
    pub(crate) reset: AtomicU64,
    /// Pieces that were held up or delayed.
    pub(crate) held: AtomicU64,
    /// Notifications that were taken out.
    pub(crate) notifications: AtomicU64,
    /// Changes that went by.
    pub(crate) changes: AtomicU64,
    /// Changes whose answer was cut off.
    pub(crate) cut: AtomicU64,
}

/// A replica's link.
pub(crate) struct Link {
    pub(crate) address: SocketAddr,
    pub(crate) counts: Arc<Counts>,
    condition: watch::Sender<Condition>,
}

impl Link {
    /// A link that works, to that server.
    pub(crate) async fn to(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (condition, seen) = watch::channel(Condition {
            server,
            to_server: Way::Open,
            to_client: Way::Open,
            delay: Duration::ZERO,
            refuses: false,
            drops_notifications: false,
            cuts_every: 0,
            age: 0,
        });
        let counts = Arc::new(Counts::default());
        tokio::spawn(accept(listener, seen, Arc::clone(&counts)));
        Ok(Self { address, counts, condition })
    }

    /// Changes what the link does.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Condition)) {
        self.condition.send_modify(change);
    }

    /// Nothing arrives any more, in neither direction, and nobody is told.
    pub(crate) fn hold(&self) {
        self.change(|condition| (condition.to_server, condition.to_client) = (Way::Held, Way::Held));
    }

    /// Resets all connections that there are.
    pub(crate) fn reset(&self) {
        self.change(|condition| condition.age += 1);
    }

    /// Works again, and still leads where it leads now.
    pub(crate) fn heal(&self) {
        self.change(|condition| {
            (condition.to_server, condition.to_client) = (Way::Open, Way::Open);
            (condition.delay, condition.cuts_every) = (Duration::ZERO, 0);
            (condition.refuses, condition.drops_notifications) = (false, false);
        });
    }
}

async fn accept(listener: TcpListener, condition: watch::Receiver<Condition>, counts: Arc<Counts>) {
    loop {
        // Whoever has no sockets left tries again.
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        if condition.has_changed().is_err() {
            return;
        }
        tokio::spawn(connect(client, condition.clone(), Arc::clone(&counts)));
    }
}

async fn connect(client: TcpStream, mut condition: watch::Receiver<Condition>, counts: Arc<Counts>) {
    let Condition { age, refuses, .. } = condition.borrow().clone();
    if refuses {
        return reset(&client, &counts);
    }
    // A link whose way is held has no connection either.
    if condition.wait_for(|now| now.to_server == Way::Open || now.age != age).await.is_err() {
        return;
    }
    let server = condition.borrow().server;
    let Ok(Ok(server)) = timeout(CONNECT, TcpStream::connect(server)).await else {
        return reset(&client, &counts);
    };
    counts.made.fetch_add(1, Ordering::Relaxed);
    if !carry(client, server, age, condition, &counts).await {
        counts.reset.fetch_add(1, Ordering::Relaxed);
    }
}

/// Ends a connection as a host does that knows nothing of it.
fn reset(connection: &TcpStream, counts: &Counts) {
    // Then it is closed in another way.
    connection.set_zero_linger().ok();
    counts.reset.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// The first message of a client, and what the server below says to it.
    const HELLO: &[u8] = b"\0\0\0\x08\0\x03\0\0";
    const READY: &[u8] = b"Z\0\0\0\x05I";

    /// A server that answers whatever it is sent.
    async fn server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    while stream.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {
                        stream.write_all(READY).await.ok();
                    }
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn what_is_held_arrives_when_the_way_is_open_again() {
        let link = Link::to(server().await).await.unwrap();
        let mut stream = TcpStream::connect(link.address).await.unwrap();
        let mut answer = [0; READY.len()];
        stream.write_all(HELLO).await.unwrap();
        stream.read_exact(&mut answer).await.unwrap();
        link.change(|condition| condition.to_client = Way::Held);
        stream.write_all(b"S\0\0\0\x04").await.unwrap();
        while link.counts.held.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        assert!(stream.try_read(&mut answer).is_err(), "nothing has arrived");
        link.heal();
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, READY);
    }

    #[tokio::test]
    async fn a_reset_ends_connections_and_a_refusal_new_ones() {
        let link = Link::to(server().await).await.unwrap();
        let mut stream = TcpStream::connect(link.address).await.unwrap();
        link.change(|condition| condition.refuses = true);
        link.reset();
        assert!(stream.read(&mut [0; 8]).await.map_or(true, |read| read == 0));
        let mut refused = TcpStream::connect(link.address).await.unwrap();
        assert!(refused.read(&mut [0; 8]).await.map_or(true, |read| read == 0));
        assert!(link.counts.reset.load(Ordering::Relaxed) >= 1);
    }
}
