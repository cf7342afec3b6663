//! Exactly one credential, in exactly one spelling.

use apikey_proto::pidgr::v1 as pb;
use apikey_testing::StoreCall;
use http_body_util::{BodyExt, StreamBody};
use tonic::Code;

use crate::{
    service::{Setup, Tokens, start, start_with},
    wire::{CREATE, LIST, REVOKE, frame},
};

#[tokio::test]
async fn one_credential_in_one_spelling_is_accepted() {
    let running = start().await;
    let (key, _) = running.manager(1);
    let wire = running.public.wire().await;
    for (name, value) in [
        ("x-api-key", key.clone()),
        ("X-Api-Key", key.clone()),
        ("authorization", format!("Bearer {key}")),
        ("authorization", format!("bearer {key}")),
        ("authorization", format!("BEARER {key}")),
    ] {
        let answer = wire.call(LIST, &[(&name.to_lowercase(), &value)], &pb::ListApiKeysRequest::default()).await;
        assert_eq!(answer.code(), Code::Ok, "{name}");
    }
}

#[tokio::test]
async fn no_trick_with_headers_passes_and_all_are_answered_alike() {
    let running = start().await;
    let (key, _) = running.manager(1);
    let (other, _) = running.manager(2);
    let wire = running.public.wire().await;
    let bearer = format!("Bearer {key}");
    let joined = format!("{bearer}, Bearer {other}");
    let (spaced_key, spaced_bearer) = (format!("{key} "), format!("{bearer} "));
    let (before, two_spaces) = (format!(" {key}"), format!("Bearer  {key}"));
    let (tabbed, token_scheme) = (format!("Bearer\t{key}"), format!("Token {key}"));
    let (quoted, upper) = (format!("Bearer \"{key}\""), key.to_uppercase());
    let (keys, umlaut) = (format!("{key},{other}"), format!("{key}ü"));
    let tricks: &[&[(&str, &str)]] = &[
        &[],
        &[("authorization", &bearer), ("x-api-key", &key)],
        &[("authorization", &bearer), ("x-api-key", "")],
        &[("authorization", ""), ("x-api-key", &key)],
        &[("authorization", "Basic eDp5"), ("x-api-key", &key)],
        &[("authorization", &bearer), ("authorization", &bearer)],
        &[("x-api-key", &key), ("x-api-key", &key)],
        &[("x-api-key", &key), ("x-api-key", &other)],
        &[("authorization", "")],
        &[("authorization", " ")],
        &[("authorization", "Bearer")],
        &[("authorization", "Bearer ")],
        &[("authorization", &key)],
        &[("authorization", &joined)],
        &[("authorization", &spaced_bearer)],
        &[("authorization", &two_spaces)],
        &[("authorization", &tabbed)],
        &[("authorization", &token_scheme)],
        &[("authorization", &quoted)],
        &[("x-api-key", "")],
        &[("x-api-key", &spaced_key)],
        &[("x-api-key", &before)],
        &[("x-api-key", &upper)],
        &[("x-api-key", &keys)],
        &[("x-api-key", &umlaut)],
        &[("x-api-key", &bearer)],
        &[("x-api-key-bin", &key)],
        &[("cookie", &bearer)],
    ];
    let reads = running.store.calls(StoreCall::FindByDigest);
    let mut answers = Vec::new();
    for trick in tricks {
        let mut headers = vec![("x-request-id", "the-same")];
        headers.extend_from_slice(trick);
        let mut answer = wire.call(LIST, &headers, &pb::ListApiKeysRequest::default()).await;
        assert_eq!(answer.code(), Code::Unauthenticated, "{trick:?}");
        answer.headers.remove("date");
        answers.push((answer.headers, answer.trailers, answer.body));
    }
    // The caller cannot tell one from the other.
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(running.store.calls(StoreCall::FindByDigest), reads, "garbage ends before the store");
}

#[tokio::test]
async fn a_scim_token_calls_nothing_here() {
    let running = start().await;
    let (scim, _) = running.scim_token(1);
    let wire = running.public.wire().await;
    for headers in [("x-api-key", scim.clone()), ("authorization", format!("Bearer {scim}"))] {
        let answer = wire.call(LIST, &[(headers.0, &headers.1)], &pb::ListApiKeysRequest::default()).await;
        assert_eq!(answer.code(), Code::Unauthenticated);
    }
}

#[tokio::test]
async fn a_token_is_no_api_key_and_an_issuer_that_cannot_be_reached_is_an_outage() {
    let running = start_with(Setup { tokens: Tokens::Unreachable, ..Setup::default() }).await;
    let wire = running.public.wire().await;
    let answer = wire.call_as("header.claims.signature", LIST, &pb::ListApiKeysRequest::default()).await;
    assert_eq!(answer.code(), Code::Unauthenticated);
    let headers = [("authorization", "Bearer header.claims.signature")];
    let answer = wire.call(LIST, &headers, &pb::ListApiKeysRequest::default()).await;
    assert_eq!((answer.code(), answer.reason().as_str()), (Code::Unavailable, "ISSUER_UNAVAILABLE"));
    assert!(answer.details().retry_info().is_some());
}

#[tokio::test]
async fn without_what_could_be_a_credential_not_a_byte_of_the_message_is_read() {
    let running = start().await;
    let wire = running.public.wire().await;
    // A message that never comes: whoever waits for it never answers.
    let never = StreamBody::new(futures_util::stream::pending()).boxed();
    let answer = wire.try_call(CREATE, &[("x-api-key", "garbage")], never).await.unwrap();
    assert_eq!(answer.code(), Code::Unauthenticated);
    let answer = wire.call("/pidgr.v1.ApiKeyService/AddedTomorrow", &[], &pb::ListApiKeysRequest::default()).await;
    assert_eq!(answer.code(), Code::Unauthenticated, "a method that does not exist yet is guarded already");
}

#[tokio::test]
async fn a_key_that_is_revoked_while_its_message_comes_is_refused() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let (wire, other) = (running.public.wire().await, running.public.wire().await);
    for (path, seed) in [(LIST, 2), (CREATE, 3), (REVOKE, 4)] {
        let (revoked, key) = running.manager(seed);
        let id = key.id().to_string();
        let (message, body) = tokio::sync::oneshot::channel::<bytes::Bytes>();
        let late = futures_util::stream::once(async { Ok(http_body::Frame::data(body.await.unwrap())) });
        let headers = [("x-api-key", revoked.as_str())];
        let calling = wire.try_call(path, &headers, StreamBody::new(late).boxed());
        let revoking = async {
            let request = pb::RevokeApiKeyRequest { id };
            let _: pb::RevokeApiKeyResponse = other.call_as(&manager, REVOKE, &request).await.message();
            message.send(frame(&[])).unwrap();
        };
        let (answer, ()) = tokio::join!(calling, revoking);
        assert_eq!(answer.unwrap().code(), Code::Unauthenticated, "{path}");
    }
}

#[tokio::test]
async fn a_peer_whose_keys_are_not_valid_too_often_is_refused_before_the_store_is_asked() {
    let one_a_second = std::num::NonZeroU32::new(1);
    let running = start_with(Setup { failed_attempts: one_a_second, ..Setup::default() }).await;
    let wire = running.public.wire().await;
    let (unknown, _) = apikey_testing::fixtures::a_raw_key_with(9, |_| {});
    let headers = [("x-api-key", unknown.expose())];
    for _ in 0..4 {
        let answer = wire.call(LIST, &headers, &pb::ListApiKeysRequest::default()).await;
        assert_eq!(answer.code(), Code::Unauthenticated);
    }
    let reads = running.store.calls(StoreCall::FindByDigest);
    let answer = wire.call(LIST, &headers, &pb::ListApiKeysRequest::default()).await;
    assert_eq!(answer.code(), Code::ResourceExhausted);
    assert_eq!(answer.details().error_info().unwrap().reason, "TOO_MANY_FAILED_ATTEMPTS");
    assert!(answer.details().retry_info().is_some());
    assert_eq!(running.store.calls(StoreCall::FindByDigest), reads);
}
