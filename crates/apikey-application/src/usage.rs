//! `last_used_at`: uses are noted in memory and flushed in batches, so that a verification writes nothing.

use std::{
    hint::black_box,
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
            self.list(Arc::clone(key));
        }
    }

    /// Records all noted uses, in batches. Returns how many were recorded: for each key one, or two where it was forgotten and read
    /// again meanwhile.
    ///
    /// # Errors
    /// [`StoreError`] of the first batch that failed; its uses, and those of the batches after it, stay noted.
    ///
    /// # Cancel safety
    /// A flush that is dropped loses the uses that it had taken; let it end.
    pub async fn flush(&self, store: &impl KeyStore) -> Result<usize, StoreError> {
        let mut listed: Vec<Arc<CachedKey>> =
            self.shards.iter().flat_map(|shard| mem::take(&mut *lock(shard))).collect();
        let mut recorded = 0;
        while !listed.is_empty() {
            // A batch is taken and given up while it is in the processor's cache: with all keys at once, each would have to come from
            // memory for each step.
            let batch = listed.split_off(listed.len().saturating_sub(BATCH));
            let uses = take(&batch);
            if let Err(error) = store.record_uses(&uses).await {
                for (key, noted) in batch.iter().zip(uses) {
                    self.note(key, noted.at);
                }
                for key in listed {
                    self.list(key);
                }
                return Err(error);
            }
            recorded += uses.len();
        }
        Ok(recorded)
    }

    fn list(&self, key: Arc<CachedKey>) {
        let [.., last] = key.id().as_uuid().into_bytes();
        #[expect(clippy::indexing_slicing, reason = "the remainder of a division by the length is an index")]
        lock(&self.shards[usize::from(last) % SHARDS]).push(key);
    }
}

/// Takes the latest use of each of these keys, which are all listed and so have one.
///
/// They are looked at before: a processor reads many places at once, and changes one after the other.
fn take(keys: &[Arc<CachedKey>]) -> Vec<Use> {
    black_box(keys.iter().map(|key| key.has_use()).fold(true, |all, one| all & one));
    let take = |key: &Arc<CachedKey>| key.take_use().map(|at| Use { key_id: key.id(), at });
    keys.iter().filter_map(take).collect()
}

/// A panic elsewhere cannot leave a list half changed: each critical section is one operation.
fn lock(shard: &Shard) -> MutexGuard<'_, Vec<Arc<CachedKey>>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
