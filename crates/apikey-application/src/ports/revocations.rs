//! The revocation log as replicas share it: who is a replica, what each has applied, and what was revoked since.

use std::future::Future;

use apikey_domain::{KeyDigest, Timestamp};

use super::{Read, Seq, StoreError};
use crate::fence::{Lease, Mark, Reaping, ReplicaId, ReplicaRow};

/// What a renewal brings, all of one snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// The revocation head.
    pub head: Seq,
    /// The digests of all keys whose rights were narrowed after what the renewal acknowledged.
    pub revoked: Vec<KeyDigest>,
    /// The database's time.
    pub now: Timestamp,
}

/// How a renewal ended that the database has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// It was committed.
    Committed(Renewal),
    /// There is no such row.
    RowGone,
    /// The row lacks renewals that were committed: the database was restored, or is another one. Nothing was changed.
    OtherHistory,
}

/// What replicas that verify from memory share through the database, on its primary only. A store of one process does not need
/// it.
pub trait Revocations: Send + Sync + 'static {
    /// Makes the row of a replica, in one plain INSERT whose `acked` is the head as that same statement reads it. Returns that
    /// head. From then on the store's reads look for this replica's mark.
    ///
    /// # Errors
    /// [`StoreError`]; the row may be there all the same, now or later.
    ///
    /// # Cancel safety
    /// A call that is dropped closes its connection at once. What it has sent is never cancelled, and may be committed later.
    fn join(&self, replica: ReplicaId, lease: Lease) -> impl Future<Output = Result<Seq, StoreError>> + Send;

    /// In one autocommitted UPDATE of the replica's row, sets `acked` to `applied`, writes this renewal's number, and brings
    /// what was revoked since; on condition that the last renewal whose answer is known, `mark`, is in that row's past: the
    /// row's number is not smaller, and smaller than this one's. It runs on a connection of its own, which no other call uses.
    ///
    /// # Errors
    /// [`StoreError`]; the renewal may be committed all the same, now or later.
    ///
    /// # Cancel safety
    /// As [`Revocations::join`].
    fn renew(&self, mark: Mark, renewal: u64, applied: u64)
    -> impl Future<Output = Result<Renewed, StoreError>> + Send;

    /// All replicas' rows, with the head of the same snapshot.
    ///
    /// # Errors
    /// [`StoreError`] where they cannot be read.
    fn replicas(&self) -> impl Future<Output = Result<Read<Vec<ReplicaRow>>, StoreError>> + Send;

    /// Deletes the row of a replica that was watched until it had no lease, on condition that it has not been renewed since.
    /// Says whether it did.
    ///
    /// # Errors
    /// [`StoreError`] where it cannot be told.
    fn reap(&self, watched: Reaping) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Deletes the row of a replica that has dropped its lease. A row that is gone is no error.
    ///
    /// # Errors
    /// [`StoreError`] where it cannot be told.
    fn leave(&self, replica: ReplicaId) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Ready when there may be a new revocation: a mere hint, which may be lost or come for nothing.
    ///
    /// # Cancel safety
    /// A call that is dropped loses nothing but this one hint.
    fn hinted(&self) -> impl Future<Output = ()> + Send;
}

/// How it was made certain that no replica accepts a key any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// How many replicas said so themselves.
    pub acknowledged: usize,
    /// For how many the end of their lease was waited for.
    pub waited_out: usize,
}

/// Tells when a revocation that was committed has reached every replica.
pub trait Confirmations: Send + Sync + 'static {
    /// Waits until no replica accepts a key any more whose revocation has that place in the sequence. To be called once the
    /// commit's answer is there.
    ///
    /// # Errors
    /// [`StoreError`] where it cannot be told within the time that the longest lease lasts. The revocation is committed all the
    /// same, and waiting again is harmless.
    fn confirm(&self, commit: Seq) -> impl Future<Output = Result<Confirmed, StoreError>> + Send;
}
