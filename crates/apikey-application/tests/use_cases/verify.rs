//! Verifying keys, and authenticating callers by them.

use apikey_application::{AuthenticationError, Credential, ErrorKind, IssueRequest, Verification, VerificationRequest};
use apikey_domain::{Actor, KeyType, KeyTypes, RejectionReason, pidgr};
use apikey_testing::{
    StoreCall,
    fixtures::{a_raw_key_with, permissions, seconds_later},
};

use crate::house::{House, a_house, a_manager, a_request, an_outage, presented};

async fn rejection(house: &House, request: VerificationRequest<'_>) -> RejectionReason {
    match house.verify.verify(request).await.unwrap() {
        Verification::Rejected { reason, .. } => reason,
        Verification::Valid(key) => panic!("accepted: {key:?}"),
    }
}

#[tokio::test]
async fn a_valid_key_tells_who_it_is() {
    let house = a_house();
    let issued = house.issued().await;
    match house.verify.verify(presented(issued.raw_key.expose())).await.unwrap() {
        Verification::Valid(key) => {
            let parts = issued.key.parts();
            assert_eq!((key.id(), key.key_type(), key.expires_at()), (parts.id, parts.key_type, parts.expires_at));
            assert_eq!((key.organization_id(), key.permissions()), (&parts.organization_id, &parts.permissions));
        }
        rejected @ Verification::Rejected { .. } => panic!("{rejected:?}"),
    }
}

#[tokio::test]
async fn garbage_ends_before_the_store() {
    let house = a_house();
    for garbage in ["", "pidgr_k_", "pidgr_k_Ab3dE6gH0123456789ABCDEFGHIJKLMNOPQRSTUV3z4Fwl", &"x".repeat(100_000)] {
        assert_eq!(rejection(&house, presented(garbage)).await, RejectionReason::Malformed);
    }
    assert_eq!(house.store.calls(StoreCall::FindByDigest), 0);
}

#[tokio::test]
async fn each_reason_is_given_in_its_order() {
    let house = a_house();
    let (raw_key, key) = a_raw_key_with(1, |parts| parts.expires_at = Some(seconds_later(10)));
    let demanding = || VerificationRequest {
        required_permissions: permissions(["PERMISSION_ORG_WRITE"]),
        key_types: KeyTypes::only(KeyType::ScimToken),
        ..presented(raw_key.expose())
    };
    assert_eq!(rejection(&house, demanding()).await, RejectionReason::Unknown);
    house.store.put(key.clone());
    assert_eq!(rejection(&house, demanding()).await, RejectionReason::KeyTypeNotAccepted);
    let lacking = VerificationRequest { key_types: KeyTypes::default(), ..demanding() };
    assert_eq!(rejection(&house, lacking).await, RejectionReason::PermissionMissing);
    house.clock.set(seconds_later(10));
    assert_eq!(rejection(&house, demanding()).await, RejectionReason::Expired);
    house.revoke.revoke(&a_manager(), Ok(key.id())).await.unwrap();
    assert_eq!(rejection(&house, demanding()).await, RejectionReason::Revoked);
}

#[tokio::test]
async fn an_outage_is_never_a_verdict() {
    let house = a_house();
    let issued = house.issued().await;
    house.store.fail_next(StoreCall::FindByDigest, an_outage());
    let error = house.verify.verify(presented(issued.raw_key.expose())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    house.store.fail_next(StoreCall::FindByDigest, an_outage());
    let error = house.authenticate.authenticate(Credential::ApiKey(issued.raw_key.expose()), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_key_authenticates_in_either_header_until_it_is_revoked() {
    let house = a_house();
    let issued = house.issued().await;
    let raw_key = issued.raw_key.expose();
    for credential in [Credential::ApiKey(raw_key), Credential::Bearer(raw_key)] {
        let principal = house.authenticate.authenticate(credential, None).await.unwrap();
        assert_eq!(principal.organization_id, *issued.key.organization_id());
        assert_eq!(principal.permissions, *issued.key.permissions());
        assert_eq!(principal.actor, Actor::api_key(issued.key.id()));
    }
    house.revoke.revoke(&a_manager(), Ok(issued.key.id())).await.unwrap();
    for credential in [Credential::ApiKey(raw_key), Credential::Bearer(raw_key)] {
        let error = house.authenticate.authenticate(credential, None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    }
}

#[tokio::test]
async fn a_scim_token_passes_only_where_it_was_asked_for_and_authenticates_nobody() {
    let house = a_house();
    let request = IssueRequest { key_type: KeyType::ScimToken, ..a_request() };
    let issued = house.issue.issue(&a_manager(), Ok(request)).await.ok().unwrap();
    let raw_key = issued.raw_key.expose();
    assert!(raw_key.starts_with(pidgr::KEY_FORMAT.brand(KeyType::ScimToken)));
    assert_eq!(rejection(&house, presented(raw_key)).await, RejectionReason::KeyTypeNotAccepted);
    let both = KeyTypes::default().and(KeyType::ScimToken);
    let asked = VerificationRequest { key_types: both, ..presented(raw_key) };
    assert!(matches!(house.verify.verify(asked).await.unwrap(), Verification::Valid(_)));
    for credential in [Credential::ApiKey(raw_key), Credential::Bearer(raw_key)] {
        let error = house.authenticate.authenticate(credential, None).await.unwrap_err();
        assert!(matches!(error, AuthenticationError::Rejected { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn tokens_are_left_to_the_issuer_of_tokens() {
    let house = a_house();
    let kind = async |token| {
        house.authenticate.authenticate(Credential::Bearer(token), None).await.map_err(|error| error.kind())
    };
    assert_eq!(kind("good").await, Ok(a_manager().principal));
    assert_eq!(kind("bad").await, Err(ErrorKind::Unauthenticated));
    assert_eq!(kind("unknowable").await, Err(ErrorKind::Unavailable));
    let as_key = house.authenticate.authenticate(Credential::ApiKey("good"), None).await.unwrap_err();
    assert_eq!(as_key.kind(), ErrorKind::Unauthenticated, "a token is no key");
}
