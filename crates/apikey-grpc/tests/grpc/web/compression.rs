//! gzip in each protocol, and bombs in it.

use std::io::{Read, Write};

use ::http::Method;
use apikey_proto::pidgr::v1 as pb;
use bytes::Bytes;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use http_body_util::BodyExt;
use prost::Message;
use serde_json::{Value, json};
use tonic::Code;

use super::http::{VERSIONS, full, request, send};
use crate::{
    service::start,
    wire::{CREATE, LIST, VERIFY},
};

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn gunzip(data: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    GzDecoder::new(data).read_to_end(&mut decoded).unwrap();
    decoded
}

fn compressed_frame(message: &[u8]) -> Vec<u8> {
    let mut frame = vec![1];
    frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend(message);
    frame
}

#[tokio::test]
async fn connect_reads_gzip_and_answers_by_it_where_it_is_worth_it() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    for version in VERSIONS {
        let headers = [
            ("content-type", "application/json"),
            ("content-encoding", "gzip"),
            ("accept-encoding", "gzip"),
            ("x-api-key", manager.as_str()),
        ];
        for number in 0..10 {
            let create = json!({ "name": format!("{version:?} {number} {}", "x".repeat(150)) });
            let body = gzip(create.to_string().as_bytes());
            let answer =
                send(running.public.address, version, request(Method::POST, CREATE, &headers, full(body))).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        let answer =
            send(running.public.address, version, request(Method::POST, LIST, &headers, full(gzip(b"{}")))).await;
        assert_eq!(answer.header("content-encoding"), Some("gzip"));
        let listed: Value = serde_json::from_slice(&gunzip(&answer.body)).unwrap();
        assert!(listed["apiKeys"].as_array().unwrap().len() > 10);
        // What is not asked for is not done.
        let plain = &[headers[0], headers[3]];
        let answer = send(running.public.address, version, request(Method::POST, LIST, plain, full("{}"))).await;
        assert_eq!(answer.header("content-encoding"), None);
        assert_eq!(answer.json(), listed);
    }
}

#[tokio::test]
async fn grpc_reads_gzip_and_answers_by_it() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let wire = running.public.wire().await;
    let list = gzip(&pb::ListApiKeysRequest::default().encode_to_vec());
    let headers = [("x-api-key", manager.as_str()), ("grpc-encoding", "gzip"), ("grpc-accept-encoding", "gzip")];
    let answer = wire.try_call(LIST, &headers, full(compressed_frame(&list))).await.unwrap();
    assert_eq!(answer.code(), Code::Ok);
    assert_eq!((answer.headers["grpc-encoding"].to_str().unwrap(), answer.body[0]), ("gzip", 1));
    let listed = pb::ListApiKeysResponse::decode(Bytes::from(gunzip(&answer.body[5..]))).unwrap();
    assert_eq!(listed.api_keys.len(), 1);

    // A verification that is compressed goes another way than one that is not, to the same verdict.
    let wire = running.verification.wire().await;
    let presented = pb::VerifyApiKeyRequest { raw_key: manager.clone(), ..Default::default() };
    let plain: pb::VerifyApiKeyResponse = wire.call(VERIFY, &[], &presented).await.message();
    let body = full(compressed_frame(&gzip(&presented.encode_to_vec())));
    let answer = wire.try_call(VERIFY, &headers[1..], body).await.unwrap();
    assert_eq!((answer.headers["grpc-encoding"].to_str().unwrap(), answer.body[0]), ("gzip", 1));
    assert_eq!(pb::VerifyApiKeyResponse::decode(Bytes::from(gunzip(&answer.body[5..]))).unwrap(), plain);
}

#[tokio::test]
async fn a_bomb_is_refused_in_every_protocol() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let before = running.state();
    // A thousandfold, and as little over the limit as can be.
    for size in [8 << 20, (64 << 10) + 1] {
        let bomb = gzip(&vec![b' '; size]);
        assert!(bomb.len() < 64 << 10);
        for version in VERSIONS {
            for content_type in ["application/json", "application/proto"] {
                let headers =
                    [("content-type", content_type), ("content-encoding", "gzip"), ("x-api-key", manager.as_str())];
                let sent = request(Method::POST, CREATE, &headers, full(bomb.clone()));
                let answer = send(running.public.address, version, sent).await;
                assert_eq!((answer.error().0, answer.error().1.as_str()), (429, "resource_exhausted"));
            }
        }
        let wire = running.public.wire().await;
        for content_type in ["application/grpc", "application/grpc-web"] {
            let asked = request(
                Method::POST,
                CREATE,
                &[
                    ("content-type", content_type),
                    ("grpc-encoding", "gzip"),
                    ("te", "trailers"),
                    ("x-api-key", &manager),
                ],
                full(compressed_frame(&bomb)).boxed(),
            );
            let answer = wire.send(asked).await.unwrap();
            assert_eq!(answer.code(), Code::ResourceExhausted, "{content_type} {answer:?}");
        }
    }
    assert_eq!(running.state(), before);
}

#[tokio::test]
async fn what_follows_a_gzip_member_is_refused_in_every_protocol() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let before = running.state();
    let json = gzip(br#"{"name":"first"}"#);
    let proto = gzip(&pb::CreateApiKeyRequest { name: "first".to_owned(), ..Default::default() }.encode_to_vec());
    let presented = gzip(&pb::VerifyApiKeyRequest { raw_key: manager.clone(), ..Default::default() }.encode_to_vec());
    for behind in [&gzip(br#"{"name":"second"}"#)[..], &proto, &gzip(b""), b"garbage"] {
        let both = |first: &[u8]| [first, behind].concat();
        for version in VERSIONS {
            for (content_type, first) in [("application/json", &json), ("application/proto", &proto)] {
                let headers =
                    [("content-type", content_type), ("content-encoding", "gzip"), ("x-api-key", manager.as_str())];
                let sent = request(Method::POST, CREATE, &headers, full(both(first)));
                let answer = send(running.public.address, version, sent).await;
                assert_eq!((answer.error().0, answer.error().1.as_str()), (400, "invalid_argument"), "{answer:?}");
            }
        }
        let wire = running.public.wire().await;
        for content_type in ["application/grpc", "application/grpc-web"] {
            let headers = [
                ("content-type", content_type),
                ("grpc-encoding", "gzip"),
                ("te", "trailers"),
                ("x-api-key", manager.as_str()),
            ];
            let body = full(compressed_frame(&both(&proto))).boxed();
            let answer = wire.send(request(Method::POST, CREATE, &headers, body)).await.unwrap();
            assert_eq!(answer.code(), Code::InvalidArgument, "{content_type} {answer:?}");
        }
        let wire = running.verification.wire().await;
        let body = full(compressed_frame(&both(&presented)));
        let answer = wire.try_call(VERIFY, &[("grpc-encoding", "gzip")], body).await.unwrap();
        assert_eq!(answer.code(), Code::InvalidArgument, "{answer:?}");
    }
    assert_eq!(running.state(), before);
    // Another message is no better.
    let wire = running.verification.wire().await;
    for (encoding, one) in [("gzip", compressed_frame(&presented)), ("identity", [0; 5].to_vec())] {
        let answer = wire.try_call(VERIFY, &[("grpc-encoding", encoding)], full(one.repeat(2))).await.unwrap();
        assert_eq!(answer.code(), Code::Unimplemented, "{answer:?}");
    }
}

#[tokio::test]
async fn an_encoding_that_is_not_spoken_is_refused() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    for version in VERSIONS {
        let headers =
            [("content-type", "application/json"), ("content-encoding", "br"), ("x-api-key", manager.as_str())];
        let answer = send(running.public.address, version, request(Method::POST, LIST, &headers, full("{}"))).await;
        assert_eq!((answer.error().0, answer.error().1.as_str()), (501, "unimplemented"));
        // Called gzip, and none.
        let headers = [headers[0], ("content-encoding", "gzip"), headers[2]];
        let answer = send(running.public.address, version, request(Method::POST, LIST, &headers, full("{}"))).await;
        assert_eq!((answer.error().0, answer.error().1.as_str()), (400, "invalid_argument"));
    }
}
