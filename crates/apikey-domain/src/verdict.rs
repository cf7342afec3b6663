//! The outcome of a verification, and what of a key decides it. An outage is never a verdict.

use crate::{KeyType, KeyTypes, PermissionSet, Timestamp};

/// Whether a key is accepted for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The key is accepted.
    Valid,
    /// The key is refused, for that reason.
    Rejected(RejectionReason),
}

/// Why a key is refused. Where several reasons apply, the first in this order is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RejectionReason {
    /// The text is not a key: wrong brand, length, alphabet or checksum.
    Malformed,
    /// No such key was ever issued.
    Unknown,
    /// The key was revoked.
    Revoked,
    /// The key's `expires_at` has been reached.
    Expired,
    /// The key is of a type that the request does not accept.
    KeyTypeNotAccepted,
    /// The key lacks a permission that the request requires.
    PermissionMissing,
}

/// What of a key's record a verification depends on: whoever keeps keys in memory keeps this much of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing<'a> {
    /// What the key is for.
    pub key_type: KeyType,
    /// What it may do.
    pub permissions: &'a PermissionSet,
    /// When it stops being valid; `None` for never.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked, if it was.
    pub revoked_at: Option<Timestamp>,
}

impl Standing<'_> {
    /// Whether the key is accepted at `now` by somebody who accepts `key_types` and requires `required`.
    ///
    /// Where several reasons to refuse it apply, the first of revoked, expired, key type, permission is given.
    #[must_use]
    pub fn verdict(&self, now: Timestamp, key_types: KeyTypes, required: &PermissionSet) -> Verdict {
        if self.revoked_at.is_some() {
            Verdict::Rejected(RejectionReason::Revoked)
        } else if self.is_expired(now) {
            Verdict::Rejected(RejectionReason::Expired)
        } else if !key_types.contains(self.key_type) {
            Verdict::Rejected(RejectionReason::KeyTypeNotAccepted)
        } else if self.permissions.require(required).is_err() {
            Verdict::Rejected(RejectionReason::PermissionMissing)
        } else {
            Verdict::Valid
        }
    }

    /// Whether the key can authorize anything at `now`: it is neither revoked nor expired.
    #[must_use]
    pub fn stands(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && !self.is_expired(now)
    }

    fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|expires_at| now >= expires_at)
    }
}
