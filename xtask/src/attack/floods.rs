//! Floods of HTTP/2 frames, each on a service of its own.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Result, anyhow, bail, ensure};

use super::{
    Arena, Outcome,
    frames::{CONTINUATION, END_HEADERS, FULL, HEADERS, SETTINGS, frame, head, literal, ping, reset},
    victim::LIST,
};

/// A call that anybody may make, and that waits for its message.
const CHECK: &str = "/grpc.health.v1.Health/Check";
const STREAMS: u32 = 20_000;
/// Streams at once on one connection, by default.
const AT_ONCE: u32 = 100;
const FRAMES: usize = 1_000_000;
/// How long a peer that does not read waits for room, before it takes it that there will be none.
const STALLED: Duration = Duration::from_secs(2);
/// More than the kernel keeps for a connection, in bytes.
const TOO_MUCH: usize = 256 << 20;

/// One flood by an administrator's own connection.
fn flood(arena: &Arena<'_>, run: impl FnOnce(SocketAddr, &str) -> Result<()> + Send) -> Result<Outcome> {
    let victim = arena.on_sqlite(&[])?;
    Outcome::of(&victim, &[], |victim| {
        run(victim.service.public, &victim.administrator)?;
        Ok(Vec::new())
    })
}

pub(super) fn half_open_on_one(arena: &Arena<'_>) -> Result<Outcome> {
    flood(arena, |address, key| send(address, &open(STREAMS, &head(LIST, Some(key)))))
}

pub(super) fn half_open_on_many(arena: &Arena<'_>) -> Result<Outcome> {
    flood(arena, |address, key| {
        let burst = open(AT_ONCE, &head(CHECK, Some(key)));
        let mut held = Vec::new();
        for _ in 0..STREAMS / AT_ONCE {
            let mut connection = connect(address)?;
            // A service that ends the connection has answered the flood.
            let _ = send_and_ping(&mut connection, &burst);
            held.push(connection);
        }
        Ok(())
    })
}

pub(super) fn ping_read(arena: &Arena<'_>) -> Result<Outcome> {
    flood(arena, |address, _| send(address, &ping().repeat(FRAMES)))
}

pub(super) fn ping_unread(arena: &Arena<'_>) -> Result<Outcome> {
    flood(arena, |address, _| send_unread(address, &ping()))
}

pub(super) fn settings_read(arena: &Arena<'_>) -> Result<Outcome> {
    flood(arena, |address, _| send(address, &settings().repeat(FRAMES)))
}

pub(super) fn settings_unread(arena: &Arena<'_>) -> Result<Outcome> {
    flood(arena, |address, _| send_unread(address, &settings()))
}

/// CVE-2023-44487, all at once.
pub(super) fn resets_at_once(arena: &Arena<'_>) -> Result<Outcome> {
    flood(arena, |address, key| {
        let head = head(LIST, Some(key));
        let one = |stream| [frame(HEADERS, END_HEADERS, 2 * stream + 1, &head), reset(2 * stream + 1)].concat();
        send(address, &(0..STREAMS).flat_map(one).collect::<Vec<_>>())
    })
}

/// The same, each stream once the service has begun with it.
pub(super) fn resets_once_begun(arena: &Arena<'_>) -> Result<Outcome> {
    flood(arena, |address, key| {
        let (mut connection, head) = (connect(address)?, head(LIST, Some(key)));
        for stream in (0..STREAMS).map(|stream| 2 * stream + 1) {
            send_and_ping(&mut connection, &frame(HEADERS, END_HEADERS, stream, &head))?;
            connection.write_all(&reset(stream))?;
        }
        Ok(())
    })
}

/// CVE-2024-27316 and its kin: headers that go on and on, in frames without content, as one header from the static table each, as many
/// small ones, as one that is announced with 2^27 bytes, and as references to one of 4,000 bytes (RFC 7541, sections 5.1 and 6).
pub(super) fn continuations(arena: &Arena<'_>) -> Result<Outcome> {
    flood(arena, |address, key| {
        let head = head(LIST, Some(key));
        let endless = [&[0, 1, b'x', 0x7F, 0x81, 0xFF, 0xFF, 0x3F][..], &[b'x'; 1_000]].concat();
        let entry = [&[0x40, 1, b'x', 0x7F, 0xA1, 0x1E][..], &[b'x'; 4_000]].concat();
        let cases: [(&[u8], &[u8]); 5] = [
            (&head, &[]),
            (&head, &[0x90]),
            (&head, &literal("x", "x").repeat(FULL / 5)),
            (&endless, &[b'x'; FULL]),
            (&entry, &[0xBE; FULL]),
        ];
        for (first, more) in cases {
            let more = frame(CONTINUATION, 0, 1, more);
            send(address, &[frame(HEADERS, 0, 1, first), more.repeat((16 << 20) / more.len())].concat())?;
        }
        Ok(())
    })
}

/// The initial window of a stream: 64 KiB.
fn settings() -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])
}

/// Calls without an end of their message.
fn open(count: u32, head: &[u8]) -> Vec<u8> {
    (0..count).flat_map(|stream| frame(HEADERS, END_HEADERS, 2 * stream + 1, head)).collect()
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let mut connection = TcpStream::connect(address)?;
    connection.set_nodelay(true)?;
    connection.write_all(&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, &[])].concat())?;
    Ok(connection)
}

/// Sends it all, reads whatever is answered, and waits until the service has closed the connection.
fn send(address: SocketAddr, bytes: &[u8]) -> Result<()> {
    let mut connection = connect(address)?;
    let mut answers = connection.try_clone()?;
    thread::scope(|scope| {
        let reading = scope.spawn(move || std::io::copy(&mut answers, &mut std::io::sink()));
        // The service may end the connection in the middle of it, by its own right.
        let _ = connection.write_all(bytes).and_then(|()| connection.shutdown(Shutdown::Write));
        let _ = reading.join().map_err(|_| anyhow!("a reader panicked"))?;
        Ok(())
    })
}

/// Sends it again and again and reads nothing, until the service takes no more.
fn send_unread(address: SocketAddr, one: &[u8]) -> Result<()> {
    let mut connection = connect(address)?;
    connection.set_write_timeout(Some(STALLED))?;
    let burst = one.repeat(4_000);
    for _ in 0..TOO_MUCH / burst.len() {
        if connection.write_all(&burst).is_err() {
            return Ok(());
        }
    }
    bail!("the service took {} MiB, though none of its answers was read", TOO_MUCH >> 20)
}

/// Sends it and waits until all of it was taken: frames are taken in their order, a PING is answered.
fn send_and_ping(connection: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    connection.write_all(&[bytes, &ping()].concat())?;
    let (mut answers, mut buffer) = (Vec::new(), [0; FULL]);
    while !answers.windows(8).any(|window| window == b"a flood!") {
        let read = connection.read(&mut buffer)?;
        ensure!(read > 0, "the service ended the connection");
        answers.extend_from_slice(buffer.get(..read).unwrap_or_default());
    }
    Ok(())
}
