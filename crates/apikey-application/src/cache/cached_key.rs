//! What is kept of a key: as little as a verification needs. Organizations and sets of permissions that many keys have in
//! common are kept once.

use std::{
    collections::HashSet,
    hash::Hash,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering},
    },
};

use apikey_domain::{
    ApiKey, ApiKeyParts, KeyDigest, KeyId, KeyType, OrganizationId, PermissionSet, Standing, Timestamp,
};

/// No instant at all: before every one that there is.
const NEVER: i64 = i64::MIN;

/// A key as verifications see it, and what its place in memory has to know. With the counters of its `Arc` it fills two lines of a
/// processor's cache, which are all that a verification has to fetch.
#[derive(Debug)]
pub struct CachedKey {
    digest: KeyDigest,
    id: KeyId,
    organization_id: Arc<OrganizationId>,
    permissions: Arc<PermissionSet>,
    /// Microseconds since the Unix epoch, like all instants here, or [`NEVER`].
    expires_at: i64,
    revoked_at: i64,
    /// The latest use that has not been recorded.
    unrecorded_use: AtomicI64,
    /// When the record is to be read again, in seconds since the clock's origin.
    read_again_at: AtomicU32,
    /// What this key keeps for itself besides its own fields, in bytes.
    own_bytes: u32,
    key_type: KeyType,
    /// Since the hand of the clock passed last.
    asked_for: AtomicBool,
}

// The two lines, of which the counters of an `Arc` take 16 bytes.
const _: () = assert!(size_of::<CachedKey>() <= 128 - 16);

impl CachedKey {
    /// What is kept of that key.
    #[must_use]
    pub fn new(key: &ApiKey) -> Self {
        let ApiKeyParts { organization_id, permissions, .. } = key.parts();
        let own_bytes = organization_bytes(organization_id) + permission_bytes(permissions);
        Self::with(key, Arc::new(organization_id.clone()), Arc::new(permissions.clone()), own_bytes)
    }

    /// The same, with what it has in common with others.
    pub(super) fn pooled(key: &ApiKey, pool: &Pool) -> Self {
        let ApiKeyParts { organization_id, permissions, .. } = key.parts();
        let (organization_id, own) = pool.organizations.share(organization_id, organization_bytes);
        let (permissions, own_too) = pool.permissions.share(permissions, permission_bytes);
        Self::with(key, organization_id, permissions, own + own_too)
    }

    fn with(
        key: &ApiKey,
        organization_id: Arc<OrganizationId>,
        permissions: Arc<PermissionSet>,
        own_bytes: usize,
    ) -> Self {
        let ApiKeyParts { id, digest, key_type, expires_at, revoked_at, .. } = *key.parts();
        Self {
            digest,
            id,
            organization_id,
            permissions,
            expires_at: to_micros(expires_at),
            revoked_at: to_micros(revoked_at),
            unrecorded_use: AtomicI64::new(NEVER),
            read_again_at: AtomicU32::new(0),
            own_bytes: u32::try_from(own_bytes).unwrap_or(u32::MAX),
            key_type,
            asked_for: AtomicBool::new(false),
        }
    }

    /// What the key is found by.
    pub(super) const fn digest(&self) -> &KeyDigest {
        &self.digest
    }

    /// Which key.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// Whose key.
    #[must_use]
    pub fn organization_id(&self) -> &OrganizationId {
        &self.organization_id
    }

    /// What it may do.
    #[must_use]
    pub fn permissions(&self) -> &PermissionSet {
        &self.permissions
    }

    /// What it is for.
    #[must_use]
    pub const fn key_type(&self) -> KeyType {
        self.key_type
    }

    /// When it stops being valid; `None` for never.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        from_micros(self.expires_at)
    }

    /// What of it a verification depends on.
    #[must_use]
    pub fn standing(&self) -> Standing<'_> {
        Standing {
            key_type: self.key_type,
            permissions: &self.permissions,
            expires_at: from_micros(self.expires_at),
            revoked_at: from_micros(self.revoked_at),
        }
    }

    /// Says that the record is to be read again at `due`, in seconds since the clock's origin.
    pub(super) fn read_again_at(&self, due: u32) {
        self.read_again_at.store(due, Ordering::Relaxed);
    }

    /// Notes that the key was asked for. Says whether its record is to be read again, which the next to ask are told only after
    /// `patience` seconds.
    pub(super) fn ask(&self, now: u32, patience: u32) -> bool {
        self.asked_for.store(true, Ordering::Relaxed);
        let is_due = now >= self.read_again_at.load(Ordering::Relaxed);
        if is_due {
            self.read_again_at(now.saturating_add(patience));
        }
        is_due
    }

    /// Whether the key was asked for since this was called last.
    pub(super) fn take_asked_for(&self) -> bool {
        self.asked_for.swap(false, Ordering::Relaxed)
    }

    /// What this key keeps for itself besides its own fields, in bytes.
    pub(super) fn own_bytes(&self) -> usize {
        self.own_bytes as usize
    }

    /// Notes a use. Says whether it is the first since uses were last taken, so that the key has to be put on the list.
    pub(crate) fn note_use(&self, at: Timestamp) -> bool {
        let at = at.unix_micros();
        // Most uses of a busy key are of an instant that is noted already.
        self.unrecorded_use.load(Ordering::Relaxed) < at
            && self.unrecorded_use.fetch_max(at, Ordering::Relaxed) == NEVER
    }

    /// Whether there is a use that has not been recorded.
    pub(crate) fn has_use(&self) -> bool {
        self.unrecorded_use.load(Ordering::Relaxed) != NEVER
    }

    /// Takes the latest use that has not been recorded.
    pub(crate) fn take_use(&self) -> Option<Timestamp> {
        from_micros(self.unrecorded_use.swap(NEVER, Ordering::Relaxed))
    }
}

fn to_micros(instant: Option<Timestamp>) -> i64 {
    instant.map_or(NEVER, Timestamp::unix_micros)
}

fn from_micros(micros: i64) -> Option<Timestamp> {
    Timestamp::from_unix_micros(micros).ok()
}

/// What keys have in common.
#[derive(Default)]
pub(super) struct Pool {
    organizations: Shared<OrganizationId>,
    permissions: Shared<PermissionSet>,
}

/// The most values of a kind that are kept for sharing. Whoever finds no place keeps a value of its own, and pays for it.
const MAX_SHARED: usize = 16_384;

struct Shared<T>(Mutex<HashSet<Arc<T>>>);

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone + Eq + Hash> Shared<T> {
    /// The value, and what it costs whoever asks: nothing where it is shared.
    fn share(&self, value: &T, cost: fn(&T) -> usize) -> (Arc<T>, usize) {
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = values.get(value) {
            return (Arc::clone(shared), 0);
        }
        let own = Arc::new(value.clone());
        if values.len() >= MAX_SHARED {
            values.retain(|value| Arc::strong_count(value) > 1);
        }
        if values.len() >= MAX_SHARED {
            return (own, cost(value));
        }
        values.insert(Arc::clone(&own));
        (own, 0)
    }
}

/// What an allocation costs besides its content: the allocator's rounding, and the counters of an `Arc`.
const ALLOCATION: usize = 32;

fn organization_bytes(organization_id: &OrganizationId) -> usize {
    2 * ALLOCATION + size_of::<OrganizationId>() + organization_id.as_str().len()
}

/// At most: a list may have room for twice as many as it holds.
fn permission_bytes(permissions: &PermissionSet) -> usize {
    let size = size_of::<PermissionSet>() + 2 * permissions.len() * size_of::<apikey_domain::Permission>();
    let names: usize = permissions.iter().map(|permission| ALLOCATION + permission.as_str().len()).sum();
    2 * ALLOCATION + size + names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_is_noted_once_until_it_is_taken_and_never_moves_back() {
        let key = super::super::tests::a_key(1);
        let at = |micros| Timestamp::from_unix_micros(micros).unwrap();
        assert_eq!(key.take_use(), None);
        assert!(key.note_use(at(5)), "the first use puts the key on the list");
        assert!(!key.note_use(at(9)) && !key.note_use(at(7)) && !key.note_use(at(9)));
        assert_eq!(key.take_use(), Some(at(9)));
        assert_eq!(key.take_use(), None);
        assert!(key.note_use(at(9)));
    }

    #[test]
    fn equal_values_are_kept_once_and_whoever_finds_no_place_pays() {
        let shared: Shared<String> = Shared::default();
        let cost = String::len;
        let (one, nothing) = shared.share(&"org".to_owned(), cost);
        let (same, nothing_either) = shared.share(&"org".to_owned(), cost);
        assert!(Arc::ptr_eq(&one, &same) && (nothing, nothing_either) == (0, 0));

        let kept: Vec<_> = (1..MAX_SHARED).map(|number| shared.share(&number.to_string(), cost).0).collect();
        assert_eq!(shared.share(&"newcomer".to_owned(), cost).1, 8, "everything is in use");
        drop(kept);
        assert_eq!(shared.share(&"newcomer".to_owned(), cost).1, 0, "what nobody uses any more makes room");
        assert!(Arc::ptr_eq(&one, &shared.share(&"org".to_owned(), cost).0));
    }
}
