//! `last_used_at`: uses are noted in memory and flushed in batches, so that a verification writes nothing.

use std::{
    cmp::Reverse,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use apikey_domain::Timestamp;

use crate::{
    CachedKey,
    ports::{KeyStore, StoreError, Use},
};

/// Locks that share the noted uses among them, so that verifications on different threads rarely meet.
const SHARDS: usize = 16;

/// Uses in one statement of the store: large enough to be cheap for each, small enough to lock rows only briefly.
const BATCH: usize = 1_000;

/// Keys that have been used since uses were last taken. Each key notes its own latest use; the list keeps it alive until that is
/// recorded, wherever else it was forgotten.
type Shard = Mutex<Vec<Arc<CachedKey>>>;

/// The uses that have been noted and not yet recorded: for each key the latest one.
#[derive(Debug, Default)]
pub struct UsageLog {
    shards: [Shard; SHARDS],
}

impl UsageLog {
    /// A log of no uses.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that a key verified successfully at that instant.
    pub fn note(&self, key: &Arc<CachedKey>, at: Timestamp) {
        if key.note_use(at) {
            let [.., last] = key.id().as_uuid().into_bytes();
            #[expect(clippy::indexing_slicing, reason = "the remainder of a division by the length is an index")]
            lock(&self.shards[usize::from(last) % SHARDS]).push(Arc::clone(key));
        }
    }

    /// Records all noted uses, in batches, each ordered by key so that two replicas never wait for each other in a circle.
    /// Returns how many keys were recorded.
    ///
    /// # Errors
    /// [`StoreError`] of the first batch that failed; its uses, and those of the batches after it, are noted again.
    ///
    /// # Cancel safety
    /// A flush that is dropped loses the uses that it had taken; let it end.
    pub async fn flush(&self, store: &impl KeyStore) -> Result<usize, StoreError> {
        let listed = self.shards.iter().flat_map(|shard| mem::take(&mut *lock(shard)));
        let mut taken: Vec<(Use, Arc<CachedKey>)> =
            listed.filter_map(|key| key.take_use().map(|at| (Use { key_id: key.id(), at }, key))).collect();
        // A key that was forgotten and read again was noted twice: its latest use comes first, and stays.
        taken.sort_unstable_by_key(|(noted, _)| (noted.key_id, Reverse(noted.at)));
        taken.dedup_by_key(|(noted, _)| noted.key_id);
        let (uses, keys): (Vec<Use>, Vec<Arc<CachedKey>>) = taken.into_iter().unzip();
        let mut recorded = 0;
        for batch in uses.chunks(BATCH) {
            if let Err(error) = store.record_uses(batch).await {
                for (noted, key) in uses.iter().zip(&keys).skip(recorded) {
                    self.note(key, noted.at);
                }
                return Err(error);
            }
            recorded += batch.len();
        }
        Ok(recorded)
    }
}

/// A panic elsewhere cannot leave a list half changed: each critical section is one operation.
fn lock(shard: &Shard) -> MutexGuard<'_, Vec<Arc<CachedKey>>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
