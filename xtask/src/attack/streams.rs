//! Peers that ask for much and take little, or keep streams open that nobody needs.

use std::{thread::sleep, time::Duration};

use anyhow::{Result, ensure};

use super::{
    Arena, Outcome,
    frames::{DATA, Peer, frame, head, head_of, message},
    now,
    others::text_field,
    victim::{LIST, PATIENCE, REFLECTION, Victim, WATCH},
};

/// Streams at once on one connection, fewer than the service's limit.
const STREAMS: usize = 98;
/// Keys on the page that nobody reads, each with a name as large as it may be.
const KEYS: usize = 1_000;

/// Pages that a manager of one organization asks for and never reads.
pub(super) fn unread_pages(arena: &Arena<'_>) -> Result<Outcome> {
    const CONNECTIONS: usize = 6;
    let victim = arena.on_postgres("unread_pages", &[])?;
    let tenant = victim.tenant("readers")?;
    let name = "\u{1F511}".repeat(200);
    for _ in 0..KEYS {
        victim.create(&tenant, &name, "")?;
    }
    // Pagination { page_size: 1000 }, as field 2.
    let request = message(&[2 << 3 | 2, 3, 1 << 3, 0xE8, 0x07]);
    Outcome::of(&victim, &[], |victim| {
        let mut peers = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut peer = Peer::connect_with_window(victim.service.public, 0)?;
            for stream in 0..STREAMS {
                if peer.open(&head(LIST, Some(&tenant)), Some(&request)).is_err() {
                    break;
                }
                // Few at once: what is refused for its number is no answer that is kept.
                if stream % 10 == 9 {
                    sleep(Duration::from_millis(20));
                }
            }
            peers.push(peer);
        }
        keep(&mut peers, arena.duration);
        Ok(Vec::new())
    })
}

/// One stream of health on each connection that there can be, kept as long as the service lets it be.
pub(super) fn watch_on_every_connection(arena: &Arena<'_>) -> Result<Outcome> {
    const ALL: &str = "50";
    let victim = arena.on_sqlite(&[("APIKEYS_MAX_CONNECTIONS", ALL)])?;
    // Longer than a caller waits for a connection.
    let duration = arena.duration.max(PATIENCE + Duration::from_secs(2));
    Outcome::of(&victim, &[], |victim| {
        let started = now();
        let mut peers = Vec::new();
        while started.elapsed() < duration {
            while peers.len() < ALL.parse()? {
                let Ok(mut peer) = Peer::connect(victim.service.public) else { break };
                let _ = peer.open(&head(WATCH, None), Some(&message(&[])));
                peers.push(peer);
            }
            peers.retain_mut(Peer::drain);
            sleep(Duration::from_millis(20));
        }
        Ok(Vec::new())
    })
}

/// Streams of health, as many as connections allow.
pub(super) fn watch_streams(arena: &Arena<'_>) -> Result<Outcome> {
    let victim = arena.on_sqlite(&[])?;
    Outcome::of(&victim, &[], |victim| {
        endless(arena, victim, WATCH, &message(&[]))?;
        Ok(Vec::new())
    })
}

/// Streams of reflection with twenty questions each, whose answers nobody reads.
pub(super) fn reflection_streams(arena: &Arena<'_>) -> Result<Outcome> {
    let victim = arena.on_sqlite(&[])?;
    Outcome::of(&victim, &[], |victim| {
        endless(arena, victim, REFLECTION, &message(&text_field(4, "pidgr.v1.ApiKeyService")).repeat(20))?;
        Ok(Vec::new())
    })
}

fn endless(arena: &Arena<'_>, victim: &Victim, path: &str, body: &[u8]) -> Result<()> {
    const CONNECTIONS: usize = 40;
    let mut peers = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut peer = Peer::connect_with_window(victim.service.public, 0)?;
        for _ in 0..STREAMS {
            let Ok(stream) = peer.open(&head(path, None), None) else { break };
            if peer.send(&frame(DATA, 0, stream, body)).is_err() {
                break;
            }
        }
        peers.push(peer);
    }
    keep(&mut peers, arena.duration);
    Ok(())
}

/// Messages of 64 KiB by Connect that never end, from nobody.
pub(super) fn unfinished_bodies(arena: &Arena<'_>) -> Result<Outcome> {
    const CONNECTIONS: usize = 20;
    const PIECE: usize = 16_000;
    let victim = arena.on_sqlite(&[])?;
    Outcome::of(&victim, &[], |victim| {
        let mut peers = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut peer = Peer::connect(victim.service.public)?;
            'connection: for _ in 0..STREAMS {
                let Ok(stream) = peer.open(&head_of(LIST, "application/json", None), None) else { break };
                for _ in 0..4 {
                    if peer.send(&frame(DATA, 0, stream, &[b' '; PIECE])).is_err() {
                        break 'connection;
                    }
                }
                peer.drain();
            }
            peers.push(peer);
        }
        keep(&mut peers, arena.duration);
        ensure!(!peers.is_empty(), "no connection was made");
        Ok(Vec::new())
    })
}

/// Keeps connections open: their PINGs are answered, and nothing else happens.
fn keep(peers: &mut [Peer], duration: Duration) {
    let started = now();
    while started.elapsed() < duration {
        for peer in &mut *peers {
            peer.drain();
        }
        sleep(Duration::from_millis(20));
    }
}
