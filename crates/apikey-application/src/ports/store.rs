//! The store: where keys, their audit trail and the revocation head live.

use std::{error::Error, future::Future};

use apikey_domain::{Actor, ApiKey, AuditEvent, KeyDigest, KeyId, KeyType, OrganizationId, Timestamp};

use crate::{Idempotency, RequestDigest, fence::Mark};

/// A place in the sequence of all changes that narrow a right.
///
/// Numbers are comparable within one history only. A failover begins a new timeline. A database that was restored, or another
/// one behind the same name, has the same timelines: it is told by a [`Mark`]. A store that never fails over is on timeline 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seq {
    /// Which timeline the number belongs to.
    pub timeline: u32,
    /// The revocation head's number in it.
    pub number: u64,
    /// What this process, as a replica, has left there. `None` where it is not looked for, as in a store of one process; of a
    /// read also where it is missing.
    pub mark: Option<Mark>,
}

impl Seq {
    /// A place without a mark.
    #[must_use]
    pub const fn new(timeline: u32, number: u64) -> Self {
        Self { timeline, number, mark: None }
    }

    /// Whether what has this place shows everything up to `earlier`: it is of the same history, and not older.
    #[must_use]
    pub fn contains(self, earlier: Self) -> bool {
        let is_marked = earlier.mark.is_none_or(|mark| self.mark.is_some_and(|own| own.follows(mark)));
        self.timeline == earlier.timeline && self.number >= earlier.number && is_marked
    }
}

/// A value together with the revocation head, both of one snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read<T> {
    /// What was read.
    pub value: T,
    /// The head as that same snapshot shows it, with this process's mark: every change up to it is visible in `value`.
    pub seq: Seq,
}

/// A place in a listing: just after the key with these values, newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The key's `created_at`.
    pub created_at: Timestamp,
    /// The key's id, which orders keys of one instant.
    pub id: KeyId,
}

/// Which page of which listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageQuery {
    /// Whose keys.
    pub organization_id: OrganizationId,
    /// Of which type; `None` for all.
    pub key_type: Option<KeyType>,
    /// After which place; `None` for the beginning.
    pub after: Option<Position>,
    /// At most how many keys; 1 to 1000.
    pub limit: u32,
}

/// One page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The keys, newest first: by `created_at`, then by id, both descending.
    pub keys: Vec<ApiKey>,
    /// Whether there are keys after the last one of this page.
    pub more: bool,
    /// How many keys match the query's organization and type, on all pages.
    pub total_count: u64,
}

/// What a commit changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds a key.
    Issue {
        /// The new key.
        key: ApiKey,
        /// The claim that this request is carried out at most once.
        idempotency: Option<Idempotency>,
        /// How many keys of its organization may be neither revoked nor expired then, this one included; without a number, any.
        /// Where creations run at the same time, each need not see the others.
        most_live: Option<u32>,
    },
    /// Stores a key that was revoked. The stored revision must be the key's own minus one. Advances the head, and notes its new
    /// number as the key's `narrowed_seq`.
    Revoke {
        /// The key after the transition.
        key: ApiKey,
    },
    /// Changes nothing, but locks the row of a key that is already revoked and commits, so that the answer is as durable as
    /// the revocation itself. The commit's [`Seq`] is that of the key's own `narrowed_seq`.
    ConfirmRevoked {
        /// Whose key.
        organization_id: OrganizationId,
        /// Which key.
        key_id: KeyId,
        /// That key's digest, for whoever keeps keys in memory.
        digest: KeyDigest,
    },
}

/// A unit of work, applied in one transaction or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// What changes.
    pub change: Change,
    /// The audit events of the change, stored with it: no event, no change.
    pub events: Vec<AuditEvent>,
    /// The API key that authorized the change, if one did. The adapter locks its row in the same transaction, rows in the order
    /// of their ids, and refuses the commit unless [`ApiKey::stands`] holds of it at `now`.
    pub on_behalf_of: Option<KeyId>,
    /// The instant at which the change is made.
    pub now: Timestamp,
}

/// A use of a key that has not been recorded yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// Which key.
    pub key_id: KeyId,
    /// When it last verified successfully.
    pub at: Timestamp,
}

/// What was stored under an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredIdempotency {
    /// The key that the first request issued.
    pub key_id: KeyId,
    /// The digest of the first request.
    pub request: RequestDigest,
}

/// Where keys are kept.
///
/// All methods MUST return values that are durable and visible to every later read of any replica. A future that is dropped
/// MUST NOT leave a transaction half applied.
pub trait KeyStore: Send + Sync + 'static {
    /// Finds a key by its digest, together with the head of the same snapshot; absence too has a seq.
    ///
    /// # Errors
    /// [`StoreError`] where it cannot be told; never `None` for a key that exists.
    fn find_by_digest(
        &self,
        digest: &KeyDigest,
    ) -> impl Future<Output = Result<Read<Option<ApiKey>>, StoreError>> + Send;

    /// Finds a key of an organization by its id, together with the head of the same snapshot; absence too has a seq. A key of
    /// another organization is `None`.
    ///
    /// # Errors
    /// [`StoreError`] where it cannot be told.
    fn find_by_id(
        &self,
        organization_id: &OrganizationId,
        key_id: KeyId,
    ) -> impl Future<Output = Result<Read<Option<ApiKey>>, StoreError>> + Send;

    /// Finds what was stored under an organization's and actor's idempotency key.
    ///
    /// # Errors
    /// [`StoreError`] where it cannot be told.
    fn find_idempotency(
        &self,
        organization_id: &OrganizationId,
        actor: &Actor,
        key: &crate::IdempotencyKey,
    ) -> impl Future<Output = Result<Option<StoredIdempotency>, StoreError>> + Send;

    /// Reads a page, newest first. MUST cost the same however many keys come before it, and MUST neither skip nor repeat a key
    /// while others insert.
    ///
    /// # Errors
    /// [`StoreError`] where it cannot be read.
    fn page(&self, query: &PageQuery) -> impl Future<Output = Result<Page, StoreError>> + Send;

    /// Applies a unit of work in one transaction. The returned [`Seq`] is the head's for an issue (as far as it is known
    /// without another read), the new head for a revocation, the key's `narrowed_seq` for a confirmation.
    ///
    /// # Errors
    /// [`CommitError`]; nothing was changed, except where [`StoreError::OutcomeUnknown`] says that it may have been.
    fn commit(&self, commit: Commit) -> impl Future<Output = Result<Seq, CommitError>> + Send;

    /// Records uses, in any order. `last_used_at` MUST never move back, also where a key is there twice; uses of keys that do not
    /// exist are passed over.
    ///
    /// # Errors
    /// [`StoreError`]; any part of the batch may then have been recorded, and recording it again is harmless.
    fn record_uses(&self, uses: &[Use]) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Uses no connection any more that is open now: what it reaches has answered like a server that lags, or that is no longer
    /// the primary. Calls that run are not disturbed. A store without connections does nothing.
    fn distrust_connections(&self);

    /// Succeeds while the store answers: for readiness.
    ///
    /// # Errors
    /// [`StoreError`] where it does not.
    fn ping(&self) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// The store did not do what was asked. Never holds a secret; texts of the database stay in `source`, for the log.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, or lost the connection before a change was sent.
    #[error("the store cannot be reached")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
    /// It did not answer in time.
    #[error("the store did not answer in time")]
    TimedOut,
    /// Too many calls are waiting for it.
    #[error("the store is overloaded")]
    Overloaded,
    /// The answer to a commit was lost: it may have happened or not.
    #[error("the outcome of the commit is unknown")]
    OutcomeUnknown(#[source] Box<dyn Error + Send + Sync>),
    /// What is stored is not what this version stores, or a statement of ours is wrong.
    #[error("the store holds or was given something illegal")]
    Defect(#[source] Box<dyn Error + Send + Sync>),
}

impl StoreError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::TimedOut | Self::Overloaded | Self::OutcomeUnknown(_) => true,
            Self::Defect(_) => false,
        }
    }
}

/// A unit of work was not applied.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The API key that authorized the change was revoked or has expired meanwhile.
    #[error("the authorizing key no longer stands")]
    AuthorizerNotStanding,
    /// The key has another revision than the change was made from; read it again.
    #[error("the key was changed meanwhile")]
    StaleRevision,
    /// There is no such key in that organization, or it is not revoked where it should be confirmed.
    #[error("there is no such key")]
    NotFound,
    /// The organization has as many keys as it may have.
    #[error("the organization has as many keys as it may have")]
    TooManyKeys,
    /// A key with that digest exists.
    #[error("a key with that digest exists")]
    DuplicateDigest,
    /// The idempotency key was used before.
    #[error("the idempotency key was used before")]
    IdempotencyKeyUsed(StoredIdempotency),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
