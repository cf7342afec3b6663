//! Requests over the limits, from clients that send all of it before they read: each sees the error that the contract names.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use ::http::Method;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::http::{Version, full, request, send};
use crate::{
    service::start,
    wire::{CREATE, LIST, VERIFY},
};

/// More than the kernel keeps for both sides of a connection, and less than what is read of a body that nobody wants.
const BODY: usize = 12 << 20;
const PIECE: usize = 16 << 10;

/// Sends everything, and then reads until the connection is closed.
async fn answer_after_all(address: SocketAddr, request: &[u8]) -> String {
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_body_over_the_limit_is_answered_over_http_1_however_late_its_client_reads() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    for (content_type, answered) in [
        ("application/json", "HTTP/1.1 429 "),
        ("application/proto", "HTTP/1.1 429 "),
        ("application/connect+json", "HTTP/1.1 200 "),
        ("application/grpc", "HTTP/1.1 200 "),
        ("application/grpc-web", "HTTP/1.1 200 "),
        ("application/grpc-web-text", "HTTP/1.1 200 "),
    ] {
        let head = format!(
            "POST {CREATE} HTTP/1.1\r\nhost: a\r\nx-api-key: {manager}\r\ncontent-type: {content_type}\r\n\
             content-length: {BODY}\r\nconnection: close\r\n\r\n"
        );
        let request = [head.as_bytes(), &vec![b' '; BODY]].concat();
        let answer = answer_after_all(running.public.address, &request).await;
        assert!(answer.starts_with(answered), "{content_type}: {answer}");
        assert!(answer.contains("x-request-id: "), "{content_type}: {answer}");
    }
}

#[tokio::test]
async fn headers_over_the_limit_are_answered_over_http_1_with_431() {
    let running = start().await;
    let token = "a".repeat(BODY);
    let request = format!("POST {LIST} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\r\n");
    let answer = answer_after_all(running.public.address, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn a_body_over_the_limit_is_taken_over_http_2_after_its_answer() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    for (address, path, content_type) in [
        (running.public.address, CREATE, "application/json"),
        (running.public.address, CREATE, "application/grpc"),
        (running.public.address, CREATE, "application/grpc-web"),
        (running.verification.address, VERIFY, "application/grpc"),
    ] {
        let sent = Arc::new(AtomicUsize::new(0));
        let body = {
            let sent = Arc::clone(&sent);
            let pieces = stream::iter(0..BODY / PIECE).map(move |_| {
                sent.fetch_add(PIECE, Ordering::Relaxed);
                Ok(Frame::data(Bytes::from_static(&[b' '; PIECE])))
            });
            BodyExt::boxed(StreamBody::new(pieces))
        };
        let headers = [("content-type", content_type), ("x-api-key", manager.as_str())];
        let answer = send(address, Version::Http2, request(Method::POST, path, &headers, body)).await;
        assert_eq!(answer.status, if content_type == "application/json" { 429 } else { 200 }, "{answer:?}");
        // The answer is there, and the connection lives on while the rest is sent.
        while sent.load(Ordering::Relaxed) < BODY {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_body_without_end_is_not_read_for_ever() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let head = format!(
        "POST {CREATE} HTTP/1.1\r\nhost: a\r\nx-api-key: {manager}\r\ncontent-type: application/json\r\n\
         transfer-encoding: chunked\r\n\r\n"
    );
    let mut connection = TcpStream::connect(running.public.address).await.unwrap();
    connection.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("4000\r\n{}\r\n", " ".repeat(0x4000));
    // The service ends the connection; a client that reads nothing learns it by a reset.
    while connection.write_all(chunk.as_bytes()).await.is_ok() {}
    let sent =
        request(Method::POST, LIST, &[("content-type", "application/json"), ("x-api-key", &manager)], full("{}"));
    assert_eq!(send(running.public.address, Version::Http1, sent).await.status, 200);
}
