//! Revoking keys.

use std::{pin::pin, sync::Arc};

use apikey_application::{
    ErrorKind, FieldViolation, IdempotencyKey, KeyCache, NobodyElse, Policy, RevokeApiKey, RevokeError, Verification,
    fence::Lease,
    ports::{
        Change, Clock as _, Commit, CommitError, Confirmations, Confirmed, KeyStore, Page, PageQuery, Read, Seq,
        StoreError, StoredIdempotency, Use,
    },
};
use apikey_domain::{Actor, ApiKey, KeyDigest, KeyEventKind, KeyId, OrganizationId, RejectionReason};
use apikey_testing::{
    FixedClock, StoreCall,
    fixtures::{a_caller, a_caller_with, a_key, an_instant, seconds_later},
};

use futures_util::poll;

use crate::house::{LIMITS, a_house, a_manager, a_visitor, an_outage, presented};

mockall::mock! {
    Store {}

    impl KeyStore for Store {
        fn find_by_digest(&self, digest: &KeyDigest) -> impl Future<Output = Result<Read<Option<ApiKey>>, StoreError>> + Send;
        fn find_by_id(&self, organization_id: &OrganizationId, key_id: KeyId) -> impl Future<Output = Result<Read<Option<ApiKey>>, StoreError>> + Send;
        fn find_idempotency(
            &self,
            organization_id: &OrganizationId,
            actor: &Actor,
            key: &IdempotencyKey,
        ) -> impl Future<Output = Result<Option<StoredIdempotency>, StoreError>> + Send;
        fn page(&self, query: &PageQuery) -> impl Future<Output = Result<Page, StoreError>> + Send;
        fn commit(&self, commit: Commit) -> impl Future<Output = Result<Seq, CommitError>> + Send;
        fn record_uses(&self, uses: &[Use]) -> impl Future<Output = Result<(), StoreError>> + Send;
        fn distrust_connections(&self);
        fn ping(&self) -> impl Future<Output = Result<(), StoreError>> + Send;
    }
}

fn a_cache() -> Arc<KeyCache> {
    Arc::new(KeyCache::of_one_process(LIMITS))
}

const FIRST: Seq = Seq::new(0, 1);

#[tokio::test]
async fn a_revoked_key_stops_working_and_stays_listed() {
    let house = a_house();
    let issued = house.issued().await;
    house.clock.set(seconds_later(5));
    house.revoke.revoke(&a_manager(), Ok(issued.key.id())).await.unwrap();
    let verification = house.verify.verify(presented(issued.raw_key.expose())).await.unwrap();
    let Verification::Rejected { reason, key_id } = verification else { panic!("{verification:?}") };
    assert_eq!((reason, key_id), (RejectionReason::Revoked, Some(issued.key.id())));
    assert_eq!(house.store.keys()[0].parts().revoked_at, Some(seconds_later(5)));
    let kinds: Vec<_> = house.store.audit().into_iter().map(|event| event.event.kind).collect();
    assert_eq!(kinds, [KeyEventKind::Issued, KeyEventKind::Revoked]);
}

#[tokio::test]
async fn revoking_again_changes_nothing_and_confirms_the_first() {
    let house = a_house();
    let issued = house.issued().await;
    house.revoke.revoke(&a_manager(), Ok(issued.key.id())).await.unwrap();
    house.clock.set(seconds_later(5));
    let commits = house.store.calls(StoreCall::Commit);
    house.revoke.revoke(&a_manager(), Ok(issued.key.id())).await.unwrap();
    assert_eq!(house.store.calls(StoreCall::Commit), commits + 1, "a repeated revocation is committed to as well");
    assert_eq!(house.store.keys()[0].parts().revoked_at, Some(an_instant()));
    assert_eq!(house.store.audit().len(), 2);
    assert_eq!(house.store.head(), FIRST);
}

#[tokio::test]
async fn a_key_of_another_organization_is_as_absent_as_one_that_never_was() {
    let house = a_house();
    let issued = house.issued().await;
    let mut foreigner = a_caller();
    foreigner.principal.organization_id = OrganizationId::parse("globex").unwrap();
    let foreign = house.revoke.revoke(&foreigner, Ok(issued.key.id())).await.unwrap_err();
    let absent = house.revoke.revoke(&foreigner, Ok(a_key(77).id())).await.unwrap_err();
    assert_eq!((foreign.kind(), absent.kind()), (ErrorKind::NotFound, ErrorKind::NotFound));
    assert_eq!(foreign.to_string(), absent.to_string());
    assert_eq!(house.store.keys(), [issued.key]);
}

#[tokio::test]
async fn permission_comes_before_fields() {
    let house = a_house();
    let wrong = || Err(vec![FieldViolation::new("id", "must be a hyphenated UUID")]);
    assert_eq!(house.revoke.revoke(&a_visitor(), wrong()).await.unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(house.revoke.revoke(&a_manager(), wrong()).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn a_key_may_revoke_itself_and_its_retry_is_unauthenticated() {
    let house = a_house();
    let mut request = crate::house::a_request();
    request.permissions = a_manager().principal.permissions;
    let issued = house.issue.issue(&a_manager(), Ok(request)).await.ok().unwrap();
    let itself = a_caller_with(Actor::api_key(issued.key.id()), a_manager().principal.permissions);
    house.revoke.revoke(&itself, Ok(issued.key.id())).await.unwrap();
    let retry = house.revoke.revoke(&itself, Ok(issued.key.id())).await.unwrap_err();
    assert_eq!(retry.kind(), ErrorKind::Unauthenticated);
}

#[tokio::test]
async fn a_lost_answer_is_an_outage_and_its_retry_confirms() {
    let house = a_house();
    let issued = house.issued().await;
    house.store.fail_next(StoreCall::Commit, StoreError::OutcomeUnknown("cut off".into()));
    let lost = house.revoke.revoke(&a_manager(), Ok(issued.key.id())).await.unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::Unavailable);
    house.revoke.revoke(&a_manager(), Ok(issued.key.id())).await.unwrap();
    house.store.fail_next(StoreCall::FindById, an_outage());
    let outage = house.revoke.revoke(&a_manager(), Ok(issued.key.id())).await.unwrap_err();
    assert_eq!(outage.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_race_with_another_revoker_ends_in_a_confirmation() {
    let live = a_key(1);
    let mut revoked = live.clone();
    revoked.revoke(an_instant());
    let mut store = MockStore::new();
    let mut order = mockall::Sequence::new();
    let answer = |key: ApiKey| {
        move |_: &_, _| -> std::pin::Pin<Box<dyn Future<Output = _> + Send>> {
            let key = key.clone();
            Box::pin(async { Ok(Read { value: Some(key), seq: FIRST }) })
        }
    };
    store.expect_find_by_id().once().in_sequence(&mut order).returning(answer(live.clone()));
    let commit = store.expect_commit().once().in_sequence(&mut order);
    commit.withf(|commit| matches!(commit.change, Change::Revoke { .. }) && commit.events.len() == 1);
    commit.returning(|_| Box::pin(async { Err(CommitError::StaleRevision) }));
    store.expect_find_by_id().once().in_sequence(&mut order).returning(answer(revoked));
    let commit = store.expect_commit().once().in_sequence(&mut order);
    commit.withf(|commit| matches!(commit.change, Change::ConfirmRevoked { .. }) && commit.events.is_empty());
    commit.returning(|_| Box::pin(async { Ok(FIRST) }));

    let revoke = RevokeApiKey::new(
        Arc::new(store),
        a_cache(),
        Arc::new(NobodyElse),
        Arc::new(FixedClock::at(an_instant())),
        Policy::pidgr(),
    );
    revoke.revoke(&a_manager(), Ok(live.id())).await.unwrap();
}

#[tokio::test]
async fn a_key_that_changes_again_and_again_is_given_up_as_unavailable() {
    let mut store = MockStore::new();
    store
        .expect_find_by_id()
        .times(5)
        .returning(|_, _| Box::pin(async { Ok(Read { value: Some(a_key(1)), seq: FIRST }) }));
    store.expect_commit().times(5).returning(|_| Box::pin(async { Err(CommitError::StaleRevision) }));
    let revoke = RevokeApiKey::new(
        Arc::new(store),
        a_cache(),
        Arc::new(NobodyElse),
        Arc::new(FixedClock::at(an_instant())),
        Policy::pidgr(),
    );
    let error = revoke.revoke(&a_manager(), Ok(a_key(1).id())).await.unwrap_err();
    assert!(matches!(error, RevokeError::Contended));
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn that_there_is_no_such_key_is_told_only_after_a_renewal_that_began_after_the_call() {
    let (house, clock) = (a_house(), FixedClock::at(an_instant()));
    let cache = Arc::new(KeyCache::of_replica(Lease::DEFAULT, LIMITS));
    let store = Arc::new(house.store.clone());
    let (shared_cache, shared_clock) = (Arc::clone(&cache), Arc::new(clock.clone()));
    let revoke = RevokeApiKey::new(store, shared_cache, Arc::new(NobodyElse), shared_clock, Policy::pidgr());
    let renews = || {
        cache.publish_deadline(clock.monotonic() + Lease::DEFAULT.held());
        cache.wake_waiters();
    };
    renews();
    let manager = a_manager();
    let mut call = pin!(revoke.revoke(&manager, Ok(a_key(1).id())));
    assert!(poll!(&mut call).is_pending(), "the lease is held, but it proves nothing about absence");
    renews();
    assert!(matches!(call.await, Err(RevokeError::NotFound)));

    // Revocations elsewhere go on while it waits: that the read does not contain them says nothing against its connection.
    let mut call = pin!(revoke.revoke(&manager, Ok(a_key(1).id())));
    assert!(poll!(&mut call).is_pending());
    cache.raise_applied(Seq::new(0, 7));
    renews();
    assert!(matches!(call.await, Err(RevokeError::NotFound)));
    assert_eq!(house.store.calls(StoreCall::DistrustConnections), 0);

    // A server on another timeline, the old primary perhaps, proves nothing either.
    cache.raise_applied(Seq::new(1, 0));
    let mut call = pin!(revoke.revoke(&manager, Ok(a_key(1).id())));
    assert!(poll!(&mut call).is_pending());
    renews();
    assert!(matches!(call.await, Err(RevokeError::Contended)));
    assert_eq!(house.store.calls(StoreCall::DistrustConnections), 5);
}

mockall::mock! {
    Replicas {}

    impl Confirmations for Replicas {
        fn confirm(&self, commit: Seq) -> impl Future<Output = Result<Confirmed, StoreError>> + Send;
    }
}

#[tokio::test]
async fn a_revocation_returns_only_when_its_own_place_in_the_sequence_is_confirmed() {
    let house = a_house();
    let (first, second) = (house.issued().await, house.issued().await);
    let mut replicas = MockReplicas::new();
    let confirmed = Confirmed { acknowledged: 2, waited_out: 1 };
    for number in [1, 2, 1] {
        let confirm = replicas.expect_confirm().once().withf(move |commit| commit.number == number);
        confirm.returning(move |_| Box::pin(async move { Ok(confirmed) }));
    }
    replicas.expect_confirm().once().returning(|_| Box::pin(async { Err(an_outage()) }));
    let store = Arc::new(house.store.clone());
    let revoke =
        RevokeApiKey::new(store, a_cache(), Arc::new(replicas), Arc::new(house.clock.clone()), Policy::pidgr());
    for key in [&first, &second, &first] {
        assert_eq!(revoke.revoke(&a_manager(), Ok(key.key.id())).await.unwrap(), confirmed);
    }
    let error = revoke.revoke(&a_manager(), Ok(second.key.id())).await.unwrap_err();
    assert!(matches!(error, RevokeError::NotConfirmed(_)) && error.kind() == ErrorKind::Unavailable, "{error:?}");
}
