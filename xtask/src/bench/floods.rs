//! What memory floods of HTTP/2 frames take at their peak, each on a service of its own, while others go on calling it.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::{processes::peak_memory, report::Report};
use crate::service::{Service, Start};

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

const LIST: &str = "/pidgr.v1.ApiKeyService/ListApiKeys";
/// A call that anybody may make, and that waits for its message.
const CHECK: &str = "/grpc.health.v1.Health/Check";
const STREAMS: u32 = 20_000;
/// Streams at once on one connection, by default.
const AT_ONCE: u32 = 100;
/// The largest frame that every peer takes, in bytes.
const FULL: usize = 16 << 10;
const FRAMES: usize = 1_000_000;
/// How long a peer that does not read waits for room, before it takes it that there will be none.
const STALLED: Duration = Duration::from_secs(2);
/// More than the kernel keeps for a connection, in bytes.
const TOO_MUCH: usize = 256 << 20;

struct Flood {
    name: &'static str,
    run: fn(SocketAddr, &str) -> Result<()>,
}

const FLOODS: [Flood; 10] = [
    Flood { name: "no flood", run: rest },
    Flood { name: "20,000 half-open streams, one connection", run: half_open_on_one },
    Flood { name: "20,000 half-open streams, 200 connections", run: half_open_on_many },
    Flood { name: "1,000,000 PING, answers read", run: |address, _| send(address, &ping().repeat(FRAMES)) },
    Flood { name: "PING, answers not read", run: |address, _| send_unread(address, &ping()) },
    Flood { name: "1,000,000 SETTINGS, answers read", run: |address, _| send(address, &settings().repeat(FRAMES)) },
    Flood { name: "SETTINGS, answers not read", run: |address, _| send_unread(address, &settings()) },
    Flood { name: "20,000 HEADERS + RST_STREAM at once", run: |address, key| send(address, &resets(key)) },
    Flood { name: "20,000 HEADERS, RST_STREAM once begun", run: reset_once_begun },
    Flood { name: "CONTINUATION, five kinds of 16 MiB", run: continuations },
];

pub(crate) fn measure(binary: &Path, folder: &Path, report: &mut Report) -> Result<()> {
    for (number, flood) in FLOODS.iter().enumerate() {
        let folder = folder.join(format!("flood-{number}"));
        let service = Service::start(&Start { binary, folder: &folder, settings: &[], expects_key: true })?;
        let key = service.bootstrap_key.as_deref().context("no bootstrap key")?;
        let over = AtomicBool::new(false);
        let served = thread::scope(|scope| {
            let others = scope.spawn(|| serve_others(service.public, key, &over));
            let flooded = (flood.run)(service.public, key);
            over.store(true, Ordering::SeqCst);
            let served = others.join().map_err(|_| anyhow!("a caller panicked"))?;
            flooded.and(served)
        });
        let served = served.with_context(|| flood.name)?;
        report.add(format!("peak memory, {}", flood.name), peak_memory(service.process_id())? / 1e6, "MB");
        report.add(format!("calls of others meanwhile, {}", flood.name), f64::from(served), "");
    }
    Ok(())
}

/// Calls, each on a connection of its own, until the flood is over; at least one, and each has to succeed.
fn serve_others(address: SocketAddr, key: &str, over: &AtomicBool) -> Result<u32> {
    let request = format!(
        "POST {LIST} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\ncontent-type: application/json\r\n\
         x-api-key: {key}\r\ncontent-length: 2\r\n\r\n{{}}"
    );
    let mut served = 0;
    loop {
        let mut connection = TcpStream::connect(address)?;
        connection.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer);
        ensure!(answer.starts_with("HTTP/1.1 200 "), "another caller was answered {answer}");
        served += 1;
        if over.load(Ordering::SeqCst) {
            return Ok(served);
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// An HTTP/2 frame (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[a, b, c, kind, flags][..], &stream.to_be_bytes(), payload].concat()
}

/// A header that is neither indexed nor compressed (RFC 7541, section 6.2.2); neither name nor value is longer than 126 bytes.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).unwrap_or(u8::MAX);
    [&[0, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
}

/// The headers of a gRPC call: `:method POST` and `:scheme http` from the static table, then the others.
fn head(path: &str, key: &str) -> Vec<u8> {
    let others = [(":path", path), ("content-type", "application/grpc"), ("te", "trailers"), ("x-api-key", key)];
    others.iter().fold(vec![0x83, 0x86], |block, (name, value)| [block, literal(name, value)].concat())
}

fn ping() -> Vec<u8> {
    frame(PING, 0, 0, b"a flood!")
}

/// The initial window of a stream: 64 KiB.
fn settings() -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])
}

/// Calls without an end of their message.
fn open(count: u32, head: &[u8]) -> Vec<u8> {
    (0..count).flat_map(|stream| frame(HEADERS, END_HEADERS, 2 * stream + 1, head)).collect()
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

fn resets(key: &str) -> Vec<u8> {
    let head = head(LIST, key);
    (0..STREAMS)
        .flat_map(|stream| [frame(HEADERS, END_HEADERS, 2 * stream + 1, &head), reset(2 * stream + 1)].concat())
        .collect()
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
    anyhow::bail!("the service took {} MiB, though none of its answers was read", TOO_MUCH >> 20)
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

/// A connection that asks for nothing.
fn rest(address: SocketAddr, _: &str) -> Result<()> {
    let _connection = connect(address)?;
    thread::sleep(STALLED);
    Ok(())
}

fn half_open_on_one(address: SocketAddr, key: &str) -> Result<()> {
    send(address, &open(STREAMS, &head(LIST, key)))
}

fn half_open_on_many(address: SocketAddr, key: &str) -> Result<()> {
    let burst = open(AT_ONCE, &head(CHECK, key));
    let mut held = Vec::new();
    for _ in 0..STREAMS / AT_ONCE {
        let mut connection = connect(address)?;
        send_and_ping(&mut connection, &burst)?;
        held.push(connection);
    }
    Ok(())
}

fn reset_once_begun(address: SocketAddr, key: &str) -> Result<()> {
    let (mut connection, head) = (connect(address)?, head(LIST, key));
    for stream in (0..STREAMS).map(|stream| 2 * stream + 1) {
        send_and_ping(&mut connection, &frame(HEADERS, END_HEADERS, stream, &head))?;
        connection.write_all(&reset(stream))?;
    }
    Ok(())
}

/// Headers that go on and on: in frames without content, as one header from the static table each, as many small ones, as one
/// that is announced with 2^27 bytes, and as references to one of 4,000 bytes (RFC 7541, sections 5.1 and 6).
fn continuations(address: SocketAddr, key: &str) -> Result<()> {
    let head = head(LIST, key);
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
}
