//! Floods of HTTP/2 frames on one connection or many: each is refused or absorbed, what is kept for it is bounded, and other
//! connections go on being served in the middle of it.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use apikey_grpc::CallLimits;
use apikey_proto::pidgr::v1 as pb;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpSocket, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
};
use tonic::Code;

use crate::{
    service::{Running, Setup, start, start_with},
    wire::{LIST, Wire},
};

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
/// Of a PING and of SETTINGS.
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;

/// A call that anybody may make, and that waits for its message.
const CHECK: &str = "/grpc.health.v1.Health/Check";
const STREAMS: u32 = 20_000;
/// Streams at once that the listener announces, as `the_limits_of_http2_are_announced` says.
const AT_ONCE: u32 = 100;
/// Requests whose messages may be incomplete at once.
const KEPT: usize = 512;
/// Calls that others make in the middle of a flood.
const OTHERS: usize = 20;

/// An HTTP/2 frame (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

/// A header that is neither indexed nor compressed (RFC 7541, section 6.2.2).
fn literal(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).ok().filter(|length| *length < 127).unwrap();
    [&[0, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
}

/// The headers of a gRPC call, of which the end is not in sight.
fn call(path: &str, credential: Option<&str>) -> Vec<u8> {
    // :method POST and :scheme http, from the static table.
    let mut block = [&[0x83, 0x86][..], &literal(":path", path), &literal("content-type", "application/grpc")].concat();
    block.extend(literal("te", "trailers"));
    if let Some(credential) = credential {
        block.extend(literal("x-api-key", credential));
    }
    block
}

/// The numbers of a client's streams.
fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|stream| 2 * stream + 1)
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    fn number_at(&self, place: usize) -> u32 {
        u32::from_be_bytes(self.payload.get(place..place + 4).unwrap().try_into().unwrap())
    }
}

struct Sending(OwnedWriteHalf);

struct Receiving(BufReader<OwnedReadHalf>);

/// A connection on which nothing but the preface has been sent. Its own buffers are small, so that what is not taken is seen soon.
async fn connect(address: SocketAddr) -> (Sending, Receiving) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(64 << 10).unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let stream = socket.connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (receiving, mut sending) = stream.into_split();
    let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, &[])].concat();
    sending.write_all(&preface).await.unwrap();
    (Sending(sending), Receiving(BufReader::new(receiving)))
}

impl Sending {
    /// Sends as much as the other side takes: a connection that it has ended takes nothing.
    async fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes).await;
    }
}

impl Receiving {
    /// The next frame; `None` once the other side has closed, or reset, the connection.
    async fn frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap()];
        self.0.read_exact(&mut payload).await.ok()?;
        Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
    }

    /// All that comes until the other side ends the connection, and the reason that it gives.
    async fn until_the_end(&mut self) -> (Vec<Frame>, Option<u32>) {
        let mut frames = Vec::new();
        while let Some(frame) = self.frame().await {
            frames.push(frame);
        }
        let reason = frames.iter().rev().find(|frame| frame.kind == GOAWAY).map(|goaway| goaway.number_at(4));
        (frames, reason)
    }

    /// All that comes before the answer to this PING; since frames are taken in their order, everything sent before it was taken.
    async fn until_pong(&mut self, ping: [u8; 8]) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            let frame = self.frame().await.expect("the connection goes on");
            if frame.kind == PING && frame.flags == ACK && frame.payload == ping {
                return frames;
            }
            frames.push(frame);
        }
    }
}

/// Sends it on a connection of its own, reads what is answered, and returns that once the other side has ended the connection.
async fn flood(address: SocketAddr, bytes: &[u8]) -> (Vec<Frame>, Option<u32>) {
    let (mut sending, mut receiving) = connect(address).await;
    // Whatever is answered is read at once; otherwise each side could wait for the other.
    let (received, ()) = tokio::join!(receiving.until_the_end(), sending.send(bytes));
    received
}

async fn list(wire: &Wire, credential: &str) -> Code {
    wire.call_as(credential, LIST, &pb::ListApiKeysRequest::default()).await.code()
}

/// Floods again and again until others, old connections and new ones, have been served in the middle of it.
async fn others_are_served_during(running: &Running, mut flood: impl AsyncFnMut()) {
    let (manager, _) = running.manager(1);
    let old = running.public.wire().await;
    let served = AtomicBool::new(false);
    let flooding = async {
        while !served.load(Ordering::SeqCst) {
            flood().await;
        }
    };
    let others = async {
        for _ in 0..OTHERS {
            assert_eq!(list(&old, &manager).await, Code::Ok);
            assert_eq!(list(&running.public.wire().await, &manager).await, Code::Ok);
        }
        served.store(true, Ordering::SeqCst);
    };
    tokio::join!(flooding, others);
}

#[tokio::test]
async fn half_open_streams_on_one_connection_end_it_and_few_of_them_are_begun() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let head = call(LIST, Some(manager.as_str()));
    let burst: Vec<u8> = streams(STREAMS).flat_map(|stream| frame(HEADERS, END_HEADERS, stream, &head)).collect();
    others_are_served_during(&running, async || {
        let (frames, reason) = flood(running.public.address, &burst).await;
        assert_eq!(reason, Some(ENHANCE_YOUR_CALM));
        let refused = frames.iter().filter(|frame| frame.kind == RST_STREAM);
        assert!(refused.clone().all(|frame| frame.number_at(0) == REFUSED_STREAM && frame.stream > 2 * AT_ONCE));
        assert!(refused.count() < 1_000, "far fewer than were opened");
    })
    .await;
}

#[tokio::test]
async fn of_half_open_streams_on_200_connections_only_the_newest_are_kept_and_they_hold_up_nobody() {
    let hour = Duration::from_hours(1);
    let calls = CallLimits { deadline: hour, ..CallLimits::default() };
    let running = start_with(Setup { calls, ..Setup::default() }).await;
    let burst: Vec<u8> =
        streams(AT_ONCE).flat_map(|stream| frame(HEADERS, END_HEADERS, stream, &call(CHECK, None))).collect();
    let mut held = Vec::new();
    for _ in 0..STREAMS / AT_ONCE {
        let (mut sending, mut receiving) = connect(running.public.address).await;
        sending.send(&burst).await;
        sending.send(&frame(PING, 0, 0, b"are open")).await;
        let before = receiving.until_pong(*b"are open").await;
        assert!(before.iter().all(|frame| ![RST_STREAM, HEADERS, GOAWAY].contains(&frame.kind)));
        held.push((sending, receiving));
    }
    let mut refused = 0;
    let newest = held.split_off(held.len() - KEPT / AT_ONCE as usize);
    others_are_served_during(&running, async || {
        for (sending, receiving) in &mut held {
            sending.send(&frame(PING, 0, 0, b"still on")).await;
            let since = receiving.until_pong(*b"still on").await;
            // Each has its answer, and the connection goes on; the last of them shares its fate with the newest.
            assert!(since.iter().all(|frame| frame.kind != GOAWAY));
            refused += since.iter().filter(|frame| frame.kind == HEADERS).count();
        }
    })
    .await;
    // Calls of others whose message came a moment after their head took a place for that moment.
    let least = STREAMS as usize - KEPT;
    assert!((least..=least + 2 * OTHERS).contains(&refused), "{refused}");
    // The newest are open still, and there is no room for one more on their connections.
    for (mut sending, mut receiving) in newest {
        let more = 2 * AT_ONCE + 1;
        sending.send(&frame(HEADERS, END_HEADERS, more, &call(CHECK, None))).await;
        sending.send(&frame(PING, 0, 0, b"refused?")).await;
        let since = receiving.until_pong(*b"refused?").await;
        assert!(since.iter().all(|frame| frame.kind != HEADERS));
        let refusal = since.iter().find(|frame| frame.kind == RST_STREAM).unwrap();
        assert_eq!((refusal.stream, refusal.number_at(0)), (more, REFUSED_STREAM));
    }
}

#[tokio::test]
async fn pings_and_settings_are_answered_one_for_one() {
    let running = start().await;
    for (kind, payload) in [(PING, &b"a flood!"[..]), (SETTINGS, &[0, 4, 0, 1, 0, 0])] {
        let burst = frame(kind, 0, 0, payload).repeat(20_000);
        others_are_served_during(&running, async || {
            let (mut sending, mut receiving) = connect(running.public.address).await;
            let sent = async {
                sending.send(&burst).await;
                sending.send(&frame(PING, 0, 0, b"the last")).await;
            };
            let (answers, ()) = tokio::join!(receiving.until_pong(*b"the last"), sent);
            let acknowledged = answers.iter().filter(|frame| frame.kind == kind && frame.flags == ACK).count();
            // The preface has SETTINGS of its own.
            assert_eq!(acknowledged, 20_000 + usize::from(kind == SETTINGS));
        })
        .await;
    }
}

#[tokio::test]
async fn a_peer_that_does_not_read_what_it_asked_for_is_not_read_either() {
    /// More than the kernel keeps for both directions of a connection, so that the rest would be in our memory.
    const TOO_MUCH: usize = 256 << 20;
    /// Calls of others in a row during which nothing more was taken.
    const STALLED: usize = 50;
    let running = start().await;
    let (manager, _) = running.manager(1);
    let other = running.public.wire().await;
    for (kind, payload) in [(PING, &b"a flood!"[..]), (SETTINGS, &[0, 4, 0, 1, 0, 0])] {
        let (sending, mut receiving) = connect(running.public.address).await;
        let one = frame(kind, 0, 0, payload);
        let burst = one.repeat(4_000);
        let (mut sent, mut stalled) = (0, 0);
        while stalled < STALLED {
            match sending.0.try_write(burst.get(sent % one.len()..).unwrap()) {
                Ok(taken) => {
                    (sent, stalled) = (sent + taken, 0);
                    assert!(sent < TOO_MUCH, "it is all kept somewhere");
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                    stalled += 1;
                    assert_eq!(list(&other, &manager).await, Code::Ok);
                }
            }
        }
        // Once it reads, it is answered again.
        for _ in 0..20_000 {
            receiving.frame().await.expect("the connection goes on");
        }
    }
}

#[tokio::test]
async fn streams_that_are_reset_at_once_end_the_connection() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let head = call(LIST, Some(manager.as_str()));
    let burst: Vec<u8> = streams(STREAMS)
        .flat_map(|stream| [frame(HEADERS, END_HEADERS, stream, &head), reset(stream)].concat())
        .collect();
    others_are_served_during(&running, async || {
        let (_, reason) = flood(running.public.address, &burst).await;
        assert_eq!(reason, Some(ENHANCE_YOUR_CALM));
    })
    .await;
}

#[tokio::test]
async fn streams_that_are_reset_once_they_have_begun_are_given_up_and_hold_up_nobody() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let head = call(LIST, Some(manager.as_str()));
    others_are_served_during(&running, async || {
        let (mut sending, mut receiving) = connect(running.public.address).await;
        // Ten times what may be open at once: each has to make room for another.
        for stream in streams(10 * AT_ONCE) {
            sending.send(&frame(HEADERS, END_HEADERS, stream, &head)).await;
            sending.send(&frame(PING, 0, 0, b"is begun")).await;
            receiving.until_pong(*b"is begun").await;
            sending.send(&reset(stream)).await;
        }
        sending.send(&frame(PING, 0, 0, b"the last")).await;
        let frames = receiving.until_pong(*b"the last").await;
        assert!(frames.iter().all(|frame| ![RST_STREAM, GOAWAY].contains(&frame.kind)));
    })
    .await;
}

#[tokio::test]
async fn resets_of_streams_that_are_over_or_never_were_change_nothing() {
    let running = start().await;
    let over = [frame(HEADERS, END_HEADERS, 1, &call(LIST, None)), reset(1).repeat(20_000)].concat();
    others_are_served_during(&running, async || {
        let (mut sending, mut receiving) = connect(running.public.address).await;
        sending.send(&over).await;
        sending.send(&frame(PING, 0, 0, b"the last")).await;
        receiving.until_pong(*b"the last").await;
    })
    .await;
    let never: Vec<u8> = streams(STREAMS).flat_map(reset).collect();
    others_are_served_during(&running, async || {
        let (_, reason) = flood(running.public.address, &never).await;
        assert_eq!(reason, Some(PROTOCOL_ERROR));
    })
    .await;
}

#[tokio::test]
async fn headers_that_go_on_and_on_end_the_connection() {
    /// The largest frame that every HTTP/2 peer takes.
    const FULL: usize = 16 << 10;
    let running = start().await;
    let head = call(LIST, None);
    let small = literal("x", "x").repeat(FULL / 5);
    // 0x90 is a header of the static table. A literal of 2^27 bytes, in the integers of RFC 7541, section 5.1.
    let endless = [&[0, 1, b'x', 0x7F, 0x81, 0xFF, 0xFF, 0x3F][..], &[b'x'; 1_000]].concat();
    // An entry of 4,000 bytes for the dynamic table; each byte that follows stands for all of it.
    let entry = [&[0x40, 1, b'x', 0x7F, 0xA1, 0x1E][..], &[b'x'; 4_000]].concat();
    let cases: [(&str, &[u8], &[u8], usize); 5] = [
        ("nothing", &head, &[], 20_000),
        ("one header each", &head, &[0x90], 20_000),
        ("many small headers", &head, &small, 1_000),
        ("one header without end", &endless, &[b'x'; FULL], 1_000),
        ("few bytes that stand for many", &entry, &[0xBE; FULL], 1_000),
    ];
    for (what, first, more, count) in cases {
        let burst = [frame(HEADERS, 0, 1, first), frame(CONTINUATION, 0, 1, more).repeat(count)].concat();
        others_are_served_during(&running, async || {
            let (frames, reason) = flood(running.public.address, &burst).await;
            assert_eq!(reason, Some(ENHANCE_YOUR_CALM), "{what}");
            assert!(frames.iter().all(|frame| frame.kind != HEADERS), "{what}: it never was a request");
        })
        .await;
    }
}
