//! One connection: message after message from one end to the other, under the link's condition.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{
    Condition, Counts, Way,
    frames::{Frames, Meaning},
};

/// So many messages can be under way at once on a slow link.
const UNDER_WAY: usize = 4_096;

/// Which way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

impl Direction {
    fn of(self, condition: &Condition) -> Way {
        match self {
            Self::ToServer => condition.to_server,
            Self::ToClient => condition.to_client,
        }
    }
}

/// Carries a connection until one end closes it, or it is cut. Says whether it ended by itself.
pub(super) async fn carry(
    mut client: TcpStream,
    mut server: TcpStream,
    age: u64,
    mut condition: watch::Receiver<Condition>,
    counts: &Arc<Counts>,
) -> bool {
    // Where it cannot be set, small messages are late, and nothing worse.
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let cut = Arc::new(AtomicBool::new(false));
    let way = |direction, frames| Carrier {
        direction,
        frames,
        condition: condition.clone(),
        counts: Arc::clone(counts),
        cut: Arc::clone(&cut),
    };
    let (there, back) =
        (way(Direction::ToServer, Frames::from_client()), way(Direction::ToClient, Frames::from_server()));
    let ended = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let both = async { tokio::try_join!(there.run(from_client, to_server), back.run(from_server, to_client)) };
        tokio::select! {
            ends = both => ends.is_ok(),
            _ = condition.wait_for(|now| now.age != age) => false,
        }
    };
    if !ended {
        // Where it cannot be set, the end is as sudden, and only more polite.
        client.set_zero_linger().ok();
        server.set_zero_linger().ok();
    }
    ended
}

struct Carrier {
    direction: Direction,
    frames: Frames,
    condition: watch::Receiver<Condition>,
    counts: Arc<Counts>,
    /// The next thing that the server says is not passed on, and ends the connection.
    cut: Arc<AtomicBool>,
}

impl Carrier {
    async fn run(mut self, mut from: ReadHalf<'_>, to: WriteHalf<'_>) -> io::Result<()> {
        let (send, under_way) = mpsc::channel(UNDER_WAY);
        let read = async move {
            let mut buffer = vec![0; 16 * 1024];
            loop {
                let length = from.read(&mut buffer).await?;
                let Some(bytes @ [_, ..]) = buffer.get(..length) else { return Ok(()) };
                self.frames.add(bytes);
                self.pass_on(&send).await?;
            }
        };
        tokio::try_join!(read, deliver(under_way, to)).map(|_| ())
    }

    async fn pass_on(&mut self, send: &mpsc::Sender<(Instant, Bytes)>) -> io::Result<()> {
        let counts = Arc::clone(&self.counts);
        while let Some((message, meaning)) = self.frames.next() {
            if self.direction == Direction::ToClient && self.cut.load(Ordering::Acquire) {
                // The server has spoken, so it has carried out what was asked.
                counts.cut.fetch_add(1, Ordering::Relaxed);
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            let now = self.condition.borrow().clone();
            if meaning == Meaning::Notification && now.drops_notifications {
                counts.notifications.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            if meaning == Meaning::Change {
                let changes = counts.changes.fetch_add(1, Ordering::Relaxed) + 1;
                if now.cuts_every > 0 && changes.is_multiple_of(now.cuts_every) {
                    self.cut.store(true, Ordering::Release);
                }
            }
            let direction = self.direction;
            if direction.of(&now) == Way::Held || !now.delay.is_zero() {
                counts.held.fetch_add(1, Ordering::Relaxed);
            }
            let open = self.condition.wait_for(|now| direction.of(now) == Way::Open).await;
            let Ok(delay) = open.map(|now| now.delay) else { return Ok(()) };
            if send.send((Instant::now() + delay, message)).await.is_err() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
        Ok(())
    }
}

/// Writes each message when it is due.
async fn deliver(mut under_way: mpsc::Receiver<(Instant, Bytes)>, mut to: WriteHalf<'_>) -> io::Result<()> {
    while let Some((due, message)) = under_way.recv().await {
        sleep_until(due).await;
        to.write_all(&message).await?;
    }
    to.shutdown().await
}
