//! A store that one process has to itself: what is committed is applied to this process's memory before it is answered. So no
//! lease is needed, and nobody else has to confirm.

use std::sync::Arc;

use apikey_domain::{Actor, ApiKey, KeyDigest, KeyId, OrganizationId};

use crate::{
    IdempotencyKey, KeyCache,
    ports::{
        Change, Commit, CommitError, Confirmations, Confirmed, KeyStore, Page, PageQuery, Read, Seq, StoreError,
        StoredIdempotency, Use,
    },
};

/// The store of one process, together with its cache.
///
/// Its [`commit`](KeyStore::commit) must not be dropped half-way: the commit and what follows from it in memory are one.
pub struct OneProcess<S> {
    store: S,
    cache: Arc<KeyCache>,
}

impl<S: KeyStore> OneProcess<S> {
    /// That store, of which nobody else makes changes. The cache was made by [`KeyCache::of_one_process`].
    pub fn new(store: S, cache: Arc<KeyCache>) -> Self {
        Self { store, cache }
    }
}

/// Which key a change takes rights from.
const fn narrows(change: &Change) -> Option<KeyDigest> {
    match change {
        Change::Issue { .. } => None,
        Change::Revoke { key } => Some(*key.digest()),
        Change::ConfirmRevoked { digest, .. } => Some(*digest),
    }
}

impl<S: KeyStore> KeyStore for OneProcess<S> {
    async fn commit(&self, commit: Commit) -> Result<Seq, CommitError> {
        let narrowed = narrows(&commit.change);
        let outcome = self.store.commit(commit).await;
        match (&outcome, narrowed) {
            (Ok(seq), Some(digest)) => {
                // In this order, so that no older read slips in behind.
                self.cache.raise_applied_at_least(*seq);
                self.cache.evict(&[digest]);
            }
            // It may be revoked. Whoever wants to know it is revoked asks again, and comes by the arm above.
            (Err(CommitError::Store(StoreError::OutcomeUnknown(_))), Some(digest)) => self.cache.evict(&[digest]),
            (Ok(_) | Err(_), _) => {}
        }
        outcome
    }

    async fn find_by_digest(&self, digest: &KeyDigest) -> Result<Read<Option<ApiKey>>, StoreError> {
        self.store.find_by_digest(digest).await
    }

    async fn find_by_id(
        &self,
        organization_id: &OrganizationId,
        key_id: KeyId,
    ) -> Result<Read<Option<ApiKey>>, StoreError> {
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

/// Nobody else has to be waited for.
#[derive(Clone, Copy, Debug)]
pub struct NobodyElse;

impl Confirmations for NobodyElse {
    async fn confirm(&self, _commit: Seq) -> Result<Confirmed, StoreError> {
        Ok(Confirmed { acknowledged: 1, waited_out: 0 })
    }
}
