//! Nobody drops a store call half-way: each runs as a task of its own on the store's runtime.
//!
//! Whoever goes away abandons the answer, never the call: a dropped call of an embedded database blocks its connection, and a
//! dropped commit has an unknown outcome. Knows nothing of what the calls mean.

use std::{future::Future, sync::Arc};

use apikey_application::{
    IdempotencyKey,
    ports::{Commit, CommitError, KeyStore, Page, PageQuery, Read, Seq, StoreError, StoredIdempotency, Use},
};
use apikey_domain::{Actor, ApiKey, KeyDigest, KeyId, OrganizationId};
use apikey_grpc::call_span;
use tokio::{
    runtime::Handle,
    sync::Semaphore,
    task::{JoinError, JoinHandle},
};
use tracing::Instrument as _;

/// More calls than can ever run at once: the semaphore counts them, and refuses none.
const MAX_CALLS: u32 = 1 << 20;

/// A store whose calls are carried to their end, whatever becomes of the callers.
pub(crate) struct Detached<S> {
    store: Arc<S>,
    runtime: Handle,
    calls: Arc<Semaphore>,
}

impl<S: KeyStore> Detached<S> {
    /// Runs the calls of that store on that runtime.
    pub(crate) fn new(store: S, runtime: Handle) -> Self {
        Self { store: Arc::new(store), runtime, calls: Arc::new(Semaphore::new(MAX_CALLS as usize)) }
    }

    /// Waits until no call runs, those included that nobody waits for any more; later calls wait for ever.
    pub(crate) async fn idle(&self) {
        if let Ok(all) = self.calls.acquire_many(MAX_CALLS).await {
            all.forget();
        }
    }

    fn detach<T, F>(&self, call: impl FnOnce(Arc<S>) -> F) -> JoinHandle<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let call = call(Arc::clone(&self.store));
        let calls = Arc::clone(&self.calls);
        let counted = async move {
            // Never closed: the permit only counts.
            let _running = calls.acquire().await;
            call.await
        };
        self.runtime.spawn(counted.instrument(call_span()))
    }

    async fn read<T, F>(&self, call: impl FnOnce(Arc<S>) -> F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        self.detach(call).await.unwrap_or_else(|error| {
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
        self.read(|store| async move { store.find_by_digest(&digest).await }).await
    }

    async fn find_by_id(
        &self,
        organization_id: &OrganizationId,
        key_id: KeyId,
    ) -> Result<Read<Option<ApiKey>>, StoreError> {
        let organization_id = organization_id.clone();
        self.read(|store| async move { store.find_by_id(&organization_id, key_id).await }).await
    }

    async fn find_idempotency(
        &self,
        organization_id: &OrganizationId,
        actor: &Actor,
        key: &IdempotencyKey,
    ) -> Result<Option<StoredIdempotency>, StoreError> {
        let (organization_id, actor, key) = (organization_id.clone(), actor.clone(), key.clone());
        self.read(|store| async move { store.find_idempotency(&organization_id, &actor, &key).await }).await
    }

    async fn page(&self, query: &PageQuery) -> Result<Page, StoreError> {
        let query = query.clone();
        self.read(|store| async move { store.page(&query).await }).await
    }

    async fn commit(&self, commit: Commit) -> Result<Seq, CommitError> {
        self.detach(|store| async move { store.commit(commit).await })
            .await
            .unwrap_or_else(|error| Err(StoreError::OutcomeUnknown(ended(&error)).into()))
    }

    async fn record_uses(&self, uses: &[Use]) -> Result<(), StoreError> {
        let uses = uses.to_vec();
        self.read(|store| async move { store.record_uses(&uses).await }).await
    }

    fn distrust_connections(&self) {
        self.store.distrust_connections();
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.read(|store| async move { store.ping().await }).await
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

    #[test]
    fn a_caller_that_goes_away_abandons_the_answer_and_not_the_call() {
        let runtime = Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let store = InMemoryStore::new();
        let detached = Detached::new(store.clone(), runtime.handle().clone());
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
        let detached = Detached::new(InMemoryStore::new(), runtime.handle().clone());
        runtime.block_on(async {
            let read: Result<(), _> = detached.read(|_| async { panic!("{}", "with a secret") }).await;
            let Err(StoreError::Defect(source)) = read else { panic!("{read:?}") };
            assert_eq!(source.to_string(), "the store call panicked");
        });
        let ended = Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let detached = Detached::new(InMemoryStore::new(), ended.handle().clone());
        ended.shutdown_background();
        let commit = runtime.block_on(detached.commit(fixtures::issue(&fixtures::a_key(1))));
        assert!(matches!(commit, Err(CommitError::Store(StoreError::OutcomeUnknown(_)))), "{commit:?}");
        let ping = runtime.block_on(detached.ping());
        assert!(matches!(ping, Err(StoreError::Unavailable(_))), "{ping:?}");
    }
}
