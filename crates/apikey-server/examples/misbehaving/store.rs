//! A store that misbehaves in one way, and is a store like any other in the rest.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use apikey_application::{
    IdempotencyKey,
    ports::{Change, Commit, CommitError, KeyStore, Page, PageQuery, Read, Seq, StoreError, StoredIdempotency, Use},
};
use apikey_domain::{Actor, ApiKey, KeyDigest, KeyId, OrganizationId};

use crate::Wrong;

/// One of so many reads fails after it has been answered, where failures are called absence: while everything else works, since
/// absence is believed only then.
const FAILS: u64 = 8;

/// A store with something wrong.
pub(crate) struct Misbehaving<S> {
    store: S,
    wrong: Wrong,
    /// Keys as they were read first.
    first: Mutex<HashMap<KeyDigest, ApiKey>>,
    /// Whose each key is.
    owners: Mutex<HashMap<KeyId, OrganizationId>>,
    /// The last head that was read.
    head: Mutex<Option<Seq>>,
    reads: AtomicU64,
}

impl<S> Misbehaving<S> {
    pub(crate) fn new(store: S, wrong: Wrong) -> Self {
        let (first, owners) = (Mutex::default(), Mutex::default());
        Self { store, wrong, first, owners, head: Mutex::default(), reads: AtomicU64::new(0) }
    }
}

impl<S: KeyStore> KeyStore for Misbehaving<S> {
    async fn find_by_digest(&self, digest: &KeyDigest) -> Result<Read<Option<ApiKey>>, StoreError> {
        let read = self.store.find_by_digest(digest).await;
        match (self.wrong, read) {
            (Wrong::AbsentOnError, Err(error)) => match *locked(&self.head) {
                Some(seq) => Ok(Read { value: None, seq }),
                None => Err(error),
            },
            (Wrong::AbsentOnError, Ok(Read { seq, .. }))
                if self.reads.fetch_add(1, Ordering::Relaxed).is_multiple_of(FAILS) =>
            {
                Ok(Read { value: None, seq })
            }
            (Wrong::OlderSnapshot, Ok(Read { value: Some(key), seq })) => {
                // As new as the head says, but for the key.
                let first = locked(&self.first).entry(*digest).or_insert(key).clone();
                Ok(Read { value: Some(first), seq })
            }
            (_, Ok(read)) => {
                *locked(&self.head) = Some(read.seq);
                if let Some(key) = &read.value {
                    locked(&self.owners).insert(key.id(), key.organization_id().clone());
                }
                Ok(read)
            }
            (_, Err(error)) => Err(error),
        }
    }

    async fn find_by_id(
        &self,
        organization_id: &OrganizationId,
        key_id: KeyId,
    ) -> Result<Read<Option<ApiKey>>, StoreError> {
        if self.wrong == Wrong::AnyOrganization {
            let owner = locked(&self.owners).get(&key_id).cloned();
            return self.store.find_by_id(owner.as_ref().unwrap_or(organization_id), key_id).await;
        }
        self.store.find_by_id(organization_id, key_id).await
    }

    async fn find_idempotency(
        &self,
        organization_id: &OrganizationId,
        actor: &Actor,
        key: &IdempotencyKey,
    ) -> Result<Option<StoredIdempotency>, StoreError> {
        self.store.find_idempotency(organization_id, actor, key).await
    }

    async fn page(&self, query: &PageQuery) -> Result<Page, StoreError> {
        self.store.page(query).await
    }

    async fn commit(&self, mut commit: Commit) -> Result<Seq, CommitError> {
        if self.wrong == Wrong::NoAudit {
            commit.events.clear();
        }
        if let Change::Issue { key, .. } = &commit.change {
            locked(&self.owners).insert(key.id(), key.organization_id().clone());
        }
        self.store.commit(commit).await
    }

    async fn record_uses(&self, uses: &[Use]) -> Result<(), StoreError> {
        self.store.record_uses(uses).await
    }

    fn distrust_connections(&self) {
        self.store.distrust_connections();
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.store.ping().await
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
