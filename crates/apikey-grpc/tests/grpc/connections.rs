//! Connections: what they announce, what they bear, and how they end.

use std::{net::SocketAddr, time::Duration};

use apikey_grpc::listener::{ConnectionLimits, Drained};
use apikey_proto::pidgr::v1 as pb;
use apikey_testing::StoreCall;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::Code;

use crate::{
    service::{Running, Setup, start, start_with},
    wire::{LIST, REVOKE, VERIFY, Wire, frame},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

async fn with_connections(connections: ConnectionLimits) -> Running {
    start_with(Setup { connections, ..Setup::default() }).await
}

/// An HTTP/2 frame (RFC 9113, section 4.1).
fn http2_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

async fn read_http2_frame(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut payload).await.ok()?;
    Some((head[3], payload))
}

/// Sends these bytes, and then nothing, until the other side closes the connection.
async fn until_closed(address: SocketAddr, sent: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(sent).await.unwrap();
    let mut received = Vec::new();
    // A reset is an end too.
    let _ = stream.read_to_end(&mut received).await;
    received
}

async fn list(wire: &Wire, credential: &str) -> Code {
    wire.call_as(credential, LIST, &pb::ListApiKeysRequest::default()).await.code()
}

#[tokio::test]
async fn the_limits_of_http2_are_announced() {
    let running = start().await;
    let mut stream = TcpStream::connect(running.public.address).await.unwrap();
    stream.write_all(&[PREFACE, &http2_frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    let (kind, payload) = read_http2_frame(&mut stream).await.unwrap();
    assert_eq!(kind, SETTINGS);
    let value_of = |setting: u16| {
        payload
            .chunks(6)
            .find(|entry| entry[..2] == setting.to_be_bytes())
            .map(|entry| u32::from_be_bytes(entry[2..].try_into().unwrap()))
    };
    assert_eq!(value_of(3), Some(100), "MAX_CONCURRENT_STREAMS");
    assert_eq!(value_of(6), Some(16 * 1024), "MAX_HEADER_LIST_SIZE");
}

#[tokio::test]
async fn headers_over_16_kib_are_refused_and_others_are_served() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let wire = running.public.wire().await;
    let request = |size: usize| {
        http::Request::post(format!("http://service.test{LIST}"))
            .header("content-type", "application/grpc")
            .header("x-api-key", manager.as_str())
            .header("x-padding", "x".repeat(size))
            .body(http_body_util::BodyExt::boxed(http_body_util::Full::new(frame(&[]))))
            .unwrap()
    };
    assert_eq!(wire.send(request(15 * 1024)).await.unwrap().code(), Code::Ok);
    let refused = wire.send(request(17 * 1024)).await;
    assert!(refused.is_err() || refused.is_ok_and(|answer| answer.http.as_u16() == 431));
    let another = running.public.wire().await;
    assert_eq!(list(&another, &manager).await, Code::Ok);

    let padded = format!("POST {LIST} HTTP/1.1\r\nhost: a\r\nx-padding: {}\r\n\r\n", "x".repeat(17 * 1024));
    let received = String::from_utf8(until_closed(running.public.address, padded.as_bytes()).await).unwrap();
    assert!(received.starts_with("HTTP/1.1 431 "), "{received}");
}

#[tokio::test]
async fn streams_that_are_reset_as_fast_as_they_are_opened_end_the_connection() {
    let running = start().await;
    let mut stream = TcpStream::connect(running.public.address).await.unwrap();
    let mut burst = [PREFACE, &http2_frame(SETTINGS, 0, 0, &[])].concat();
    for id in (1..1_000).step_by(2) {
        // :method POST, :scheme http, :path /, from the static table; END_HEADERS.
        burst.extend(http2_frame(HEADERS, 4, id, &[0x83, 0x86, 0x84]));
        burst.extend(http2_frame(RST_STREAM, 0, id, &8_u32.to_be_bytes()));
    }
    stream.write_all(&burst).await.unwrap();
    let mut reason = None;
    while let Some((kind, payload)) = read_http2_frame(&mut stream).await {
        if kind == GOAWAY {
            reason = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
    }
    assert_eq!(reason, Some(ENHANCE_YOUR_CALM));
    let (manager, _) = running.manager(1);
    assert_eq!(list(&running.public.wire().await, &manager).await, Code::Ok);
}

#[tokio::test]
async fn connections_that_never_make_a_request_are_closed() {
    let limits = ConnectionLimits {
        header_timeout: Duration::from_millis(50),
        drain: Duration::from_millis(50),
        ..ConnectionLimits::default()
    };
    let running = with_connections(limits).await;
    let begun = [PREFACE, &http2_frame(SETTINGS, 0, 0, &[])].concat();
    for sent in
        [&b""[..], b"P", b"PRI * HTTP/2.0\r\n", PREFACE, &begun, b"POST / HT", b"POST / HTTP/1.1\r\nhost: a\r\nx: "]
    {
        // Ends only if the service ends it.
        until_closed(running.public.address, sent).await;
    }
}

#[tokio::test]
async fn a_peer_that_gives_no_sign_of_life_is_given_up_and_one_that_does_is_not() {
    const HOUR: Duration = Duration::from_hours(1);
    let limits = ConnectionLimits {
        keep_alive: Duration::from_millis(50),
        // Long enough that a busy machine answers within it.
        keep_alive_timeout: Duration::from_secs(2),
        header_timeout: HOUR,
        idle_timeout: HOUR,
        ..ConnectionLimits::default()
    };
    let running = with_connections(limits).await;
    let mut stream = TcpStream::connect(running.public.address).await.unwrap();
    stream.write_all(&[PREFACE, &http2_frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    let mut asked = 0;
    // Ends only if the service ends it. The first three times it is answered (ACK).
    while let Some((kind, payload)) = read_http2_frame(&mut stream).await {
        if kind == PING {
            asked += 1;
            if asked <= 3 {
                stream.write_all(&http2_frame(PING, 1, 0, &payload)).await.unwrap();
            }
        }
    }
    assert_eq!(asked, 4);
}

#[tokio::test]
async fn a_connection_that_falls_silent_is_closed_and_one_with_a_call_in_flight_is_not() {
    let limits = ConnectionLimits { idle_timeout: Duration::from_millis(50), ..ConnectionLimits::default() };
    let running = with_connections(limits).await;
    let (manager, _) = running.manager(1);
    let wire = running.public.wire().await;
    let held = running.store.hold(StoreCall::Page);
    let calling = {
        let (wire, manager) = (wire.clone(), manager.clone());
        tokio::spawn(async move { list(&wire, &manager).await })
    };
    while running.store.calls(StoreCall::Page) == 0 {
        tokio::task::yield_now().await;
    }
    // Another connection falls silent and is closed meanwhile: so long the first one has had no request either.
    let request = format!("POST {LIST} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n");
    let received = until_closed(running.verification.address, request.as_bytes()).await;
    assert!(String::from_utf8(received).unwrap().starts_with("HTTP/1.1 415 "));
    assert!(!calling.is_finished());
    let another = wire.call_as(&manager, REVOKE, &pb::RevokeApiKeyRequest::default()).await;
    assert_eq!(another.code(), Code::InvalidArgument, "the connection takes calls as before");
    drop(held);
    assert_eq!(calling.await.unwrap(), Code::Ok);
}

#[tokio::test]
async fn http1_is_spoken_too_and_refuses_with_a_request_id() {
    let running = start().await;
    let request = format!("GET {LIST} HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-request-id: from-http1\r\n\r\n");
    let received = until_closed(running.verification.address, request.as_bytes()).await;
    let text = String::from_utf8(received).unwrap();
    assert!(text.starts_with("HTTP/1.1 405 ") && text.contains("x-request-id: from-http1\r\n"), "{text}");
}

#[tokio::test]
async fn a_name_that_was_rebound_to_loopback_reaches_nothing_by_http1() {
    let running = start_with(Setup { only_local_names: true, ..Setup::default() }).await;
    let address = running.verification.address;
    let (manager, _) = running.manager(1);
    let message = pb::VerifyApiKeyRequest { raw_key: manager.clone(), ..Default::default() };
    let body = frame(&prost::Message::encode_to_vec(&message));
    let call = async |host: &str| {
        let length = body.len();
        let head = format!(
            "POST {VERIFY} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/grpc\r\nte: trailers\r\n\
             connection: close\r\ncontent-length: {length}\r\n\r\n"
        );
        let received = until_closed(address, &[head.as_bytes(), &body].concat()).await;
        String::from_utf8_lossy(&received).into_owned()
    };
    let refused = call("rebound.example:8081").await;
    assert!(refused.starts_with("HTTP/1.1 421 ") && refused.contains("localhost"), "{refused}");
    assert_eq!(running.store.calls(StoreCall::FindByDigest), 0);
    for host in [address.to_string(), format!("localhost:{}", address.port())] {
        let answered = call(&host).await;
        assert!(answered.starts_with("HTTP/1.1 200 ") && answered.contains("grpc-status: 0"), "{answered}");
    }
    // By HTTP/2, the name is free.
    assert_eq!(running.verification.wire().await.call(VERIFY, &[], &message).await.code(), Code::Ok);
}

/// Reads an HTTP/1.1 answer without a body, and the connection stays open.
async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn an_http1_connection_may_be_silent_between_requests_and_a_head_that_has_begun_may_not() {
    let limits = ConnectionLimits { header_timeout: Duration::from_millis(50), ..ConnectionLimits::default() };
    let running = with_connections(limits).await;
    let address = running.verification.address;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("POST {LIST} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n");
    for _ in 0..3 {
        stream.write_all(request.as_bytes()).await.unwrap();
        let head = read_head(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 415 ") && head.contains("\r\nkeep-alive: timeout=660\r\n"), "{head}");
        assert!(!head.contains("\r\nconnection: close"), "{head}");
        // For longer than a head may take: another connection ends by that limit meanwhile.
        until_closed(address, b"").await;
        until_closed(address, b"POST / HT").await;
    }
    stream.write_all(b"POST / HT").await.unwrap();
    let mut rest = Vec::new();
    // Ends only if the service ends it.
    let _ = stream.read_to_end(&mut rest).await;
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn an_answer_has_one_date() {
    let running = start().await;
    let answer = running.public.wire().await.call(LIST, &[], &pb::ListApiKeysRequest::default()).await;
    let dates: Vec<_> = answer.headers.get_all("date").iter().collect();
    assert!(dates.len() == 1 && dates[0].to_str().unwrap().ends_with(" GMT"), "{dates:?}");
    let request = format!("GET {LIST} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let received = String::from_utf8(until_closed(running.public.address, request.as_bytes()).await).unwrap();
    assert_eq!(received.matches("\r\ndate: ").count(), 1, "{received}");
}

#[tokio::test]
async fn a_connection_above_the_cap_waits_while_each_other_has_a_call_in_flight() {
    let running = with_connections(ConnectionLimits { connections: 1, ..ConnectionLimits::default() }).await;
    let (manager, _) = running.manager(1);
    let first = running.public.wire().await;
    let held = running.store.hold(StoreCall::Page);
    let call = |wire: Wire| {
        let manager = manager.clone();
        tokio::spawn(async move { list(&wire, &manager).await })
    };
    let calling = call(first.clone());
    while running.store.calls(StoreCall::Page) == 0 {
        tokio::task::yield_now().await;
    }
    let (address, credential) = (running.public.address, manager.clone());
    let second = tokio::spawn(async move { list(&Wire::connect(address).await, &credential).await });
    for _ in 0..100 {
        let revoke = first.call_as(&manager, REVOKE, &pb::RevokeApiKeyRequest::default()).await;
        assert_eq!(revoke.code(), Code::InvalidArgument);
    }
    assert!(!second.is_finished());
    drop(held);
    assert_eq!(calling.await.unwrap(), Code::Ok);
    assert_eq!(second.await.unwrap(), Code::Ok, "the first connection has no call any more, and makes room");
}

#[tokio::test]
async fn a_connection_that_waits_for_room_is_served_once_another_ends() {
    let running = with_connections(ConnectionLimits { connections: 1, ..ConnectionLimits::default() }).await;
    let (manager, _) = running.manager(1);
    for number in 1..=10 {
        let first = running.public.wire().await;
        let held = running.store.hold(StoreCall::Page);
        let calling = {
            let manager = manager.clone();
            tokio::spawn(async move { list(&first, &manager).await })
        };
        while running.store.calls(StoreCall::Page) < 2 * number - 1 {
            tokio::task::yield_now().await;
        }
        let second = running.public.wire().await;
        // It is accepted and waits, and then the first one breaks off.
        tokio::time::sleep(Duration::from_millis(20)).await;
        calling.abort();
        drop(held);
        assert_eq!(list(&second, &manager).await, Code::Ok, "{number}");
    }
}

#[tokio::test]
async fn at_the_cap_the_connection_makes_room_that_has_been_without_a_call_for_longest() {
    let running = with_connections(ConnectionLimits { connections: 3, ..ConnectionLimits::default() }).await;
    let (manager, _) = running.manager(1);
    let address = running.public.address;
    // A handshake that never comes, a stream that waits for nothing, and a caller.
    let mut silent = TcpStream::connect(address).await.unwrap();
    let waiting = running.public.wire().await;
    let question = tonic_health::pb::HealthCheckRequest::default();
    let watch = {
        let waiting = waiting.clone();
        tokio::spawn(async move { waiting.call("/grpc.health.v1.Health/Watch", &[], &question).await })
    };
    let caller = running.public.wire().await;
    assert_eq!(list(&caller, &manager).await, Code::Ok);
    let another = running.public.wire().await;
    assert_eq!(list(&another, &manager).await, Code::Ok);
    assert_eq!(silent.read(&mut [0; 1]).await.unwrap_or(0), 0, "the silent one is closed");
    let third = running.public.wire().await;
    assert_eq!(list(&third, &manager).await, Code::Ok);
    assert!(watch.await.is_err(), "then the one that only waits");
    assert_eq!(list(&caller, &manager).await, Code::Ok, "and not the one that calls");
}

#[tokio::test]
async fn a_peer_has_its_share_of_the_connections() {
    let limits = ConnectionLimits { connections: 10, connections_per_peer: 2, ..ConnectionLimits::default() };
    let running = with_connections(limits).await;
    let (manager, _) = running.manager(1);
    let mut wires = Vec::new();
    for _ in 0..3 {
        let wire = running.public.wire().await;
        assert_eq!(list(&wire, &manager).await, Code::Ok);
        wires.push(wire);
    }
    let first = wires.remove(0);
    let request = pb::ListApiKeysRequest::default();
    let gone = tokio::spawn(async move { first.call_as(&manager, LIST, &request).await });
    assert!(gone.await.is_err(), "its first connection made room for its third");
}

#[tokio::test]
async fn a_shutdown_lets_calls_in_flight_finish_and_accepts_no_more() {
    let mut running = start().await;
    let (manager, _) = running.manager(1);
    let wire = running.public.wire().await;
    let idle = running.public.wire().await;
    assert_eq!(list(&idle, &manager).await, Code::Ok);
    let held = running.store.hold(StoreCall::Page);
    let calling = {
        let (wire, manager) = (wire.clone(), manager.clone());
        tokio::spawn(async move { list(&wire, &manager).await })
    };
    while running.store.calls(StoreCall::Page) < 2 {
        tokio::task::yield_now().await;
    }
    running.public.shut_down();
    while TcpStream::connect(running.public.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!calling.is_finished() && !running.public.ended.is_finished());
    drop(held);
    assert_eq!(calling.await.unwrap(), Code::Ok);
    assert_eq!((&mut running.public.ended).await.unwrap(), Drained { cut: 0 });
    // The other listener goes on.
    let answer = running.verification.wire().await.call(VERIFY, &[], &pb::VerifyApiKeyRequest::default()).await;
    assert_eq!(answer.code(), Code::Ok);
}

#[tokio::test]
async fn a_call_that_does_not_finish_in_time_is_cut() {
    let limits = ConnectionLimits { drain: Duration::from_millis(50), ..ConnectionLimits::default() };
    let mut running = with_connections(limits).await;
    let (manager, _) = running.manager(1);
    let wire = running.public.wire().await;
    let _held = running.store.hold(StoreCall::Page);
    let calling = tokio::spawn(async move {
        let body = http_body_util::BodyExt::boxed(http_body_util::Full::new(frame(&[])));
        wire.try_call(LIST, &[("x-api-key", &manager)], body).await.is_err()
    });
    while running.store.calls(StoreCall::Page) == 0 {
        tokio::task::yield_now().await;
    }
    running.public.shut_down();
    assert_eq!((&mut running.public.ended).await.unwrap(), Drained { cut: 1 });
    assert!(calling.await.unwrap(), "the connection was cut");
}
