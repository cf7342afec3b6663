//! What one call may cost: the size of a message, its time, and how many there are at once.

use std::time::Duration;

use apikey_grpc::CallLimits;
use apikey_proto::pidgr::v1 as pb;
use apikey_testing::StoreCall;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use prost::Message;
use tonic::Code;
use tonic_health::pb as health;

use crate::{
    service::{Running, Setup, start, start_with},
    wire::{Answer, CREATE, LIST, REVOKE, VERIFY, Wire, frame},
};

const HOUR: Duration = Duration::from_hours(1);
const SHORT: Duration = Duration::from_millis(50);

async fn with_limits(calls: CallLimits) -> Running {
    start_with(Setup { calls, ..Setup::default() }).await
}

/// Waits until that many calls have reached the store.
async fn reached(running: &Running, call: StoreCall, count: usize) {
    while running.store.calls(call) < count {
        tokio::task::yield_now().await;
    }
}

fn assert_deadline_exceeded(answer: &Answer) {
    assert_eq!((answer.code(), answer.reason().as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
    assert!(answer.details().retry_info().is_some());
}

#[tokio::test]
async fn a_message_over_64_kib_is_refused_and_one_of_64_kib_is_read() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let wire = running.public.wire().await;
    let of_size = |size: usize| {
        // One byte for the tag, three for the length.
        let message = pb::CreateApiKeyRequest { name: "x".repeat(size - 4), ..Default::default() };
        assert_eq!(message.encoded_len(), size);
        message
    };
    let answer = wire.call_as(&manager, CREATE, &of_size(64 * 1024)).await;
    assert_eq!((answer.code(), answer.violated_fields()), (Code::InvalidArgument, vec!["name".to_owned()]));
    let answer = wire.call_as(&manager, CREATE, &of_size(64 * 1024 + 1)).await;
    assert_eq!((answer.code(), answer.reason().as_str()), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));
    let presented = pb::VerifyApiKeyRequest { raw_key: "x".repeat(64 * 1024), ..Default::default() };
    let verification = running.verification.wire().await;
    let answer = verification.call(VERIFY, &[], &presented).await;
    assert_eq!((answer.code(), answer.reason().as_str()), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));
    // The length alone decides: nothing of it has to arrive.
    for (wire, path) in [(&wire, CREATE), (&verification, VERIFY)] {
        let announced = Bytes::from_static(&[0, 0xFF, 0xFF, 0xFF, 0xFF]);
        let body = BodyExt::boxed(StreamBody::new(stream::iter([Ok(Frame::data(announced))]).chain(stream::pending())));
        let answer = wire.try_call(path, &[("x-api-key", &manager)], body).await.unwrap();
        assert_eq!((answer.code(), answer.reason().as_str()), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"), "{path}");
    }
    // Neither health nor reflection reads more.
    let question = health::HealthCheckRequest { service: "x".repeat(64 * 1024) };
    let answer = wire.call("/grpc.health.v1.Health/Check", &[], &question).await;
    assert_eq!((answer.code(), answer.reason().as_str()), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));
}

#[tokio::test]
async fn a_store_that_never_answers_ends_in_the_services_own_deadline() {
    let running = with_limits(CallLimits { deadline: SHORT, revoke_deadline: SHORT, ..CallLimits::default() }).await;
    let (manager, key) = running.manager(1);
    let wire = running.public.wire().await;
    for call in [StoreCall::FindByDigest, StoreCall::Page] {
        let held = running.store.hold(call);
        assert_deadline_exceeded(&wire.call_as(&manager, LIST, &pb::ListApiKeysRequest::default()).await);
        drop(held);
    }
    let held = running.store.hold(StoreCall::FindById);
    let revoke = pb::RevokeApiKeyRequest { id: key.id().to_string() };
    assert_deadline_exceeded(&wire.call_as(&manager, REVOKE, &revoke).await);
    drop(held);
    let _: pb::ListApiKeysResponse = wire.call_as(&manager, LIST, &pb::ListApiKeysRequest::default()).await.message();
}

#[tokio::test]
async fn revoking_has_a_limit_of_its_own() {
    let running = with_limits(CallLimits { deadline: SHORT, revoke_deadline: HOUR, ..CallLimits::default() }).await;
    let (manager, key) = running.manager(1);
    let wire = running.public.wire().await;
    let held = running.store.hold(StoreCall::FindById);
    let revoking = {
        let (wire, manager) = (wire.clone(), manager.clone());
        let revoke = pb::RevokeApiKeyRequest { id: key.id().to_string() };
        tokio::spawn(async move { wire.call_as(&manager, REVOKE, &revoke).await })
    };
    reached(&running, StoreCall::FindById, 1).await;
    // A listing that begins later meets its own, shorter limit while the revocation goes on.
    let held_page = running.store.hold(StoreCall::Page);
    assert_deadline_exceeded(&wire.call_as(&manager, LIST, &pb::ListApiKeysRequest::default()).await);
    assert!(!revoking.is_finished());
    drop((held, held_page));
    let _: pb::RevokeApiKeyResponse = revoking.await.unwrap().message();
}

#[tokio::test]
async fn a_callers_shorter_deadline_is_honoured_and_never_answered_as_cancelled() {
    let running = with_limits(CallLimits { deadline: HOUR, revoke_deadline: HOUR, ..CallLimits::default() }).await;
    let (manager, _) = running.manager(1);
    let wire = running.public.wire().await;
    let held = running.store.hold(StoreCall::Page);
    let call = async |timeout: &str| {
        let headers = [("x-api-key", manager.as_str()), ("grpc-timeout", timeout)];
        wire.call(LIST, &headers, &pb::ListApiKeysRequest::default()).await
    };
    for timeout in ["50m", "0S", "1n"] {
        assert_deadline_exceeded(&call(timeout).await);
    }
    for illegal in ["soon", "", "1"] {
        let answer = call(illegal).await;
        assert_eq!((answer.code(), answer.violated_fields()), (Code::InvalidArgument, vec!["grpc-timeout".to_owned()]));
    }
    drop(held);
    assert_eq!(call("1H").await.code(), Code::Ok);
}

#[tokio::test]
async fn a_message_that_trickles_ends_in_the_deadline() {
    let running = with_limits(CallLimits { deadline: SHORT, ..CallLimits::default() }).await;
    let (manager, _) = running.manager(1);
    let wire = running.public.wire().await;
    let begun =
        frame(&pb::CreateApiKeyRequest { name: "a".to_owned(), ..Default::default() }.encode_to_vec()).slice(..6);
    let body = BodyExt::boxed(StreamBody::new(stream::iter([Ok(Frame::data(begun))]).chain(stream::pending())));
    assert_deadline_exceeded(&wire.try_call(CREATE, &[("x-api-key", &manager)], body).await.unwrap());
}

#[tokio::test]
async fn what_is_above_the_cap_is_shed_at_once_and_health_is_not() {
    let running = with_limits(CallLimits { concurrent_calls: 1, deadline: HOUR, ..CallLimits::default() }).await;
    let (manager, _) = running.manager(1);
    let wire = running.public.wire().await;
    let list = |wire: &Wire| {
        let (wire, manager) = (wire.clone(), manager.clone());
        async move { wire.call_as(&manager, LIST, &pb::ListApiKeysRequest::default()).await }
    };
    let held = running.store.hold(StoreCall::Page);
    let first = tokio::spawn(list(&wire));
    reached(&running, StoreCall::Page, 1).await;
    let shed = list(&wire).await;
    assert_eq!((shed.code(), shed.reason().as_str()), (Code::ResourceExhausted, "OVERLOADED"));
    assert!(shed.details().retry_info().unwrap().retry_delay.unwrap() > Duration::ZERO);
    let check = wire.call("/grpc.health.v1.Health/Check", &[], &health::HealthCheckRequest::default()).await;
    assert_eq!(check.code(), Code::Ok);
    drop(held);
    assert_eq!(first.await.unwrap().code(), Code::Ok);
    assert_eq!(list(&wire).await.code(), Code::Ok);
    assert_eq!(running.store.calls(StoreCall::Page), 2, "what was shed never reached the store");
}

/// A message that never comes.
fn never() -> crate::wire::WireBody {
    BodyExt::boxed(StreamBody::new(stream::pending()))
}

#[tokio::test]
async fn nobody_holds_a_place_by_what_it_does_not_send() {
    let running = with_limits(CallLimits { concurrent_calls: 1, deadline: HOUR, ..CallLimits::default() }).await;
    let (manager, _) = running.manager(1);
    for (listener, path) in [(&running.public, LIST), (&running.verification, VERIFY)] {
        let headers = [("x-api-key", manager.as_str())];
        let wire = listener.wire().await;
        let mut held: futures_util::stream::FuturesUnordered<_> =
            (0..50).map(|_| wire.try_call(path, &headers, never())).collect();
        let others = async {
            for _ in 0..3 {
                let answer = listener.wire().await.call_as(&manager, path, &pb::ListApiKeysRequest::default()).await;
                assert_eq!(answer.code(), Code::Ok, "{path}");
            }
        };
        tokio::select! {
            answer = held.next() => panic!("{path} was answered without its message: {answer:?}"),
            () = others => {}
        }
    }
}

#[tokio::test]
async fn of_too_many_incomplete_requests_the_oldest_makes_room() {
    let running = with_limits(CallLimits { deadline: HOUR, ..CallLimits::default() }).await;
    let (manager, _) = running.manager(1);
    let first = running.public.wire().await;
    let oldest = {
        let (wire, manager) = (first.clone(), manager.clone());
        tokio::spawn(async move { wire.try_call(LIST, &[("x-api-key", manager.as_str())], never()).await })
    };
    let mut others = Vec::new();
    while !oldest.is_finished() {
        let wire = running.public.wire().await;
        for _ in 0..90 {
            let (wire, manager) = (wire.clone(), manager.clone());
            others.push(tokio::spawn(
                async move { wire.try_call(LIST, &[("x-api-key", manager.as_str())], never()).await },
            ));
        }
        // Whoever sends its message is served whatever waits.
        assert_eq!(list(&running, &manager).await, Code::Ok);
    }
    let answer = oldest.await.unwrap().unwrap();
    assert_eq!((answer.code(), answer.reason().as_str()), (Code::ResourceExhausted, "OVERLOADED"));
    assert!(others.iter().any(|other| !other.is_finished()), "the newest wait on");
}

async fn list(running: &Running, credential: &str) -> Code {
    let wire = running.public.wire().await;
    wire.call_as(credential, LIST, &pb::ListApiKeysRequest::default()).await.code()
}

#[tokio::test]
async fn an_organization_takes_half_of_the_places_and_revocations_have_their_own() {
    let running = with_limits(CallLimits { concurrent_calls: 4, deadline: HOUR, ..CallLimits::default() }).await;
    let (ours, _) = running.manager(1);
    let theirs = |seed| {
        running.key(seed, |parts| {
            parts.organization_id = apikey_domain::OrganizationId::parse("another").unwrap();
            parts.permissions = apikey_domain::pidgr::CATALOGUE.all();
        })
    };
    let (their, key) = theirs(2);
    let held = running.store.hold(StoreCall::Page);
    let mut listings = Vec::new();
    for (credential, count) in [(&ours, 2), (&their, 4)] {
        for _ in 0..2 {
            let (wire, credential) = (running.public.wire().await, credential.clone());
            listings.push(tokio::spawn(async move {
                wire.call_as(&credential, LIST, &pb::ListApiKeysRequest::default()).await.code()
            }));
        }
        reached(&running, StoreCall::Page, count).await;
        assert_eq!(list(&running, credential).await, Code::ResourceExhausted, "its half is taken");
    }
    // No place is left, but for revocations.
    let revoke = pb::RevokeApiKeyRequest { id: key.id().to_string() };
    let revoking = running.public.wire().await;
    assert_eq!(revoking.call_as(&their, REVOKE, &revoke).await.code(), Code::Ok);
    drop(held);
    for listing in listings {
        assert_eq!(listing.await.unwrap(), Code::Ok);
    }
    assert_eq!(list(&running, &ours).await, Code::Ok);
}
