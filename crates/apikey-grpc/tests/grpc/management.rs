//! `ApiKeyService` as its reference says, and what a caller sees of it.

use apikey_domain::{Actor, KeyEventKind, Principal, pidgr};
use apikey_proto::pidgr::v1 as pb;
use apikey_testing::{StoreCall, fixtures};
use prost_types::Timestamp;
use tonic::Code;

use crate::{
    service::{Setup, Tokens, start, start_with},
    wire::{Answer, CREATE, LIST, REVOKE, Wire},
};

fn named(name: &str) -> pb::CreateApiKeyRequest {
    pb::CreateApiKeyRequest { name: name.to_owned(), ..Default::default() }
}

async fn create(wire: &Wire, credential: &str, message: &pb::CreateApiKeyRequest) -> pb::CreateApiKeyResponse {
    wire.call_as(credential, CREATE, message).await.message()
}

async fn list(wire: &Wire, credential: &str, message: &pb::ListApiKeysRequest) -> pb::ListApiKeysResponse {
    wire.call_as(credential, LIST, message).await.message()
}

fn revoke(id: &impl ToString) -> pb::RevokeApiKeyRequest {
    pb::RevokeApiKeyRequest { id: id.to_string() }
}

#[tokio::test]
async fn a_key_is_created_listed_used_and_revoked() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let wire = running.public.wire().await;

    let request = pb::CreateApiKeyRequest {
        name: " CI Integration ".to_owned(),
        permissions: vec![1000, 6, 6],
        expires_at: Some(Timestamp { seconds: 4_000_000_000, nanos: 1_999 }),
        key_type: 0,
    };
    let created = create(&wire, &manager, &request).await;
    let key = created.api_key.unwrap();
    assert_eq!(key.name, " CI Integration ");
    assert_eq!(key.permissions, [6, 1000]);
    assert_eq!(key.expires_at, Some(Timestamp { seconds: 4_000_000_000, nanos: 1_000 }));
    assert_eq!(key.key_type, pb::KeyType::ApiKey as i32);
    assert_eq!(key.created_at, Some(Timestamp { seconds: 1_793_610_060, nanos: 0 }));
    assert_eq!((key.last_used_at, key.revoked_at), (None, None));
    assert!(created.raw_key.starts_with(&key.prefix) && key.prefix.len() == 16);

    let listing = list(&wire, &created.raw_key, &pb::ListApiKeysRequest::default()).await;
    assert_eq!(listing.api_keys[0], key);
    assert_eq!(listing.pagination.unwrap(), pb::PaginationMeta { next_page_token: String::new(), total_count: 2 });

    let _: pb::RevokeApiKeyResponse = wire.call_as(&manager, REVOKE, &revoke(&key.id)).await.message();
    let refused = wire.call_as(&created.raw_key, LIST, &pb::ListApiKeysRequest::default()).await;
    assert_eq!(refused.code(), Code::Unauthenticated);
    let listing = list(&wire, &manager, &pb::ListApiKeysRequest::default()).await;
    assert_eq!(listing.api_keys[0].revoked_at, Some(Timestamp { seconds: 1_793_610_060, nanos: 0 }));
}

#[tokio::test]
async fn pages_follow_each_other_and_types_are_filtered() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    running.scim_token(2);
    for seed in 3..6 {
        running.key(seed, |_| ());
    }
    let wire = running.public.wire().await;
    let mut seen = Vec::new();
    let mut page_token = String::new();
    loop {
        let pagination = Some(pb::Pagination { page_size: 2, page_token });
        let page = list(&wire, &manager, &pb::ListApiKeysRequest { key_type: 0, pagination }).await;
        assert!(page.api_keys.len() <= 2);
        seen.extend(page.api_keys.into_iter().map(|key| key.id));
        let meta = page.pagination.unwrap();
        assert_eq!(meta.total_count, 5);
        page_token = meta.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let mut expected: Vec<_> = running.store.keys().iter().map(|key| key.id().to_string()).collect();
    expected.reverse();
    assert_eq!(seen, expected);

    let scim = pb::ListApiKeysRequest { key_type: pb::KeyType::ScimToken as i32, pagination: None };
    let page = list(&wire, &manager, &scim).await;
    assert_eq!(page.pagination.unwrap().total_count, 1);
    assert_eq!(page.api_keys[0].key_type, pb::KeyType::ScimToken as i32);
    assert!(page.api_keys[0].prefix.starts_with("pidgr_scim_"));
}

#[tokio::test]
async fn more_keys_than_the_protocol_can_count_are_told_as_the_most_that_it_can() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let wire = running.public.wire().await;
    for (stored, told) in [(2_147_483_647, i32::MAX), (2_147_483_648, i32::MAX), (4_294_967_297, i32::MAX), (0, 0)] {
        running.store.tell_total_count(stored);
        let page = list(&wire, &manager, &pb::ListApiKeysRequest::default()).await;
        assert_eq!(page.pagination.unwrap().total_count, told, "{stored}");
    }
}

#[tokio::test]
async fn an_idempotency_key_carries_a_request_out_once() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let wire = running.public.wire().await;
    let headers = [("x-api-key", manager.as_str()), ("idempotency-key", "once")];
    let first: pb::CreateApiKeyResponse = wire.call(CREATE, &headers, &named("a")).await.message();

    let repeated = wire.call(CREATE, &headers, &named("a")).await;
    assert_eq!((repeated.code(), repeated.reason().as_str()), (Code::AlreadyExists, "API_KEY_ALREADY_ISSUED"));
    let details = repeated.details();
    let resource = details.resource_info().unwrap();
    assert_eq!(resource.resource_type, "pidgr.v1.ApiKey");
    assert_eq!(resource.resource_name, first.api_key.unwrap().id);

    let other = wire.call(CREATE, &headers, &named("b")).await;
    assert_eq!((other.code(), other.violated_fields()), (Code::InvalidArgument, vec!["idempotency-key".to_owned()]));
    assert_eq!(running.store.keys().len(), 2);
}

#[tokio::test]
async fn an_idempotency_key_that_is_illegal_or_sent_twice_is_named() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let wire = running.public.wire().await;
    let before = running.state();
    let too_long = "x".repeat(256);
    for values in [&["a", "a"][..], &[""], &["a b"], &["é"], &[&too_long]] {
        let mut headers = vec![("x-api-key", manager.as_str())];
        headers.extend(values.iter().map(|value| ("idempotency-key", *value)));
        let answer = wire.call(CREATE, &headers, &named("a")).await;
        assert_eq!(answer.code(), Code::InvalidArgument, "{values:?}");
        assert_eq!(answer.violated_fields(), ["idempotency-key"], "{values:?}");
    }
    assert_eq!(running.state(), before);
}

#[tokio::test]
async fn every_wrong_field_is_named() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let wire = running.public.wire().await;
    let before = running.state();
    let refused = |answer: Answer| {
        assert_eq!((answer.code(), answer.reason().as_str()), (Code::InvalidArgument, "INVALID_FIELDS"));
        answer.violated_fields()
    };
    let request = pb::CreateApiKeyRequest {
        name: "\u{202E}".to_owned(),
        permissions: vec![1000, 0, 77],
        expires_at: Some(Timestamp { seconds: i64::MAX, nanos: 0 }),
        key_type: 9,
    };
    let fields = refused(wire.call_as(&manager, CREATE, &request).await);
    assert_eq!(fields, ["name", "permissions[1]", "permissions[2]", "expires_at", "key_type"]);

    let past = pb::CreateApiKeyRequest { expires_at: Some(Timestamp { seconds: 1, nanos: 0 }), ..named("a") };
    assert_eq!(refused(wire.call_as(&manager, CREATE, &past).await), ["expires_at"]);
    let past_and_nameless = pb::CreateApiKeyRequest { name: String::new(), ..past };
    assert_eq!(refused(wire.call_as(&manager, CREATE, &past_and_nameless).await), ["name", "expires_at"]);

    let pagination = Some(pb::Pagination { page_size: -1, page_token: "x".to_owned() });
    let listing = pb::ListApiKeysRequest { key_type: 0, pagination };
    let fields = refused(wire.call_as(&manager, LIST, &listing).await);
    assert_eq!(fields, ["pagination.page_size", "pagination.page_token"]);
    let listing = pb::ListApiKeysRequest { key_type: 3, pagination: None };
    assert_eq!(refused(wire.call_as(&manager, LIST, &listing).await), ["key_type"]);
    let pagination = Some(pb::Pagination { page_size: -1, page_token: String::new() });
    let listing = pb::ListApiKeysRequest { key_type: 3, pagination };
    assert_eq!(refused(wire.call_as(&manager, LIST, &listing).await), ["key_type", "pagination.page_size"]);

    for id in ["", "0198c5f07a3b7cde8f0123456789abcd"] {
        assert_eq!(refused(wire.call_as(&manager, REVOKE, &revoke(&id)).await), ["id"]);
    }
    assert_eq!(running.state(), before);
}

#[tokio::test]
async fn a_caller_without_the_permission_does_not_learn_which_field_is_wrong() {
    let running = start().await;
    let (reader, _) = running.key(1, |_| ());
    let wire = running.public.wire().await;
    for answer in [
        wire.call_as(&reader, CREATE, &named("")).await,
        wire.call_as(&reader, LIST, &pb::ListApiKeysRequest { key_type: 9, pagination: None }).await,
        wire.call_as(&reader, REVOKE, &revoke(&"")).await,
    ] {
        assert_eq!((answer.code(), answer.reason().as_str()), (Code::PermissionDenied, "PERMISSION_MISSING"));
        let details = answer.details();
        let missing = &details.error_info().unwrap().metadata["missing_permissions"];
        assert_eq!(missing, "PERMISSION_MANAGE_API_KEYS");
    }
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_hold() {
    let running = start().await;
    let (manager, _) = running.key(1, |parts| parts.permissions = [pidgr::MANAGE_API_KEYS].into_iter().collect());
    let wire = running.public.wire().await;
    let before = running.state();
    let request = pb::CreateApiKeyRequest { permissions: vec![31, 1000, 2], ..named("a") };
    let answer = wire.call_as(&manager, CREATE, &request).await;
    assert_eq!(answer.code(), Code::PermissionDenied);
    let details = answer.details();
    let missing = &details.error_info().unwrap().metadata["missing_permissions"];
    assert_eq!(missing, "PERMISSION_ORG_WRITE,PERMISSION_PLATFORM_INCIDENTS");
    assert_eq!(running.state(), before);
}

#[tokio::test]
async fn an_id_that_does_not_exist_and_one_of_another_organization_are_answered_in_the_same_bytes() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let (_, foreign) = running.key(2, |parts| parts.organization_id = fixtures::another_organization());
    let wire = running.public.wire().await;
    let answered = async |id: String| {
        let headers = [("x-api-key", manager.as_str()), ("x-request-id", "the-same")];
        let mut answer = wire.call(REVOKE, &headers, &revoke(&id)).await;
        assert_eq!((answer.code(), answer.reason().as_str()), (Code::NotFound, "API_KEY_NOT_FOUND"));
        answer.headers.remove("date");
        (answer.http, answer.headers, answer.body, answer.trailers)
    };
    let nonexistent = answered("0198c5f0-7a3b-7cde-8f01-23456789abcd".to_owned()).await;
    assert_eq!(nonexistent, answered(foreign.id().to_string()).await);
    assert_eq!(running.store.keys().iter().filter(|key| key.parts().revoked_at.is_some()).count(), 0);
}

#[tokio::test]
async fn revoking_again_keeps_the_first_instant() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let (_, key) = running.key(2, |_| ());
    let wire = running.public.wire().await;
    let _: pb::RevokeApiKeyResponse = wire.call_as(&manager, REVOKE, &revoke(&key.id())).await.message();
    let after_the_first = running.state();
    running.clock.advance(std::time::Duration::from_secs(5));
    let upper_case = key.id().to_string().to_uppercase();
    let _: pb::RevokeApiKeyResponse = wire.call_as(&manager, REVOKE, &revoke(&upper_case)).await.message();
    assert_eq!(running.state(), after_the_first);
}

#[tokio::test]
async fn a_key_revokes_itself_and_is_unauthenticated_from_then_on() {
    let running = start().await;
    let (manager, key) = running.manager(1);
    let wire = running.public.wire().await;
    let _: pb::RevokeApiKeyResponse = wire.call_as(&manager, REVOKE, &revoke(&key.id())).await.message();
    let retried = wire.call_as(&manager, REVOKE, &revoke(&key.id())).await;
    assert_eq!((retried.code(), retried.reason().as_str()), (Code::Unauthenticated, "UNAUTHENTICATED"));
}

#[tokio::test]
async fn nothing_commits_in_the_name_of_a_key_that_was_revoked_meanwhile() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let (leaked, leaked_key) = running.manager(2);
    let wire = running.public.wire().await;
    let held = running.store.hold(StoreCall::Commit);
    let (wire_of_leaked, arrived) = (wire.clone(), running.store.calls(StoreCall::Commit));
    let creating = tokio::spawn(async move { wire_of_leaked.call_as(&leaked, CREATE, &named("late")).await });
    while running.store.calls(StoreCall::Commit) == arrived {
        tokio::task::yield_now().await;
    }
    let mut revoked = running.store.keys().into_iter().find(|key| key.id() == leaked_key.id()).unwrap();
    revoked.revoke(fixtures::seconds_later(60)).unwrap();
    running.store.put(revoked);
    drop(held);
    let answer = creating.await.unwrap();
    assert_eq!(answer.code(), Code::Unauthenticated);
    // In the same words as for a key that never existed.
    let unknown = wire.call_as("nobody", LIST, &pb::ListApiKeysRequest::default()).await;
    assert_eq!(answer.status().message(), unknown.status().message());
    let listing = list(&wire, &manager, &pb::ListApiKeysRequest::default()).await;
    assert!(listing.api_keys.iter().all(|key| key.name != "late"));
}

#[tokio::test]
async fn a_token_of_the_issuer_calls_as_its_subject_and_the_audit_says_from_where() {
    let principal = Principal {
        organization_id: fixtures::an_organization(),
        permissions: pidgr::CATALOGUE.all(),
        actor: fixtures::a_person("ada"),
    };
    let setup = Setup { tokens: Tokens::Known("header.claims.signature", principal), ..Setup::default() };
    let running = start_with(setup).await;
    let wire = running.public.wire().await;
    let headers = [("authorization", "Bearer header.claims.signature"), ("x-request-id", "request-7")];
    let answer = wire.call(CREATE, &headers, &named("by a person")).await;
    let created: pb::CreateApiKeyResponse = answer.message();
    assert_eq!(answer.request_id(), "request-7");

    let events = running.store.audit();
    let [event] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(event.event.kind, KeyEventKind::Issued);
    assert_eq!(event.event.key_id.to_string(), created.api_key.unwrap().id);
    assert_eq!(event.actor, fixtures::a_person("ada"));
    assert_ne!(event.actor, Actor::operator());
    assert_eq!(event.origin.address, Some(wire.local.to_string()));
    assert_eq!(event.origin.request_id.as_deref(), Some("request-7"));
}
