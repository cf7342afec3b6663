//! Nobody drops a store call half-way: each runs as a task of its own on the store's runtime.
//!
//! Whoever goes away abandons the answer, never the call: a dropped call of an embedded database blocks its connection, and a
//! dropped commit has an unknown outcome. Knows nothing of what the calls mean.

use std::{future::Future, sync::Arc};

use apikey_application::{
    IdempotencyKey,
    ports::{Change, Commit, CommitError, KeyStore, Page, PageQuery, Read, Seq, StoreError, StoredIdempotency, Use},
};
use apikey_domain::{Actor, ApiKey, KeyDigest, KeyId, OrganizationId};
use apikey_grpc::call_span;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinError, JoinHandle},
};
use tracing::Instrument as _;

use super::turns::Turns;

/// How many calls of the store may run or wait for one of its connections, those included that nobody waits for any more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// Of keys that services verify and that are not in memory. More wait until one of them has ended.
    pub(crate) lookups: usize,
    /// The same of keys by which strangers want to call.
    pub(crate) strangers: usize,
    /// How many calls of organizations run at once, each organization's in its turn.
    pub(crate) turns: usize,
    /// Of everything else, those included that wait for their turn. More are refused at once, but for revocations and the service's own calls, which have an eighth besides.
    pub(crate) calls: usize,
}

/// The part of the calls that ordinary ones leave to others.
const RESERVED: usize = 8;

/// A store whose calls are carried to their end, whatever becomes of the callers. What a call takes of the budget it takes until its own
/// end, and not until its caller's.
pub(crate) struct Detached<S> {
    store: Arc<S>,
    runtime: Handle,
    lookups: Places,
    /// Those of the others: the strangers', or the services'.
    others_lookups: Places,
    calls: Places,
    reserved: Places,
    turns: Arc<Turns<Lane>>,
}

/// What is served in turn: the calls of an organization. What its other calls are does not keep it from revoking, and what one key asks
/// to be revoked does not keep another from that.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Lane {
    Create(OrganizationId),
    Revoke(OrganizationId, Option<KeyId>),
    Find(OrganizationId),
    List(OrganizationId),
}

impl Lane {
    fn of(commit: &Commit) -> Self {
        match &commit.change {
            Change::Issue { key, .. } => Self::Create(key.organization_id().clone()),
            Change::Revoke { key } => Self::Revoke(key.organization_id().clone(), commit.on_behalf_of),
            Change::ConfirmRevoked { organization_id, .. } => {
                Self::Revoke(organization_id.clone(), commit.on_behalf_of)
            }
        }
    }
}

/// Whether a call may use what is reserved.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Urgency {
    Ordinary,
    Urgent,
}

/// Places of calls that run. Copies share them.
#[derive(Clone)]
struct Places {
    free: Arc<Semaphore>,
    all: u32,
}

impl Places {
    fn new(all: usize) -> Self {
        let all = u32::try_from(all.max(1)).unwrap_or(u32::MAX);
        Self { free: Arc::new(Semaphore::new(all as usize)), all }
    }

    fn take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_owned().ok()
    }

    /// Waits for all of them, and takes them for ever.
    async fn take_all(&self) {
        if let Ok(all) = self.free.acquire_many(self.all).await {
            all.forget();
        }
    }
}

impl<S: KeyStore> Detached<S> {
    /// Runs the calls of that store on that runtime.
    pub(crate) fn new(store: S, runtime: Handle, budget: Budget) -> Self {
        let Budget { lookups, strangers, turns, calls } = budget;
        Self {
            store: Arc::new(store),
            runtime,
            lookups: Places::new(lookups),
            others_lookups: Places::new(strangers),
            calls: Places::new(calls),
            reserved: Places::new(calls / RESERVED),
            turns: Arc::new(Turns::new(turns)),
        }
    }

    /// The same store for strangers: what they look up takes nothing of what the others look up.
    pub(crate) fn for_strangers(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            runtime: self.runtime.clone(),
            lookups: self.others_lookups.clone(),
            others_lookups: self.lookups.clone(),
            calls: self.calls.clone(),
            reserved: self.reserved.clone(),
            turns: Arc::clone(&self.turns),
        }
    }

    /// Waits until no call runs, those included that nobody waits for any more; later calls are refused.
    pub(crate) async fn idle(&self) {
        for places in [&self.lookups, &self.others_lookups, &self.calls, &self.reserved] {
            places.take_all().await;
        }
    }

    /// A place for a call, until it is dropped.
    fn place(&self, urgency: Urgency) -> Result<OwnedSemaphorePermit, StoreError> {
        let reserved = || if urgency == Urgency::Urgent { self.reserved.take() } else { None };
        self.calls.take().or_else(reserved).ok_or(StoreError::Overloaded)
    }

    /// A place for a call of an organization, once it is its turn.
    async fn turn(&self, urgency: Urgency, lane: Lane) -> Result<impl Send + 'static + use<S>, StoreError> {
        let place = self.place(urgency)?;
        // In this order are they given back.
        Ok((self.turns.take(lane).await?, place))
    }

    fn detach<T, F>(&self, place: impl Send + 'static, call: impl FnOnce(Arc<S>) -> F) -> JoinHandle<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let call = call(Arc::clone(&self.store));
        let counted = async move {
            let _place = place;
            call.await
        };
        self.runtime.spawn(counted.instrument(call_span()))
    }

    async fn read<T, F>(&self, urgency: Urgency, call: impl FnOnce(Arc<S>) -> F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        self.read_in(self.place(urgency)?, call).await
    }

    async fn read_in<T, F>(&self, place: impl Send + 'static, call: impl FnOnce(Arc<S>) -> F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        self.detach(place, call).await.unwrap_or_else(|error| {
            if error.is_panic() {
                Err(StoreError::Defect(ended(&error)))
            } else {
                Err(StoreError::Unavailable(ended(&error)))
            }
        })
    }
}

impl<S: KeyStore> KeyStore for Detached<S> {
    async fn find_by_digest(&self, digest: &KeyDigest) -> Result<Read<Option<ApiKey>>, StoreError> {
        let digest = *digest;
        // Whoever waits here has a place in the queue of those who ask for keys that are not in memory, which is bounded.
        let place = Arc::clone(&self.lookups.free).acquire_owned().await;
        let place = place.map_err(|_| StoreError::Overloaded)?;
        self.read_in(place, |store| async move { store.find_by_digest(&digest).await }).await
    }

    async fn find_by_id(
        &self,
        organization_id: &OrganizationId,
        key_id: KeyId,
    ) -> Result<Read<Option<ApiKey>>, StoreError> {
        let organization_id = organization_id.clone();
        let place = self.turn(Urgency::Urgent, Lane::Find(organization_id.clone())).await?;
        self.read_in(place, |store| async move { store.find_by_id(&organization_id, key_id).await }).await
    }

    async fn find_idempotency(
        &self,
        organization_id: &OrganizationId,
        actor: &Actor,
        key: &IdempotencyKey,
    ) -> Result<Option<StoredIdempotency>, StoreError> {
        let (organization_id, actor, key) = (organization_id.clone(), actor.clone(), key.clone());
        let place = self.turn(Urgency::Ordinary, Lane::Create(organization_id.clone())).await?;
        self.read_in(place, |store| async move { store.find_idempotency(&organization_id, &actor, &key).await }).await
    }

    async fn page(&self, query: &PageQuery) -> Result<Page, StoreError> {
        let query = query.clone();
        let place = self.turn(Urgency::Ordinary, Lane::List(query.organization_id.clone())).await?;
        self.read_in(place, |store| async move { store.page(&query).await }).await
    }

    async fn commit(&self, commit: Commit) -> Result<Seq, CommitError> {
        let urgency = match commit.change {
            Change::Issue { .. } => Urgency::Ordinary,
            Change::Revoke { .. } | Change::ConfirmRevoked { .. } => Urgency::Urgent,
        };
        let place = self.turn(urgency, Lane::of(&commit)).await?;
        self.detach(place, |store| async move { store.commit(commit).await })
            .await
            .unwrap_or_else(|error| Err(StoreError::OutcomeUnknown(ended(&error)).into()))
    }

    async fn record_uses(&self, uses: &[Use]) -> Result<(), StoreError> {
        let uses = uses.to_vec();
        self.read(Urgency::Urgent, |store| async move { store.record_uses(&uses).await }).await
    }

    fn distrust_connections(&self) {
        self.store.distrust_connections();
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.read(Urgency::Urgent, |store| async move { store.ping().await }).await
    }
}

/// What became of a call that did not end. A panic's own text stays out: it could hold anything.
fn ended(error: &JoinError) -> Box<dyn std::error::Error + Send + Sync> {
    if error.is_panic() { "the store call panicked".into() } else { "the store's runtime has ended".into() }
}

#[cfg(test)]
mod tests {
    use apikey_testing::{InMemoryStore, StoreCall, fixtures};
    use tokio::{runtime::Builder, task::yield_now};

    use super::*;

    const BUDGET: Budget = Budget { lookups: 2, strangers: 1, turns: 16, calls: 8 };

    /// Polls a call until the store has begun with it or it is answered, and goes away.
    async fn abandon<T>(store: &InMemoryStore, kind: StoreCall, call: impl Future<Output = T>) -> Option<T> {
        let before = store.calls(kind);
        let mut call = Box::pin(call);
        for _ in 0..200 {
            tokio::select! {
                biased;
                answer = &mut call => return Some(answer),
                () = yield_now() => {}
            }
            if store.calls(kind) > before {
                break;
            }
            std::thread::yield_now();
        }
        None
    }

    /// Waits until so many calls have begun, and makes sure that no more do: a task may begin long after whoever spawned it went away.
    async fn have_begun(store: &InMemoryStore, kind: StoreCall, calls: usize) {
        while store.calls(kind) < calls {
            yield_now().await;
            std::thread::yield_now();
        }
        for _ in 0..200 {
            yield_now().await;
            std::thread::yield_now();
        }
        assert_eq!(store.calls(kind), calls);
    }

    #[test]
    fn abandoned_lookups_never_run_more_than_the_budget_at_once() {
        let runtime = Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let store = InMemoryStore::new();
        let detached = Detached::new(store.clone(), runtime.handle().clone(), BUDGET);
        let key = fixtures::a_key(1);
        runtime.block_on(async {
            let held = store.hold(StoreCall::FindByDigest);
            let organization_id = fixtures::an_organization();
            let query = PageQuery { organization_id, key_type: None, after: None, limit: 1 };
            for _ in 0..50 {
                let answer = abandon(&store, StoreCall::FindByDigest, detached.find_by_digest(key.digest())).await;
                assert!(answer.is_none(), "it waits, and is not refused");
            }
            have_begun(&store, StoreCall::FindByDigest, BUDGET.lookups).await;
            assert!(detached.page(&query).await.is_ok(), "others have places of their own");
            drop(held);
            assert!(
                detached.find_by_digest(key.digest()).await.is_ok(),
                "and those of the abandoned ones are given back"
            );
        });
    }

    #[test]
    fn what_strangers_abandon_leaves_services_their_own_lookups() {
        let runtime = Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let store = InMemoryStore::new();
        let detached = Detached::new(store.clone(), runtime.handle().clone(), BUDGET);
        let strangers = detached.for_strangers();
        let key = fixtures::a_key(1);
        runtime.block_on(async {
            let held = store.hold(StoreCall::FindByDigest);
            for (of, expected) in [(&strangers, BUDGET.strangers), (&detached, BUDGET.strangers + BUDGET.lookups)] {
                for _ in 0..50 {
                    let answer = abandon(&store, StoreCall::FindByDigest, of.find_by_digest(key.digest())).await;
                    assert!(answer.is_none(), "it waits, and is not refused");
                }
                have_begun(&store, StoreCall::FindByDigest, expected).await;
            }
            drop(held);
            detached.idle().await;
            assert!(strangers.place(Urgency::Urgent).is_err(), "nothing else runs after that");
        });
    }

    #[test]
    fn abandoned_changes_are_bounded_and_leave_room_for_revocations() {
        let runtime = Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let store = InMemoryStore::new();
        let detached = Detached::new(store.clone(), runtime.handle().clone(), BUDGET);
        runtime.block_on(async {
            let held = store.hold(StoreCall::Commit);
            let mut refused = 0;
            for seed in 0..50 {
                let issue = detached.commit(fixtures::issue(&fixtures::a_key(seed)));
                if let Some(answer) = abandon(&store, StoreCall::Commit, issue).await {
                    assert!(matches!(answer, Err(CommitError::Store(StoreError::Overloaded))), "{answer:?}");
                    refused += 1;
                }
            }
            assert_eq!(refused, 50 - BUDGET.calls);
            have_begun(&store, StoreCall::Commit, BUDGET.calls).await;
            let found = detached.find_by_id(&fixtures::an_organization(), fixtures::a_key(1).id()).await;
            assert!(found.is_ok(), "what a revocation begins with");
            drop(held);
            detached.idle().await;
        });
        assert_eq!(store.keys().len(), BUDGET.calls, "each was carried to its end");
    }

    #[test]
    fn one_organization_leaves_turns_to_others_and_its_creations_to_its_revocations() {
        let runtime = Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let store = InMemoryStore::new();
        let budget = Budget { turns: 4, calls: 128, ..BUDGET };
        let detached = Detached::new(store.clone(), runtime.handle().clone(), budget);
        let key = fixtures::a_key(1);
        store.put(key.clone());
        let others_key = fixtures::a_key_with(2, |parts| parts.organization_id = fixtures::another_organization());
        runtime.block_on(async {
            let held = store.hold(StoreCall::Commit);
            for seed in 10..40 {
                let issue = detached.commit(fixtures::issue(&fixtures::a_key(seed)));
                assert!(abandon(&store, StoreCall::Commit, issue).await.is_none());
            }
            // Also of those that were given up.
            have_begun(&store, StoreCall::Commit, budget.turns / 2).await;
            let revoke = detached.commit(fixtures::revoke(&key, fixtures::seconds_later(1)));
            assert!(abandon(&store, StoreCall::Commit, revoke).await.is_none());
            let issue = detached.commit(fixtures::issue(&others_key));
            assert!(abandon(&store, StoreCall::Commit, issue).await.is_none());
            have_begun(&store, StoreCall::Commit, budget.turns).await;
            drop(held);
            detached.idle().await;
        });
    }

    #[test]
    fn a_caller_that_goes_away_abandons_the_answer_and_not_the_call() {
        let runtime = Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let store = InMemoryStore::new();
        let detached = Detached::new(store.clone(), runtime.handle().clone(), BUDGET);
        let key = fixtures::a_key(1);
        runtime.block_on(async {
            let held = store.hold(StoreCall::Commit);
            let mut call = Box::pin(detached.commit(fixtures::issue(&key)));
            while store.calls(StoreCall::Commit) == 0 {
                tokio::select! {
                    biased;
                    _ = &mut call => panic!("the call is held"),
                    () = yield_now() => {}
                }
            }
            drop(call);
            assert!(store.keys().is_empty());
            drop(held);
            detached.idle().await;
        });
        assert_eq!(store.keys(), [key]);
    }

    #[test]
    fn a_call_that_panics_is_a_defect_and_a_commit_that_does_has_an_unknown_outcome() {
        let runtime = Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let detached = Detached::new(InMemoryStore::new(), runtime.handle().clone(), BUDGET);
        runtime.block_on(async {
            let read: Result<(), _> =
                detached.read(Urgency::Ordinary, |_| async { panic!("{}", "with a secret") }).await;
            let Err(StoreError::Defect(source)) = read else { panic!("{read:?}") };
            assert_eq!(source.to_string(), "the store call panicked");
        });
        let ended = Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let detached = Detached::new(InMemoryStore::new(), ended.handle().clone(), BUDGET);
        ended.shutdown_background();
        let commit = runtime.block_on(detached.commit(fixtures::issue(&fixtures::a_key(1))));
        assert!(matches!(commit, Err(CommitError::Store(StoreError::OutcomeUnknown(_)))), "{commit:?}");
        let ping = runtime.block_on(detached.ping());
        assert!(matches!(ping, Err(StoreError::Unavailable(_))), "{ping:?}");
    }
}
