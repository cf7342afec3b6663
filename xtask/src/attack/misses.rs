//! Strangers who ask for keys that nobody has issued: each costs a read, unless it is refused before.

use std::{collections::VecDeque, thread::sleep, time::Duration};

use anyhow::Result;

use super::{
    Arena, Outcome,
    frames::{Peer, head, message, reset},
    now,
    victim::{LIST, UnknownKeys, Victim},
};

/// Valid keys that are not in memory when the attack begins.
const COLD: usize = 400;
/// Streams a second on one connection.
const RATE: f64 = 3_000.0;
/// After so long a stream is reset.
const ABANDONED: Duration = Duration::from_millis(5);

/// A service on PostgreSQL that was just started, and valid keys that it has never seen.
fn cold(arena: &Arena<'_>, database: &str) -> Result<(Victim, Vec<String>)> {
    let victim = arena.on_postgres(database, &[])?;
    let mut keys = Vec::new();
    for _ in 0..COLD {
        keys.push(victim.create(&victim.administrator, "cold", "")?.raw_key);
    }
    Ok((victim.restart()?, keys))
}

/// As many calls as eight connections take, each with another key.
pub(super) fn unknown_keys(arena: &Arena<'_>) -> Result<Outcome> {
    const CONNECTIONS: usize = 8;
    const AT_ONCE: usize = 90;
    let (victim, keys) = cold(arena, "unknown_keys")?;
    let duration = arena.duration;
    Outcome::of(&victim, &keys, |victim| {
        let (started, unknown, body) = (now(), UnknownKeys::new(1), message(&[]));
        let mut peers: Vec<(Peer, usize)> = Vec::new();
        while started.elapsed() < duration {
            while peers.len() < CONNECTIONS {
                peers.push((Peer::connect(victim.service.public)?, 0));
            }
            peers.retain_mut(|(peer, open)| {
                while *open < AT_ONCE {
                    if peer.open(&head(LIST, Some(&unknown.next())), Some(&body)).is_err() {
                        return false;
                    }
                    *open += 1;
                }
                while let Ok(answer) = peer.read(Duration::from_millis(1)) {
                    let Some(frame) = answer else { return true };
                    *open -= usize::from(frame.ends_stream());
                }
                false
            });
        }
        Ok(Vec::new())
    })
}

/// One connection whose streams are reset before they are answered: what was begun for them goes on.
pub(super) fn abandoned_reads(arena: &Arena<'_>) -> Result<Outcome> {
    let (victim, keys) = cold(arena, "abandoned_reads")?;
    let duration = arena.duration;
    Outcome::of(&victim, &keys, |victim| {
        let (started, unknown, body) = (now(), UnknownKeys::new(2), message(&[]));
        let mut peer = Peer::connect(victim.service.public)?;
        let (mut sent, mut open) = (0.0, VecDeque::new());
        while started.elapsed() < duration {
            let mut bytes = Vec::new();
            while sent < started.elapsed().as_secs_f64() * RATE {
                let (stream, request) = peer.request(&head(LIST, Some(&unknown.next())), Some(&body));
                bytes.extend(request);
                open.push_back((now(), stream));
                sent += 1.0;
            }
            while open.front().is_some_and(|(opened, _)| opened.elapsed() > ABANDONED) {
                bytes.extend(open.pop_front().map(|(_, stream)| reset(stream)).unwrap_or_default());
            }
            if peer.send(&bytes).is_err() || !peer.drain() {
                peer = Peer::connect(victim.service.public)?;
                open.clear();
            }
            sleep(Duration::from_millis(1));
        }
        Ok(Vec::new())
    })
}

/// A role of the database without any right sends hints, each of which asks a replica to look now.
pub(super) fn hints(arena: &Arena<'_>) -> Result<Outcome> {
    /// Once a second without hints, and at most each 10 ms with them; twice as often is a fault.
    const PER_SECOND: f64 = 2.0 * 101.0;
    const HINTS: usize = 1_000;
    let victim = arena.on_postgres("hints", &[])?;
    let (postgres, duration) = (arena.postgres, arena.duration);
    postgres.sql("hints", "CREATE ROLE rightless LOGIN")?;
    let hint = format!("SET ROLE rightless; {}", "NOTIFY apikeys_revocation;".repeat(HINTS));
    Outcome::of(&victim, &[], |victim| {
        let renewals = || victim.metric("apikeys_lease_renewals_total");
        let (started, before) = (now(), renewals()?);
        while started.elapsed() < duration {
            postgres.sql("hints", &hint)?;
        }
        let rate = (renewals()? - before) / started.elapsed().as_secs_f64();
        Ok(if rate > PER_SECOND { vec![format!("{rate:.0} renewals a second")] } else { Vec::new() })
    })
}
