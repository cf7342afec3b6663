//! Our own client against the real service.

use std::time::Duration;

use apikey_application::ports::StoreError;
use apikey_domain::{KeyType, RejectionReason};
use apikey_grpc::client::{
    ClientError, Code, ListQuery, ManagementClient, NewApiKey, ServiceAddress, VerificationClient, VerifyAnswer,
    VerifyQuery,
};
use apikey_testing::{StoreCall, fixtures};

use crate::service::{LISTENER_TOKEN, Setup, start, start_with};

/// Longer than any test takes.
const TIMEOUT: Duration = Duration::from_mins(10);

fn named(name: &str) -> NewApiKey {
    NewApiKey { name: name.to_owned(), ..NewApiKey::default() }
}

#[tokio::test]
async fn create_list_verify_revoke() {
    let running = start_with(Setup { listener_token: true, ..Setup::default() }).await;
    let (manager, _) = running.manager(1);
    let mut management = ManagementClient::connect(&running.public.address(), &manager, TIMEOUT).await.unwrap();
    let mut verification =
        VerificationClient::connect(&running.verification.address(), Some(LISTENER_TOKEN), TIMEOUT).await.unwrap();
    let new = NewApiKey {
        permissions: vec!["CAMPAIGNS_READ".to_owned(), "PERMISSION_ORG_READ".to_owned()],
        expires_at: Some(fixtures::seconds_later(3_600)),
        key_type: Some(KeyType::ApiKey),
        ..named("CI Integration")
    };
    let created = management.create(new, "once").await.unwrap();
    assert_eq!(created.key.permissions, ["PERMISSION_ORG_READ", "PERMISSION_CAMPAIGNS_READ"]);
    assert_eq!(created.key.created_at, fixtures::seconds_later(60));
    assert_eq!(created.key.expires_at, Some(fixtures::seconds_later(3_600)));

    let page = management.list(ListQuery { page_size: 1, ..ListQuery::default() }).await.unwrap();
    assert_eq!((page.keys.as_slice(), page.total_count), (&[created.key.clone()][..], 2));
    let page_token = page.next_page_token.unwrap();
    let page = management.list(ListQuery { page_size: 1, page_token, ..ListQuery::default() }).await.unwrap();
    assert_eq!((page.keys.len(), page.next_page_token), (1, None));

    let required = ["ORG_READ".to_owned()];
    let query = VerifyQuery { raw_key: &created.raw_key, required_permissions: &required, ..VerifyQuery::default() };
    let VerifyAnswer::Valid { api_key_id, organization_id, .. } = verification.verify(query).await.unwrap() else {
        panic!("the key is good");
    };
    assert_eq!((api_key_id.as_str(), organization_id.as_str()), (created.key.id.as_str(), "acme"));

    management.revoke(&created.key.id).await.unwrap();
    let rejected =
        VerifyAnswer::Rejected { reason: RejectionReason::Revoked, api_key_id: Some(created.key.id.clone()) };
    assert_eq!(verification.verify(query).await.unwrap(), rejected);
    let nothing = VerifyQuery { raw_key: "garbage", key_types: &[KeyType::ScimToken], ..VerifyQuery::default() };
    let malformed = VerifyAnswer::Rejected { reason: RejectionReason::Malformed, api_key_id: None };
    assert_eq!(verification.verify(nothing).await.unwrap(), malformed);
}

#[tokio::test]
async fn what_the_service_refuses_is_told_in_full() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let (reader, _) = running.key(2, |_| ());
    let address = running.public.address();
    let mut management = ManagementClient::connect(&address, &manager, TIMEOUT).await.unwrap();
    let first = management.create(named("a"), "once").await.unwrap();

    let repeated = management.create(named("a"), "once").await.err().unwrap();
    assert!(!repeated.may_have_happened());
    let refusal = repeated.refusal().unwrap();
    assert_eq!((refusal.code, refusal.reason.as_deref()), (Code::AlreadyExists, Some("API_KEY_ALREADY_ISSUED")));
    assert_eq!(refusal.resource_name.as_deref(), Some(first.key.id.as_str()));

    let refused = management.create(named(""), "twice").await.err().unwrap();
    let refusal = refused.refusal().unwrap();
    assert_eq!((refusal.code, refusal.field_violations[0].field.as_str()), (Code::InvalidArgument, "name"));
    assert!(refusal.request_id.as_ref().is_some_and(|id| !id.is_empty()));
    assert!(refused.to_string().starts_with("INVALID_ARGUMENT: "), "{refused}");

    running.store.fail_next(StoreCall::Commit, StoreError::OutcomeUnknown("gone".into()));
    let lost = management.create(named("b"), "lost").await.err().unwrap();
    assert!(lost.may_have_happened() && lost.refusal().unwrap().retry_delay.is_some());

    let mut reading = ManagementClient::connect(&address, &reader, TIMEOUT).await.unwrap();
    let denied = reading.list(ListQuery::default()).await.unwrap_err();
    assert_eq!(denied.refusal().unwrap().missing_permissions, ["PERMISSION_MANAGE_API_KEYS"]);
}

#[tokio::test]
async fn what_cannot_be_sent_or_reached_is_told_without_the_credential() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let address = running.public.address();
    for illegal in ["", "a b", "a\nb", "ü"] {
        let error = ManagementClient::connect(&address, illegal, TIMEOUT).await.err().unwrap();
        assert!(matches!(error, ClientError::InvalidCredential));
    }
    let mut management = ManagementClient::connect(&address, &manager, TIMEOUT).await.unwrap();
    let unknown = NewApiKey { permissions: vec!["NOTHING".to_owned()], ..named("a") };
    assert!(matches!(management.create(unknown, "k").await, Err(ClientError::UnknownPermission(_))));
    assert!(matches!(management.create(named("a"), "\n").await, Err(ClientError::InvalidIdempotencyKey)));

    // A port on which nobody listens: one that was just given back.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = format!("http://{free}").parse().unwrap();
    let error = ManagementClient::connect(&nobody, &manager, TIMEOUT).await.err().unwrap();
    assert!(matches!(error, ClientError::Unreachable(_)), "{error:?}");
    assert!(!format!("{error:?}").contains(&manager));
}

#[tokio::test]
async fn a_connection_that_breaks_leaves_the_outcome_open() {
    let mut running = start_with(Setup {
        connections: apikey_grpc::listener::ConnectionLimits {
            drain: std::time::Duration::from_millis(20),
            ..Default::default()
        },
        ..Setup::default()
    })
    .await;
    let (manager, _) = running.manager(1);
    let mut management = ManagementClient::connect(&running.public.address(), &manager, TIMEOUT).await.unwrap();
    let held = running.store.hold(StoreCall::Commit);
    let creating = tokio::spawn(async move { management.create(named("a"), "once").await.err().unwrap() });
    while running.store.calls(StoreCall::Commit) == 0 {
        tokio::task::yield_now().await;
    }
    running.public.shut_down();
    let error = creating.await.unwrap();
    assert!(matches!(error, ClientError::Unreachable(_)) && error.may_have_happened(), "{error:?}");
    drop(held);
}

/// A peer that accepts connections and says nothing.
fn silent(scheme: &str) -> (std::net::TcpListener, ServiceAddress) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("{scheme}://{}", listener.local_addr().unwrap()).parse().unwrap();
    (listener, address)
}

#[tokio::test]
async fn one_deadline_covers_the_connection_and_the_answer() {
    const SHORT: Duration = Duration::from_millis(50);
    let (_listener, address) = silent("https");
    let error = ManagementClient::connect(&address, "key", SHORT).await.err().unwrap();
    assert!(matches!(error, ClientError::NotConnected(SHORT)) && !error.may_have_happened(), "{error:?}");

    let (_listener, address) = silent("http");
    let mut management = ManagementClient::connect(&address, "key", SHORT).await.unwrap();
    for _ in 0..2 {
        let error = management.create(named("a"), "once").await.err().unwrap();
        assert!(matches!(error, ClientError::TimedOut(SHORT)) && error.may_have_happened(), "{error:?}");
    }
}
