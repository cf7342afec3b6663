//! `last_used_at`: uses are noted in memory and flushed in batches, so that a verification writes nothing.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
};

use apikey_domain::{KeyId, Timestamp};

use crate::ports::{KeyStore, StoreError, Use};

/// Locks that share the noted uses among them, so that verifications on different threads rarely meet.
const SHARDS: usize = 16;

/// Uses in one statement of the store: large enough to be cheap for each, small enough to lock rows only briefly.
const BATCH: usize = 1_000;

type Shard = Mutex<HashMap<KeyId, Timestamp>>;

/// The uses that have been noted and not yet recorded: for each key the latest one.
#[derive(Debug)]
pub struct UsageLog {
    shards: [Shard; SHARDS],
    hasher: RandomState,
}

impl UsageLog {
    /// A log of no uses.
    #[must_use]
    pub fn new() -> Self {
        Self { shards: std::array::from_fn(|_| Shard::default()), hasher: RandomState::new() }
    }

    /// Notes that a key verified successfully at that instant.
    pub fn note(&self, key_id: KeyId, at: Timestamp) {
        let Some(shard) = self.shards.get(self.shard_of(&key_id)) else { return };
        lock(shard).entry(key_id).and_modify(|noted| *noted = at.max(*noted)).or_insert(at);
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
        let mut uses: Vec<Use> =
            self.shards.iter().flat_map(|shard| std::mem::take(&mut *lock(shard))).map(into_use).collect();
        uses.sort_unstable_by_key(|noted| noted.key_id);
        let mut recorded = 0;
        for batch in uses.chunks(BATCH) {
            if let Err(error) = store.record_uses(batch).await {
                for noted in uses.iter().skip(recorded) {
                    self.note(noted.key_id, noted.at);
                }
                return Err(error);
            }
            recorded += batch.len();
        }
        Ok(recorded)
    }

    fn shard_of(&self, key: &impl Hash) -> usize {
        usize::try_from(self.hasher.hash_one(key)).unwrap_or(0) % SHARDS
    }
}

impl Default for UsageLog {
    fn default() -> Self {
        Self::new()
    }
}

fn into_use((key_id, at): (KeyId, Timestamp)) -> Use {
    Use { key_id, at }
}

/// A panic elsewhere cannot leave a map half changed: each critical section is one operation.
fn lock(shard: &Shard) -> MutexGuard<'_, HashMap<KeyId, Timestamp>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
