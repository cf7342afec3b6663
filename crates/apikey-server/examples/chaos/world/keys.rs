//! The keys that exist, as far as clients know.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
};

use apikey_domain::{KeyId, OrganizationId};

use super::{World, locked};

/// So many keys whose revocation was asked for last are still verified.
const RECENT: usize = 256;

/// A key that a client has.
pub(crate) struct Key {
    pub(crate) id: KeyId,
    pub(crate) raw: String,
    pub(crate) organization: OrganizationId,
    /// Whether it may create keys.
    pub(crate) manages: bool,
}

/// A create whose answer was lost. Its key's name is unique, so that the store can tell what became of it.
#[derive(Clone)]
pub(crate) struct LostCreate {
    pub(crate) name: String,
    pub(crate) organization: OrganizationId,
    pub(crate) authorizer: KeyId,
    pub(crate) start: u64,
}

/// The keys of a run.
#[derive(Default)]
pub(crate) struct Keys {
    live: Vec<Arc<Key>>,
    recent: VecDeque<Arc<Key>>,
    /// Nobody knows whether these are revoked.
    doubtful: VecDeque<Arc<Key>>,
    pub(crate) lost: Vec<LostCreate>,
}

impl World {
    /// Adds a key that was created.
    pub(crate) fn add(&self, key: Key) {
        locked(&self.keys).live.push(Arc::new(key));
    }

    /// How many keys are live, as far as clients know.
    pub(crate) fn live(&self) -> usize {
        locked(&self.keys).live.len()
    }

    /// Any key: as a rule a live one, now and then one whose revocation was asked for lately.
    pub(crate) fn any_key(&self) -> Option<Arc<Key>> {
        let keys = locked(&self.keys);
        if self.random(6) == 0 && !keys.recent.is_empty() {
            return keys.recent.get(self.random(keys.recent.len())).cloned();
        }
        keys.live.get(self.random(keys.live.len())).cloned()
    }

    /// Any live key.
    pub(crate) fn live_key(&self) -> Option<Arc<Key>> {
        let keys = locked(&self.keys);
        keys.live.get(self.random(keys.live.len())).cloned()
    }

    /// Any key that may create others, revoked or not.
    pub(crate) fn managing_key(&self) -> Option<Arc<Key>> {
        let keys = locked(&self.keys);
        let managing: Vec<&Arc<Key>> = keys.live.iter().chain(&keys.recent).filter(|key| key.manages).collect();
        managing.get(self.random(managing.len())).map(|key| Arc::clone(key))
    }

    /// Takes a live key, to revoke it; or, every other time, one that may be revoked already.
    pub(crate) fn take(&self) -> Option<Arc<Key>> {
        let mut keys = locked(&self.keys);
        if self.random(2) == 0
            && let Some(key) = keys.doubtful.pop_front()
        {
            return Some(key);
        }
        if keys.live.is_empty() {
            return None;
        }
        let taken = self.random(keys.live.len());
        let key = keys.live.swap_remove(taken);
        if keys.recent.len() == RECENT {
            keys.recent.pop_front();
        }
        keys.recent.push_back(Arc::clone(&key));
        Some(key)
    }

    /// The outcome of a key's revocation is unknown.
    pub(crate) fn doubt(&self, key: Arc<Key>) {
        locked(&self.keys).doubtful.push_back(key);
    }

    /// How many calls wait for a replica.
    pub(crate) fn outstanding_at(&self, replica: usize) -> usize {
        self.replicas.get(replica).map_or(0, |clients| clients.outstanding.load(Ordering::Acquire))
    }
}
