//! What all changes have in common.

use apikey_domain::{AuditEvent, KeyId, Timestamp};

/// Under what circumstances a change is made.
pub(crate) struct Circumstances<'a> {
    /// How long to wait for a row, in the form that the server reads.
    pub(crate) lock_timeout: &'a str,
    pub(crate) events: Vec<AuditEvent>,
    /// The key that authorized the change.
    pub(crate) on_behalf_of: Option<KeyId>,
    pub(crate) now: Timestamp,
}
