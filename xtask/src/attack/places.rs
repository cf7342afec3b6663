//! Peers that hold what others need by what they do not send.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread::sleep,
    time::Duration,
};

use anyhow::Result;

use super::{
    Arena, Outcome,
    frames::{DATA, END_STREAM, Peer, frame, head, message},
    now,
    others::text_field,
    victim::{CREATE, LIST, PATIENCE, REVOKE, VERIFY, Victim, finish, request_head},
};

/// More calls than the service carries out at once, by default: 11 connections with 98 streams each.
const CONNECTIONS: usize = 11;
const STREAMS: usize = 98;
/// Heads are sent again before the service gives up waiting for their bodies.
const AGAIN: Duration = Duration::from_secs(4);

/// Keeps more requests open than the service carries out at once: heads, and never a body.
fn heads(address: SocketAddr, path: &str, key: Option<&str>, duration: Duration) -> Result<()> {
    let (started, head) = (now(), head(path, key));
    while started.elapsed() < duration {
        let mut peers = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut peer = Peer::connect(address)?;
            for _ in 0..STREAMS {
                // A service that ends the connection has answered the attack.
                if peer.open(&head, None).is_err() {
                    break;
                }
            }
            peers.push(peer);
        }
        sleep(AGAIN.min(duration));
    }
    Ok(())
}

pub(super) fn heads_of_a_key(arena: &Arena<'_>) -> Result<Outcome> {
    let victim = arena.on_sqlite(&[])?;
    let powerless = victim.create(&victim.administrator, "powerless", "")?;
    Outcome::of(&victim, &[], |victim| {
        heads(victim.service.public, LIST, Some(&powerless.raw_key), arena.duration)?;
        victim.revoke(&powerless.id)?;
        Ok(Vec::new())
    })
}

pub(super) fn heads_of_nobody(arena: &Arena<'_>) -> Result<Outcome> {
    let victim = arena.on_sqlite(&[])?;
    Outcome::of(&victim, &[], |victim| {
        heads(victim.service.public, LIST, None, arena.duration)?;
        Ok(Vec::new())
    })
}

pub(super) fn heads_on_verification(arena: &Arena<'_>) -> Result<Outcome> {
    let victim = arena.on_sqlite(&[])?;
    Outcome::of(&victim, &[], |victim| {
        heads(victim.service.verification, VERIFY, None, arena.duration)?;
        Ok(Vec::new())
    })
}

/// All connections of the admin listener, each with one request and then silence; an orchestrator that asks `/livez` meanwhile.
pub(super) fn silent_on_admin(arena: &Arena<'_>) -> Result<Outcome> {
    const ALL: usize = 64;
    const PROBE: &[u8] = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let victim = arena.on_sqlite(&[])?;
    Outcome::of(&victim, &[], |victim| {
        let mut held = Vec::new();
        for _ in 0..ALL {
            let mut connection = TcpStream::connect(victim.service.admin)?;
            connection.write_all(PROBE)?;
            connection.set_read_timeout(Some(PATIENCE))?;
            let _ = connection.read(&mut [0; 1_024])?;
            held.push(connection);
        }
        let mut probe = TcpStream::connect(victim.service.admin)?;
        // As an orchestrator's.
        probe.set_read_timeout(Some(Duration::from_secs(3)))?;
        probe.write_all(PROBE)?;
        let mut answer = [0; 12];
        let answered = probe.read_exact(&mut answer).is_ok() && answer == *b"HTTP/1.1 200";
        drop(held);
        Ok(if answered { Vec::new() } else { vec!["/livez was not answered".to_owned()] })
    })
}

/// Calls of a key whose heads came before its revocation and whose messages come after it.
pub(super) fn late_body(arena: &Arena<'_>) -> Result<Outcome> {
    let victim = arena.on_sqlite(&[])?;
    let manager = r#""permissions":["PERMISSION_MANAGE_API_KEYS"]"#;
    let revoked = victim.create(&victim.administrator, "revoked", manager)?;
    let kept = victim.create(&victim.administrator, "kept", "")?;
    Outcome::of(&victim, &[], |victim| {
        let mut let_through = late_grpc(victim, &revoked.raw_key, &revoked.id, &kept.id)?;
        let another = victim.create(&victim.administrator, "revoked", manager)?;
        let mut connection = TcpStream::connect(victim.service.public)?;
        connection.set_read_timeout(Some(PATIENCE))?;
        connection.write_all(request_head(LIST, &another.raw_key, 2).as_bytes())?;
        sleep(Duration::from_millis(100));
        victim.revoke(&another.id)?;
        connection.write_all(b"{}")?;
        if finish(connection)?.0 == 200 {
            let_through.push("ListApiKeys of a revoked key, by Connect".to_owned());
        }
        Ok(let_through)
    })
}

fn late_grpc(victim: &Victim, key: &str, id: &str, other: &str) -> Result<Vec<String>> {
    let calls = [(LIST, Vec::new()), (CREATE, text_field(1, "late")), (REVOKE, text_field(1, other))];
    let mut peer = Peer::connect(victim.service.public)?;
    let mut streams = Vec::new();
    for (path, request) in &calls {
        streams.push((path, peer.open(&head(path, Some(key)), None)?, message(request)));
    }
    sleep(Duration::from_millis(100));
    victim.revoke(id)?;
    let mut let_through = Vec::new();
    for (path, stream, body) in streams {
        peer.send(&frame(DATA, END_STREAM, stream, &body))?;
        // A call that fails has no message.
        if !peer.answer(stream, PATIENCE)?.is_empty() {
            let_through.push(format!("{path} of a revoked key, by gRPC"));
        }
    }
    Ok(let_through)
}
