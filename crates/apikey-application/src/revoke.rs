//! Revoke a key: once and for all, and confirmed on a repeated call too.

use std::sync::Arc;

use apikey_domain::{Actor, AuditEvent, KeyId, MissingPermissions, OrganizationId};

use crate::{
    Asker, Caller, ErrorKind, FieldViolation, KeyCache, Policy,
    error::Checked,
    fence::{Arrival, Monotonic, Ruling, may_cache},
    freshness::Freshness,
    limits::{Changes, Limits},
    ports::{Change, Clock, Commit, CommitError, Confirmations, Confirmed, KeyStore, Read, Seq, StoreError},
};

/// How often a change is made anew when somebody else changed the key in between. A revocation is final, so that the second
/// attempt already meets a key that only a narrowing of another kind could change again.
const ATTEMPTS: usize = 5;

/// That there is no such key is told only after a renewal that began after the call.
const STRICT: bool = true;

/// The key may not be revoked; [`StoreError::OutcomeUnknown`] says that it may be.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// The caller lacks the permission to revoke keys.
    #[error(transparent)]
    PermissionDenied(#[from] MissingPermissions),
    /// Fields of the request are wrong.
    #[error("fields of the request are wrong")]
    InvalidFields(Vec<FieldViolation>),
    /// There is no such key in the caller's organization.
    #[error("there is no such key")]
    NotFound,
    /// The key that authorized the call was revoked or has expired meanwhile.
    #[error("the authorizing key no longer stands")]
    CallerRevoked,
    /// The caller revokes more keys a second than it may.
    #[error("the caller revokes more keys a second than it may")]
    TooManyChanges,
    /// Others kept changing the key.
    #[error("the key was changed by others again and again")]
    Contended,
    /// The revocation is committed, and it could not be told in time that every replica knows of it. Asking again waits again.
    #[error("the revocation is committed, and not yet confirmed by every replica")]
    NotConfirmed(#[source] StoreError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RevokeError {
    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::PermissionDenied(_) => ErrorKind::PermissionDenied,
            Self::InvalidFields(_) => ErrorKind::InvalidArgument,
            Self::NotFound => ErrorKind::NotFound,
            Self::CallerRevoked => ErrorKind::Unauthenticated,
            Self::TooManyChanges => ErrorKind::ResourceExhausted,
            Self::Contended | Self::NotConfirmed(_) => ErrorKind::Unavailable,
            Self::Store(error) => ErrorKind::from(error),
        }
    }
}

/// The use case: revokes a key of the caller's organization.
pub struct RevokeApiKey<S, C, R> {
    store: Arc<S>,
    confirmations: Arc<R>,
    clock: Arc<C>,
    freshness: Freshness<C>,
    policy: Policy,
    /// Each caller's: nobody keeps another one from revoking.
    revocations: Changes<(OrganizationId, Actor)>,
}

impl<S: KeyStore, C: Clock, R: Confirmations> RevokeApiKey<S, C, R> {
    /// Revokes keys under that policy. The cache is the one that verifications are answered from.
    pub fn new(store: Arc<S>, cache: Arc<KeyCache>, confirmations: Arc<R>, clock: Arc<C>, policy: Policy) -> Self {
        let freshness = Freshness::new(cache, Arc::clone(&clock), Asker::Trusted);
        Self { store, confirmations, clock, freshness, policy, revocations: Changes::limited_to(None) }
    }

    /// The same within those limits.
    #[must_use]
    pub fn within(self, limits: Limits) -> Self {
        Self { revocations: Changes::limited_to(limits.changes_per_second), ..self }
    }

    /// Revokes a key, and returns once no replica accepts it any more. A key that is already revoked keeps its `revoked_at`;
    /// its revocation is committed to and confirmed all the same, since the call that made it may still wait, or may have died.
    /// `key_id` is what the transport read, or what is wrong with it: only a permitted caller learns which.
    ///
    /// # Errors
    /// [`RevokeError`], in this order: the caller's permission, the fields, the key, the confirmation.
    pub async fn revoke(&self, caller: &Caller, key_id: Checked<KeyId>) -> Result<Confirmed, RevokeError> {
        let seq = self.commit(caller, key_id).await?;
        self.confirmations.confirm(seq).await.map_err(RevokeError::NotConfirmed)
    }

    /// Returns the revocation's own place in the sequence.
    async fn commit(&self, caller: &Caller, key_id: Checked<KeyId>) -> Result<Seq, RevokeError> {
        let principal = &caller.principal;
        self.policy.authorize(principal)?;
        let key_id = key_id.map_err(RevokeError::InvalidFields)?;
        let organization_id = &principal.organization_id;
        if self.revocations.are_limited()
            && !self.revocations.take(&(organization_id.clone(), principal.actor.clone()), self.freshness.now())
        {
            return Err(RevokeError::TooManyChanges);
        }

        let arrival = Arrival::new(self.freshness.now(), STRICT);
        for _ in 0..ATTEMPTS {
            // What is published before the read begins, a read from the primary contains.
            let applied = self.freshness.published().applied();
            let begun = self.freshness.now();
            let Read { value, seq } = self.store.find_by_id(organization_id, key_id).await?;
            let Some(mut key) = value else {
                if self.proves_absence(arrival, applied, seq, begun).await? {
                    return Err(RevokeError::NotFound);
                }
                if !may_cache(seq, applied) {
                    self.store.distrust_connections();
                }
                continue;
            };
            let now = self.clock.now();
            let (change, events) = if let Some(event) = key.revoke(now) {
                let actor = principal.actor.clone();
                (Change::Revoke { key }, vec![AuditEvent { event, actor, origin: caller.origin.clone() }])
            } else {
                let (organization_id, digest) = (organization_id.clone(), *key.digest());
                (Change::ConfirmRevoked { organization_id, key_id, digest }, Vec::new())
            };
            let commit = Commit { change, events, on_behalf_of: principal.actor.key_id(), now };
            match self.store.commit(commit).await {
                Ok(seq) => return Ok(seq),
                // What the read saw, the change did not: the next read tells.
                Err(CommitError::StaleRevision | CommitError::NotFound) => {}
                Err(CommitError::AuthorizerNotStanding) => return Err(RevokeError::CallerRevoked),
                Err(
                    error @ (CommitError::DuplicateDigest
                    | CommitError::TooManyKeys
                    | CommitError::IdempotencyKeyUsed(_)),
                ) => {
                    return Err(StoreError::Defect(Box::new(error)).into());
                }
                Err(CommitError::Store(error)) => return Err(error.into()),
            }
        }
        Err(RevokeError::Contended)
    }

    /// Whether a read that found no such key was answered by a server that was the primary after the call arrived: an old one
    /// knows nothing of the newest keys.
    async fn proves_absence(
        &self,
        arrival: Arrival,
        applied: Seq,
        read: Seq,
        begun: Monotonic,
    ) -> Result<bool, StoreError> {
        let waiter = self.freshness.admitted(arrival).await?.note(applied);
        Ok(self.freshness.judge(arrival, waiter, false, read, begun).await? == Ruling::Take)
    }
}
