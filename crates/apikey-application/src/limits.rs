//! What one organization may have and do, where an operator sets a limit.

use std::{hash::Hash, num::NonZeroU32};

use crate::{buckets::Buckets, fence::Monotonic};

/// The limits of each organization; by default, none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// How many of its keys may be neither revoked nor expired for another one to be made.
    pub live_keys: Option<NonZeroU32>,
    /// How many keys a second may be made in it by this process, and how many a second each of its callers may revoke.
    pub changes_per_second: Option<NonZeroU32>,
}

/// The changes of each of those whose rate is limited: so many a second, and as many at once.
pub(crate) struct Changes<K>(Option<Buckets<K>>);

impl<K: Hash + Eq + Clone> Changes<K> {
    pub(crate) fn limited_to(per_second: Option<NonZeroU32>) -> Self {
        Self(per_second.map(|rate| Buckets::new(rate, rate.get())))
    }

    /// Counts a change, if there is room for it.
    pub(crate) fn take(&self, who: &K, now: Monotonic) -> bool {
        self.0.as_ref().is_none_or(|buckets| buckets.take(who, now))
    }

    pub(crate) const fn are_limited(&self) -> bool {
        self.0.is_some()
    }
}
