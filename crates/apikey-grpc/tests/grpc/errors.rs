//! Errors that are nobody's use case: unknown methods, messages that cannot be read, panics, other protocols.

use apikey_application::ports::StoreError;
use apikey_proto::pidgr::v1 as pb;
use apikey_testing::StoreCall;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use tonic::Code;

use crate::{
    service::start,
    wire::{CREATE, LIST, REVOKE, VERIFY, frame},
};

#[tokio::test]
async fn unknown_methods_and_paths_are_unimplemented_with_details() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let wire = running.public.wire().await;
    for path in [
        "/",
        "/pidgr.v1.ApiKeyService",
        "/pidgr.v1.ApiKeyService/Nothing",
        "/pidgr.v2.ApiKeyService/ListApiKeys",
        "/a/b/c",
    ] {
        let answer = wire.call_as(&manager, path, &pb::ListApiKeysRequest::default()).await;
        assert_eq!((answer.code(), answer.reason().as_str()), (Code::Unimplemented, "METHOD_UNKNOWN"), "{path}");
    }
}

#[tokio::test]
async fn a_message_that_cannot_be_read_is_the_callers_mistake() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let ways = [(running.public.wire().await, CREATE), (running.verification.wire().await, VERIFY)];
    let before = running.state();
    let headers = [("x-api-key", manager.as_str())];
    let not_utf8 = frame(&[0x0A, 2, 0xC3, 0x28]);
    let cut = frame(&[0x0A, 200]);
    let bad_flag = Bytes::from_static(&[7, 0, 0, 0, 0]);
    let compressed = Bytes::from_static(&[1, 0, 0, 0, 0]);
    let half_a_frame = Bytes::from_static(&[0, 0, 0, 0, 9, 1]);
    for (what, body) in [
        ("not UTF-8", not_utf8),
        ("cut", cut),
        ("an unknown flag", bad_flag),
        ("compressed without saying how", compressed),
        ("half a frame", half_a_frame),
    ] {
        for (wire, path) in &ways {
            let answer = wire.try_call(path, &headers, Full::new(body.clone()).boxed()).await.unwrap();
            let told = (answer.code(), answer.reason());
            assert_eq!(told, (Code::InvalidArgument, "MALFORMED_MESSAGE".to_owned()), "{what}, {path}");
            assert_eq!(answer.violated_fields(), ["message"], "{what}, {path}");
        }
    }
    // What gRPC's conformance suite wants to see refused so.
    for (what, body) in [("no message", Bytes::new()), ("two messages", [frame(&[]), frame(&[])].concat().into())] {
        for (wire, path) in &ways {
            let answer = wire.try_call(path, &headers, Full::new(body.clone()).boxed()).await.unwrap();
            let told = (answer.code(), answer.reason());
            assert_eq!(told, (Code::Unimplemented, "UNIMPLEMENTED".to_owned()), "{what}, {path}");
        }
    }
    for (wire, path) in &ways {
        let headers = [headers[0], ("grpc-encoding", "snappy")];
        let answer = wire.call(path, &headers, &pb::ListApiKeysRequest::default()).await;
        assert_eq!((answer.code(), answer.reason().as_str()), (Code::Unimplemented, "UNIMPLEMENTED"), "{path}");
    }
    assert_eq!(running.state(), before);
}

#[tokio::test]
async fn a_panic_is_an_internal_error_and_the_connection_survives() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let wire = running.public.wire().await;
    running.entropy.panic_from_now_on(true);
    let create = pb::CreateApiKeyRequest { name: "a".to_owned(), ..Default::default() };
    let answer = wire.call_as(&manager, CREATE, &create).await;
    assert_eq!((answer.code(), answer.reason().as_str()), (Code::Internal, "INTERNAL"));
    assert!(!format!("{answer:?}").contains("the text of a panic"));
    running.entropy.panic_from_now_on(false);
    let _: pb::CreateApiKeyResponse = wire.call_as(&manager, CREATE, &create).await.message();
}

#[tokio::test]
async fn an_outage_of_the_store_is_told_as_one_in_every_place() {
    let running = start().await;
    let (manager, key) = running.manager(1);
    let wire = running.public.wire().await;
    let create = pb::CreateApiKeyRequest { name: "a".to_owned(), ..Default::default() };
    let revoke = pb::RevokeApiKeyRequest { id: key.id().to_string() };
    let list = pb::ListApiKeysRequest::default();
    let before = running.state();
    for call in [StoreCall::FindByDigest, StoreCall::Page, StoreCall::Commit, StoreCall::FindById] {
        running.store.fail_next(call, StoreError::Unavailable("postgres://user:password@host".into()));
        let answer = match call {
            StoreCall::Page => wire.call_as(&manager, LIST, &list).await,
            StoreCall::FindById => wire.call_as(&manager, REVOKE, &revoke).await,
            _ => wire.call_as(&manager, CREATE, &create).await,
        };
        assert_eq!((answer.code(), answer.reason().as_str()), (Code::Unavailable, "STORE_UNAVAILABLE"), "{call:?}");
        assert!(answer.details().retry_info().is_some());
        assert!(!format!("{answer:?}").contains("password"));
    }
    assert_eq!(running.state(), before);
    running.store.fail_next(StoreCall::Commit, StoreError::OutcomeUnknown("gone".into()));
    let answer = wire.call_as(&manager, CREATE, &create).await;
    assert_eq!((answer.code(), answer.reason().as_str()), (Code::Unavailable, "OUTCOME_UNKNOWN"));
    let _: pb::ListApiKeysResponse = wire.call_as(&manager, LIST, &list).await.message();
}

#[tokio::test]
async fn what_is_not_grpc_is_refused_in_https_own_terms_and_has_a_request_id() {
    let running = start().await;
    let wire = running.verification.wire().await;
    let post = |content_type: Option<&str>| {
        let mut request = Request::post(format!("http://service.test{VERIFY}"));
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        request.body(Full::new(frame(&[])).boxed()).unwrap()
    };
    for other in
        [None, Some("application/json"), Some("application/grpc-web"), Some("application/grpcfoo"), Some("text/plain")]
    {
        let answer = wire.send(post(other)).await.unwrap();
        assert_eq!(answer.http, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{other:?}");
        assert!(!answer.request_id().is_empty());
    }
    for grpc in ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"] {
        let answer = wire.send(post(Some(grpc))).await.unwrap();
        assert_eq!(answer.code(), Code::Ok, "{grpc}");
    }
    let get = Request::get(format!("http://service.test{VERIFY}")).body(Empty::new().boxed()).unwrap();
    let answer = wire.send(get).await.unwrap();
    assert_eq!(answer.http, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(answer.headers["allow"], "POST");
    assert!(!answer.request_id().is_empty());
}
