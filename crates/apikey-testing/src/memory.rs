//! A store in memory: the full semantics of the port under one lock, and faults on demand. For tests; nothing is durable.

mod state;

use std::sync::{Arc, Mutex, MutexGuard};

use apikey_application::{
    IdempotencyKey,
    ports::{Commit, CommitError, KeyStore, Page, PageQuery, Read, Seq, StoreError, StoredIdempotency, Use},
};
use apikey_domain::{Actor, ApiKey, AuditEvent, KeyDigest, KeyId, OrganizationId};

use self::state::State;
use crate::{
    Held, StoreCall,
    faults::Faults,
    store_contract::{AuditRow, RowCounts, StoreUnderTest},
};

/// A real fake of [`KeyStore`]: what a store must do, done under one lock. Copies share their content.
#[derive(Clone, Debug, Default)]
pub struct InMemoryStore(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    faults: Faults,
    /// What is told as the number of keys, instead of their number.
    total_count: Mutex<Option<u64>>,
}

impl InMemoryStore {
    /// An empty store whose head is 0.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the next call of that method fail with that error; several failures are met one after the other. Nothing is
    /// changed by a call that fails so, except that a commit which meets [`StoreError::OutcomeUnknown`] is applied.
    pub fn fail_next(&self, call: StoreCall, error: StoreError) {
        self.0.faults.fail_next(call, error);
    }

    /// Holds calls of that method from now on until the returned value is dropped. A held call has changed nothing yet.
    pub fn hold(&self, call: StoreCall) -> Held {
        self.0.faults.hold(call)
    }

    /// How many calls of that method have arrived, failed and held ones too.
    #[must_use]
    pub fn calls(&self, call: StoreCall) -> usize {
        self.0.faults.arrived(call)
    }

    /// The audit trail, oldest first.
    #[must_use]
    pub fn audit(&self) -> Vec<AuditEvent> {
        self.state().audit.clone()
    }

    /// The revocation head.
    #[must_use]
    pub fn head(&self) -> Seq {
        self.state().head()
    }

    /// Every key of every organization, in the order of their ids.
    #[must_use]
    pub fn keys(&self) -> Vec<ApiKey> {
        self.state().keys.values().map(|record| record.key.clone()).collect()
    }

    /// Puts a key there as if it had been issued long ago: without a commit, and without an event.
    pub fn put(&self, key: ApiKey) {
        self.state().put(key);
    }

    /// From now on every page says that so many keys match: more than a test could put there.
    pub fn tell_total_count(&self, total_count: u64) {
        *self.0.total_count.lock().expect("no test panics inside the store") = Some(total_count);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no test panics inside the store")
    }

    async fn meet(&self, call: StoreCall) -> Result<MutexGuard<'_, State>, StoreError> {
        self.0.faults.meet(call).await?;
        Ok(self.state())
    }
}

impl KeyStore for InMemoryStore {
    async fn find_by_digest(&self, digest: &KeyDigest) -> Result<Read<Option<ApiKey>>, StoreError> {
        let state = self.meet(StoreCall::FindByDigest).await?;
        Ok(Read { value: state.find_by_digest(digest).cloned(), seq: state.head() })
    }

    async fn find_by_id(
        &self,
        organization_id: &OrganizationId,
        key_id: KeyId,
    ) -> Result<Read<Option<ApiKey>>, StoreError> {
        let state = self.meet(StoreCall::FindById).await?;
        let value = state.find_by_id(organization_id, key_id).map(|record| record.key.clone());
        Ok(Read { value, seq: state.head() })
    }

    async fn find_idempotency(
        &self,
        organization_id: &OrganizationId,
        actor: &Actor,
        key: &IdempotencyKey,
    ) -> Result<Option<StoredIdempotency>, StoreError> {
        let state = self.meet(StoreCall::FindIdempotency).await?;
        Ok(state.find_idempotency(organization_id, actor, key))
    }

    async fn page(&self, query: &PageQuery) -> Result<Page, StoreError> {
        let page = self.meet(StoreCall::Page).await?.page(query);
        let told = *self.0.total_count.lock().expect("no test panics inside the store");
        Ok(Page { total_count: told.unwrap_or(page.total_count), ..page })
    }

    async fn commit(&self, commit: Commit) -> Result<Seq, CommitError> {
        match self.0.faults.meet(StoreCall::Commit).await {
            Ok(()) => self.state().commit(commit),
            Err(lost @ StoreError::OutcomeUnknown(_)) => {
                self.state().commit(commit)?;
                Err(lost.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn record_uses(&self, uses: &[Use]) -> Result<(), StoreError> {
        self.meet(StoreCall::RecordUses).await?.record_uses(uses);
        Ok(())
    }

    fn distrust_connections(&self) {
        self.0.faults.note(StoreCall::DistrustConnections);
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.meet(StoreCall::Ping).await.map(drop)
    }
}

impl StoreUnderTest for InMemoryStore {
    type Store = Self;

    fn store(&self) -> &Self {
        self
    }

    async fn audit_rows(&self, key_id: KeyId) -> Vec<AuditRow> {
        self.state().audit.iter().filter(|event| event.event.key_id == key_id).map(AuditRow::from).collect()
    }

    async fn head(&self) -> u64 {
        self.state().head
    }

    async fn narrowed_seq(&self, key_id: KeyId) -> Option<u64> {
        self.state().keys.get(&key_id).and_then(|record| record.narrowed_seq)
    }

    async fn row_counts(&self) -> RowCounts {
        let state = self.state();
        RowCounts {
            keys: state.keys.len() as u64,
            counted_keys: state.counts.values().sum(),
            audit_events: state.audit.len() as u64,
            idempotency_records: state.idempotency.len() as u64,
        }
    }

    async fn break_audit(&self) {
        self.state().audit_is_broken = true;
    }

    async fn mend_audit(&self) {
        self.state().audit_is_broken = false;
    }
}
