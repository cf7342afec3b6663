//! The outcome of a verification. An outage is never a verdict.

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
