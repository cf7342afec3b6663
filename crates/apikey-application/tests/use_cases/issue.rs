//! Issuing keys.

use apikey_application::{
    ErrorKind, FieldViolation, IdempotencyKey, InvalidIssueRequest, IssueError, IssueRequest, Verification,
    ports::StoreError,
};
use apikey_domain::{Actor, KeyEventKind, Permission, PermissionSet, Timestamp};
use apikey_testing::{
    StoreCall,
    fixtures::{a_caller_with, a_person, an_instant, permissions, seconds_later},
};

use crate::house::{a_house, a_manager, a_request, a_visitor, an_outage, presented};

fn once(header: &str) -> IssueRequest {
    IssueRequest { idempotency_key: Some(IdempotencyKey::parse(header).unwrap()), ..a_request() }
}

fn violations(error: Option<IssueError>) -> Vec<FieldViolation> {
    match error {
        Some(IssueError::InvalidFields(violations)) => violations,
        other => panic!("not about fields: {other:?}"),
    }
}

#[tokio::test]
async fn an_issued_key_is_stored_as_its_digest_with_one_event() {
    let house = a_house();
    let issued = house.issued().await;
    let parts = issued.key.parts();
    assert_eq!(parts.digest, *issued.raw_key.digest());
    assert_eq!(parts.organization_id, a_manager().principal.organization_id);
    assert_eq!((parts.created_at, parts.revoked_at, parts.last_used_at), (an_instant(), None, None));
    assert_eq!(house.store.keys(), std::slice::from_ref(&issued.key));
    let [event] = &house.store.audit()[..] else { panic!("one event: {:?}", house.store.audit()) };
    assert_eq!((event.event.key_id, event.event.kind), (issued.key.id(), KeyEventKind::Issued));
    assert_eq!((&event.actor, &event.origin), (&a_manager().principal.actor, &a_manager().origin));
}

#[tokio::test]
async fn who_may_not_manage_keys_learns_only_that() {
    let house = a_house();
    let fields = vec![FieldViolation::new("name", "must not be blank")];
    let wrong_fields = Err(InvalidIssueRequest { fields, expires_at: None });
    let error = house.issue.issue(&a_visitor(), wrong_fields).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert_eq!(error.to_string(), "missing permissions: PERMISSION_MANAGE_API_KEYS");
    assert!(house.store.keys().is_empty());
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_hold() {
    let house = a_house();
    let request =
        IssueRequest { permissions: permissions(["PERMISSION_CAMPAIGNS_READ", "PERMISSION_ORG_WRITE"]), ..a_request() };
    let error = house.issue.issue(&a_manager(), Ok(request)).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert_eq!(error.to_string(), "missing permissions: PERMISSION_ORG_WRITE");
    assert!(house.store.keys().is_empty());
}

#[tokio::test]
async fn a_permission_outside_the_catalogue_is_refused_even_to_those_who_hold_it() {
    let house = a_house();
    let held = permissions(["PERMISSION_MANAGE_API_KEYS", "SOMETHING_ELSE"]);
    let request = IssueRequest {
        permissions: PermissionSet::from_iter([Permission::parse("SOMETHING_ELSE").unwrap()]),
        ..a_request()
    };
    let outcome = house.issue.issue(&a_caller_with(a_person("x"), held), Ok(request)).await;
    assert_eq!(violations(outcome.err()), [FieldViolation::new("permissions", "SOMETHING_ELSE is not a permission")]);
}

#[tokio::test]
async fn an_expiry_must_lie_in_the_future() {
    let house = a_house();
    let request = IssueRequest { expires_at: Some(an_instant()), ..a_request() };
    let outcome = house.issue.issue(&a_manager(), Ok(request)).await;
    assert_eq!(violations(outcome.err()), [FieldViolation::new("expires_at", "must lie in the future")]);
}

#[tokio::test]
async fn a_request_is_carried_out_at_most_once_per_header_organization_and_caller() {
    let house = a_house();
    let first = house.issue.issue(&a_manager(), Ok(once("one"))).await.ok().unwrap();
    let again = house.issue.issue(&a_manager(), Ok(once("one"))).await.err().unwrap();
    assert!(matches!(again, IssueError::AlreadyIssued { key_id } if key_id == first.key.id()), "{again:?}");
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);

    let changed = IssueRequest { permissions: PermissionSet::empty(), ..once("one") };
    let outcome = house.issue.issue(&a_manager(), Ok(changed)).await;
    assert_eq!(violations(outcome.err())[0].field, "idempotency-key");

    let colleague = a_caller_with(a_person("colleague"), a_manager().principal.permissions);
    assert!(house.issue.issue(&colleague, Ok(once("one"))).await.is_ok());
    assert!(house.issue.issue(&a_manager(), Ok(once("two"))).await.is_ok());
    assert_eq!(house.store.keys().len(), 3);
}

#[tokio::test]
async fn a_retry_after_the_keys_expiry_is_a_repetition_all_the_same() {
    let house = a_house();
    let request = || IssueRequest { expires_at: Some(seconds_later(60)), ..once("one") };
    let first = house.issue.issue(&a_manager(), Ok(request())).await.ok().unwrap();
    house.clock.set(seconds_later(61));
    let again = house.issue.issue(&a_manager(), Ok(request())).await.err().unwrap();
    assert!(matches!(again, IssueError::AlreadyIssued { key_id } if key_id == first.key.id()), "{again:?}");
    let unseen = IssueRequest { expires_at: Some(seconds_later(60)), ..once("two") };
    assert_eq!(violations(house.issue.issue(&a_manager(), Ok(unseen)).await.err())[0].field, "expires_at");
}

#[tokio::test]
async fn a_lost_answer_is_an_outage_and_its_retry_a_repetition() {
    let house = a_house();
    house.store.fail_next(StoreCall::Commit, StoreError::OutcomeUnknown("cut off".into()));
    let lost = house.issue.issue(&a_manager(), Ok(once("one"))).await.err().unwrap();
    assert_eq!(lost.kind(), ErrorKind::Unavailable);
    let again = house.issue.issue(&a_manager(), Ok(once("one"))).await.err().unwrap();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    assert_eq!(house.store.keys().len(), 1);
}

#[tokio::test]
async fn nothing_is_issued_in_the_name_of_a_key_after_its_revocation() {
    let house = a_house();
    let request = IssueRequest { permissions: a_manager().principal.permissions, ..a_request() };
    let manager_key = house.issue.issue(&a_manager(), Ok(request)).await.ok().unwrap();
    let as_key = a_caller_with(Actor::api_key(manager_key.key.id()), a_manager().principal.permissions);
    assert!(house.issue.issue(&as_key, Ok(a_request())).await.is_ok());

    house.revoke.revoke(&a_manager(), Ok(manager_key.key.id())).await.unwrap();
    let error = house.issue.issue(&as_key, Ok(a_request())).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    assert_eq!(house.store.keys().len(), 2);
}

#[tokio::test]
async fn without_entropy_there_is_no_key() {
    let house = a_house();
    house.entropy.exhaust(true);
    let error = house.issue.issue(&a_manager(), Ok(a_request())).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert!(house.store.keys().is_empty());
}

#[tokio::test]
async fn failures_of_the_store_keep_their_kind() {
    let house = a_house();
    for (failure, kind) in [
        (an_outage(), ErrorKind::Unavailable),
        (StoreError::TimedOut, ErrorKind::DeadlineExceeded),
        (StoreError::Overloaded, ErrorKind::ResourceExhausted),
        (StoreError::Defect("a defect".into()), ErrorKind::Internal),
    ] {
        house.store.fail_next(StoreCall::Commit, failure);
        assert_eq!(house.issue.issue(&a_manager(), Ok(a_request())).await.err().unwrap().kind(), kind);
    }
    assert!(house.store.keys().is_empty());
}

#[tokio::test]
async fn an_issued_key_verifies_until_the_instant_of_its_expiry() {
    let house = a_house();
    let expires_at = Timestamp::from_unix_micros(an_instant().unix_micros() + 1).unwrap();
    let request = IssueRequest { expires_at: Some(expires_at), ..a_request() };
    let issued = house.issue.issue(&a_manager(), Ok(request)).await.ok().unwrap();
    let verdict = || house.verify.verify(presented(issued.raw_key.expose()));
    assert!(matches!(verdict().await.unwrap(), Verification::Valid(_)));
    house.clock.set(expires_at);
    assert!(matches!(verdict().await.unwrap(), Verification::Rejected { .. }));
}
