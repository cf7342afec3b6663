//! `ApiKeyVerificationService`: verdicts are data, outages are errors.

use apikey_application::ports::StoreError;
use apikey_domain::pidgr;
use apikey_proto::pidgr::v1::{self as pb, verify_api_key_response::Verdict};
use apikey_testing::{StoreCall, fixtures};
use tonic::Code;

use crate::{
    service::{LISTENER_TOKEN, Running, Setup, start, start_with},
    wire::{VERIFY, Wire},
};

fn presented(raw_key: &str) -> pb::VerifyApiKeyRequest {
    pb::VerifyApiKeyRequest { raw_key: raw_key.to_owned(), ..Default::default() }
}

async fn verdict(wire: &Wire, message: &pb::VerifyApiKeyRequest) -> Verdict {
    let answer: pb::VerifyApiKeyResponse = wire.call(VERIFY, &[], message).await.message();
    answer.verdict.unwrap()
}

fn rejected(reason: pb::RejectionReason, api_key_id: &impl ToString) -> Verdict {
    Verdict::Rejected(pb::ApiKeyRejection { reason: reason.into(), api_key_id: api_key_id.to_string() })
}

#[tokio::test]
async fn a_good_key_is_valid_for_what_it_may_do() {
    let running = start().await;
    let (raw_key, key) = running.key(1, |parts| {
        parts.permissions = pidgr::CATALOGUE.iter().skip(29).cloned().collect();
        parts.expires_at = Some(fixtures::seconds_later(61));
    });
    let wire = running.verification.wire().await;
    let request = pb::VerifyApiKeyRequest { required_permissions: vec![1000, 30], strict: true, ..presented(&raw_key) };
    let expected = pb::VerifiedApiKey {
        api_key_id: key.id().to_string(),
        organization_id: "acme".to_owned(),
        permissions: vec![30, 31, 1000],
        key_type: pb::KeyType::ApiKey as i32,
        expires_at: Some(prost_types::Timestamp { seconds: 1_793_610_061, nanos: 0 }),
    };
    assert_eq!(verdict(&wire, &request).await, Verdict::Valid(expected));
    assert_eq!(running.usage.flush(&running.store).await.unwrap(), 1);

    running.clock.set(fixtures::seconds_later(61));
    assert_eq!(verdict(&wire, &request).await, rejected(pb::RejectionReason::Expired, &key.id()));
    assert_eq!(running.usage.flush(&running.store).await.unwrap(), 0);
}

#[tokio::test]
async fn each_reason_to_reject_a_key_is_told() {
    let running = start().await;
    let wire = running.verification.wire().await;
    let (raw_key, key) = running.key(1, |_| ());
    let (revoked, revoked_key) = running.key(2, |parts| parts.revoked_at = Some(parts.created_at));
    let (scim, scim_key) = running.scim_token(3);
    let unknown = fixtures::a_raw_key_with(4, |_| ()).0.expose().to_owned();
    let spaced = format!("{raw_key} ");
    for malformed in ["", "garbage", &raw_key[1..], &raw_key.to_uppercase(), &spaced] {
        let verdict = verdict(&wire, &presented(malformed)).await;
        assert_eq!(verdict, rejected(pb::RejectionReason::Malformed, &""), "{malformed:?}");
    }
    assert_eq!(verdict(&wire, &presented(&unknown)).await, rejected(pb::RejectionReason::Unknown, &""));
    let of_revoked = verdict(&wire, &presented(&revoked)).await;
    assert_eq!(of_revoked, rejected(pb::RejectionReason::Revoked, &revoked_key.id()));
    let of_scim = verdict(&wire, &presented(&scim)).await;
    assert_eq!(of_scim, rejected(pb::RejectionReason::KeyTypeNotAccepted, &scim_key.id()));
    let missing = pb::VerifyApiKeyRequest { required_permissions: vec![6, 1000], ..presented(&raw_key) };
    assert_eq!(verdict(&wire, &missing).await, rejected(pb::RejectionReason::PermissionMissing, &key.id()));

    let asked_for = pb::VerifyApiKeyRequest { key_types: vec![2], ..presented(&scim) };
    assert!(matches!(verdict(&wire, &asked_for).await, Verdict::Valid(_)));
}

#[tokio::test]
async fn a_question_that_cannot_be_read_is_an_error_and_no_verdict() {
    let running = start().await;
    let wire = running.verification.wire().await;
    let request =
        pb::VerifyApiKeyRequest { required_permissions: vec![0, 6], key_types: vec![1, 7], ..presented("garbage") };
    let answer = wire.call(VERIFY, &[], &request).await;
    assert_eq!(answer.code(), Code::InvalidArgument);
    assert_eq!(answer.violated_fields(), ["required_permissions[0]", "key_types[1]"]);
}

#[tokio::test]
async fn an_outage_is_an_error_and_no_verdict() {
    let running = start().await;
    let wire = running.verification.wire().await;
    let (raw_key, _) = running.key(1, |_| ());
    for (error, code, reason) in [
        (StoreError::Unavailable("down".into()), Code::Unavailable, "STORE_UNAVAILABLE"),
        (StoreError::TimedOut, Code::DeadlineExceeded, "STORE_TIMED_OUT"),
        (StoreError::Overloaded, Code::ResourceExhausted, "OVERLOADED"),
        (StoreError::Defect("x".into()), Code::Internal, "INTERNAL"),
    ] {
        let retryable = error.is_retryable();
        running.store.fail_next(StoreCall::FindByDigest, error);
        let answer = wire.call(VERIFY, &[], &presented(&raw_key)).await;
        assert_eq!((answer.code(), answer.reason().as_str()), (code, reason));
        assert_eq!(answer.details().retry_info().is_some(), retryable);
    }
    // Nothing of it stays.
    assert!(matches!(verdict(&wire, &presented(&raw_key)).await, Verdict::Valid(_)));
}

async fn with_token() -> Running {
    start_with(Setup { listener_token: true, ..Setup::default() }).await
}

#[tokio::test]
async fn a_listener_with_a_token_wants_exactly_that_token() {
    let running = with_token().await;
    let wire = running.verification.wire().await;
    let (manager, _) = running.manager(1);
    let right = format!("Bearer {LISTENER_TOKEN}");
    let of_a_manager = format!("Bearer {manager}");
    let cut = right[..right.len() - 1].to_owned();
    let longer = format!("{right}x");
    let spaced = format!("{right} ");
    let question = presented(&manager);
    for headers in [
        &[][..],
        &[("authorization", "")],
        &[("authorization", "Bearer ")],
        &[("authorization", cut.as_str())],
        &[("authorization", longer.as_str())],
        &[("authorization", spaced.as_str())],
        &[("authorization", of_a_manager.as_str())],
        &[("authorization", LISTENER_TOKEN)],
        &[("x-api-key", LISTENER_TOKEN)],
        &[("x-api-key", manager.as_str())],
        &[("authorization", right.as_str()), ("authorization", right.as_str())],
        &[("authorization", right.as_str()), ("x-api-key", manager.as_str())],
    ] {
        let answer = wire.call(VERIFY, headers, &question).await;
        assert_eq!(
            (answer.code(), answer.reason().as_str()),
            (Code::Unauthenticated, "UNAUTHENTICATED"),
            "{headers:?}"
        );
    }
    assert_eq!(running.store.calls(StoreCall::FindByDigest), 0);
    let answer = wire.call(VERIFY, &[("authorization", &right)], &question).await;
    let _: pb::VerifyApiKeyResponse = answer.message();
}
