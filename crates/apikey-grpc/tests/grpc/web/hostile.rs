//! Requests that are made to hurt: each is refused or absorbed, and the others go on being served.

use std::{net::SocketAddr, time::Duration};

use ::http::Method;
use apikey_grpc::CallLimits;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::http::{VERSIONS, Version, full, post_json, request, send};
use crate::{
    service::{Running, Setup, start, start_with},
    wire::{CREATE, LIST},
};

async fn serves_others(running: &Running, credential: &str) {
    let answer = post_json(running.public.address, LIST, &[("x-api-key", credential)], "{}").await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn json_that_is_deep_doubled_wrong_or_not_text_is_refused() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let before = running.state();
    let deep = "[".repeat(10_000);
    let objects = r#"{"a":"#.repeat(10_000);
    let cases: &[(&str, Vec<u8>)] = &[
        ("deep arrays", deep.clone().into()),
        ("deep arrays in a field", format!(r#"{{"name":"a","permissions":{deep}"#).into()),
        ("deep objects", objects.clone().into()),
        ("deep objects in a field", format!(r#"{{"expiresAt":{objects}"#).into()),
        ("a deep field that is unknown, and not closed", format!(r#"{{"name":"a","x":{deep}"#).into()),
        ("a field twice", br#"{"name":"a","name":"b"}"#.to_vec()),
        ("a field by both of its names", br#"{"keyType":1,"key_type":1,"name":"a"}"#.to_vec()),
        ("a number for a text", br#"{"name":1}"#.to_vec()),
        ("an object for a text", br#"{"name":{"a":1}}"#.to_vec()),
        ("a text for a list", br#"{"name":"a","permissions":"all"}"#.to_vec()),
        ("a number out of range", br#"{"name":"a","keyType":1e300}"#.to_vec()),
        ("a permission that does not exist", br#"{"name":"a","permissions":["PERMISSION_ROOT"]}"#.to_vec()),
        ("two documents", br#"{"name":"a"}{"name":"b"}"#.to_vec()),
        ("not UTF-8", b"{\"name\":\"\xff\xfe\"}".to_vec()),
        ("UTF-16", b"\xff\xfe{\0}\0".to_vec()),
        ("half a surrogate pair", br#"{"name":"\ud800"}"#.to_vec()),
        ("nothing", Vec::new()),
        ("zeros", vec![0; 1000]),
    ];
    for version in VERSIONS {
        for (what, body) in cases {
            let headers = [("content-type", "application/json"), ("x-api-key", manager.as_str())];
            let sent = request(Method::POST, CREATE, &headers, full(body.clone()));
            let answer = send(running.public.address, version, sent).await;
            assert_eq!((answer.error().0, answer.error().1.as_str()), (400, "invalid_argument"), "{what}");
        }
    }
    assert_eq!(running.state(), before);
    serves_others(&running, &manager).await;
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_with_its_details() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let of_size = |size: usize| format!(r#"{{"name":"{}"}}"#, "x".repeat(size - 11));
    for version in VERSIONS {
        let headers = [("content-type", "application/json"), ("x-api-key", manager.as_str())];
        for (size, status, code) in [
            (64 << 10, 400, "invalid_argument"),
            ((64 << 10) + 1, 429, "resource_exhausted"),
            (8 << 20, 429, "resource_exhausted"),
        ] {
            // In pieces, so that no length announces it; with pauses, so that the answer may come first.
            let json = of_size(size);
            let pieces: Vec<_> = json.as_bytes().chunks(32 << 10).map(Bytes::copy_from_slice).collect();
            let pieces = stream::iter(pieces).then(|piece| async {
                tokio::task::yield_now().await;
                Ok(Frame::data(piece))
            });
            let sent = request(Method::POST, CREATE, &headers, BodyExt::boxed(StreamBody::new(Box::pin(pieces))));
            if version == Version::Http1 && size > 1 << 20 {
                // The connection ends before the message does; that the answer arrives cannot be asked for.
                continue;
            }
            let answer = send(running.public.address, version, sent).await;
            assert_eq!((answer.error().0, answer.error().1.as_str()), (status, code), "{version:?} {size}");
        }
    }
}

/// Sends bytes by HTTP/1.1, and reads until the other side closes the connection, or until the answer is there.
async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut received = Vec::new();
    let _ = stream.read_to_end(&mut received).await;
    String::from_utf8_lossy(&received).into_owned()
}

#[tokio::test]
async fn lying_lengths_change_nothing() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let before = running.state();
    let head =
        format!("POST {CREATE} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nx-api-key: {manager}\r\n");
    for (what, rest, begins) in [
        ("more than comes", "content-length: 100\r\n\r\n{\"name\":\"a\"}", ""),
        ("less than comes", "content-length: 5\r\n\r\n{\"name\":\"a\"}", "HTTP/1.1 400 "),
        ("two that differ", "content-length: 12\r\ncontent-length: 13\r\n\r\n{\"name\":\"a\"}", "HTTP/1.1 400 "),
        ("none that is a number", "content-length: ten\r\n\r\n{\"name\":\"a\"}", "HTTP/1.1 400 "),
        ("negative", "content-length: -12\r\n\r\n{\"name\":\"a\"}", "HTTP/1.1 400 "),
        ("a chunk that is shorter", "transfer-encoding: chunked\r\n\r\nff\r\n{\"name\":\"a\"}\r\n0\r\n\r\n", ""),
        ("a chunk without a size", "transfer-encoding: chunked\r\n\r\nzz\r\n{\"name\":\"a\"}\r\n0\r\n\r\n", ""),
    ] {
        let answer = raw(running.public.address, format!("{head}{rest}").as_bytes()).await;
        assert!(answer.starts_with(begins) && !answer.starts_with("HTTP/1.1 200"), "{what}: {answer}");
    }
    assert_eq!(running.state(), before);
    serves_others(&running, &manager).await;
}

#[tokio::test]
async fn bodies_that_never_end_hold_up_nobody_else_and_end_by_themselves() {
    let short = Duration::from_millis(10);
    let calls = CallLimits { deadline: short, revoke_deadline: short, ..CallLimits::default() };
    let running = start_with(Setup { calls, ..Setup::default() }).await;
    let (manager, _) = running.manager(1);
    let address = running.public.address;
    let mut waiting = Vec::new();
    for version in VERSIONS {
        for content_type in ["application/json", "application/grpc-web"] {
            let first = Ok(Frame::data(Bytes::from_static(b"{")));
            let body = BodyExt::boxed(StreamBody::new(stream::iter([first]).chain(stream::pending())));
            let headers = [("content-type", content_type), ("x-api-key", manager.as_str())];
            let sent = request(Method::POST, CREATE, &headers, body);
            waiting.push((content_type, tokio::spawn(async move { send(address, version, sent).await })));
        }
    }
    for _ in 0..20 {
        let answer = post_json(address, "/grpc.health.v1.Health/Check", &[], "{}").await;
        assert_eq!(answer.status, 200);
    }
    for (content_type, waiting) in waiting {
        let answer = waiting.await.unwrap();
        if content_type == "application/json" {
            assert_eq!((answer.error().0, answer.error().1.as_str()), (504, "deadline_exceeded"));
        } else {
            assert_eq!(answer.header("grpc-status"), Some("4"), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn a_refused_request_leaves_its_http_1_connection_usable() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let mut stream = TcpStream::connect(running.public.address).await.unwrap();
    let answer = async |stream: &mut TcpStream| {
        let mut received = Vec::new();
        // Each answer's head ends by an empty line; the bodies of these are empty.
        while !received.ends_with(b"\r\n\r\n") {
            received.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(received).unwrap()
    };
    for _ in 0..3 {
        // Refused by its head, while its body is on its way.
        let head = format!(
            "POST {LIST} HTTP/1.1\r\nhost: a\r\ncontent-type: text/plain\r\ncontent-length: 40000\r\nx-api-key: {manager}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let refused = answer(&mut stream).await;
        assert!(refused.starts_with("HTTP/1.1 415 "), "{refused}");
        assert!(!refused.contains("connection: close"), "{refused}");
        stream.write_all(&vec![b'x'; 40_000]).await.unwrap();
    }
}
