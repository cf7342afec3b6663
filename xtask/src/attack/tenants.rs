//! A tenant that takes more than its share.

use std::{thread, time::Duration};

use anyhow::{Result, anyhow};

use super::{
    Arena, Outcome,
    frames::{Peer, head, message},
    now,
    others::text_field,
    victim::{REVOKE, Victim},
};

const KEYS: usize = 2_000;
const CONNECTIONS: usize = 4;
const AT_ONCE: usize = 98;

/// One organization revokes as fast as it can.
pub(super) fn noisy_tenant(arena: &Arena<'_>) -> Result<Outcome> {
    let victim = arena.on_postgres("noisy_tenant", &[])?;
    let tenant = victim.tenant("noisy")?;
    let mut ids = Vec::new();
    for _ in 0..KEYS {
        ids.push(victim.create(&tenant, "noise", "")?.id);
    }
    Outcome::of(&victim, &[], |victim| {
        thread::scope(|scope| {
            let noise: Vec<_> = ids
                .chunks(KEYS / CONNECTIONS)
                .map(|ids| scope.spawn(|| revoke_all(victim, &tenant, ids, arena.duration)))
                .collect();
            for connection in noise {
                connection.join().map_err(|_| anyhow!("a tenant panicked"))??;
            }
            Ok(Vec::new())
        })
    })
}

/// Revokes the keys again and again: each is a commit, also where it is revoked already.
fn revoke_all(victim: &Victim, tenant: &str, ids: &[String], duration: Duration) -> Result<()> {
    let started = now();
    let (mut peer, mut open, mut next) = (Peer::connect(victim.service.public)?, 0, ids.iter().cycle());
    let head = head(REVOKE, Some(tenant));
    while started.elapsed() < duration {
        while open < AT_ONCE {
            let id = next.next().map(String::as_str).unwrap_or_default();
            peer.open(&head, Some(&message(&text_field(1, id))))?;
            open += 1;
        }
        if let Some(frame) = peer.read(Duration::from_millis(100))? {
            open -= usize::from(frame.ends_stream());
        }
    }
    Ok(())
}
