//! Verify: the one way of every presented key, whoever asks. This is the hot path.

use std::sync::Arc;

use apikey_domain::{KeyFormat, KeyId, KeyTypes, PermissionSet, RejectionReason, Verdict};

use crate::{
    Asker, CachedKey, ErrorKind, KeyCache, UsageLog,
    fence::Monotonic,
    lookup::{Found, Lookup},
    ports::{Clock, KeyStore, StoreError},
};

/// What somebody wants to know about a key that was presented to them.
pub struct VerificationRequest<'a> {
    /// The key as it was presented.
    pub raw_key: &'a str,
    /// What the key must be permitted to do: all of these.
    pub required_permissions: PermissionSet,
    /// The types of key that are accepted.
    pub key_types: KeyTypes,
    /// Whether freshness must be proved against the database for this very call, by a renewal of the lease that begins after it.
    /// Where one process has the store to itself, its memory is always as fresh.
    pub strict: bool,
}

/// The answer to a verification.
#[derive(Clone, Debug)]
pub enum Verification {
    /// The key is accepted; the use is noted.
    Valid(Arc<CachedKey>),
    /// The key is refused.
    Rejected {
        /// Why.
        reason: RejectionReason,
        /// Which key, where it exists.
        key_id: Option<KeyId>,
    },
}

/// Nothing can be said about the key.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The store failed, for all who waited for the same read; never answered as "the key is invalid".
    #[error(transparent)]
    Store(#[from] Arc<StoreError>),
}

impl VerifyError {
    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(error) => ErrorKind::from(&**error),
        }
    }
}

/// The use case: says whether a presented key is accepted.
pub struct VerifyApiKey<S, C> {
    keys: Lookup<S, C>,
    clock: Arc<C>,
    usage: Arc<UsageLog>,
    format: KeyFormat,
}

impl<S: KeyStore, C: Clock> VerifyApiKey<S, C> {
    /// Verification of keys of that format, out of that cache where the fence allows it. Whoever asks has the cache's budget of
    /// reads for itself.
    pub fn new(
        store: Arc<S>,
        cache: Arc<KeyCache>,
        clock: Arc<C>,
        usage: Arc<UsageLog>,
        format: KeyFormat,
        asker: Asker,
    ) -> Self {
        Self { keys: Lookup::new(store, Arc::clone(&clock), cache, asker), clock, usage, format: format.prepared() }
    }

    /// Says whether the key is accepted. Garbage ends at the parser, before any I/O. To be called once the request has been read,
    /// and not earlier: from here on it counts as arrived.
    ///
    /// # Errors
    /// [`VerifyError`] where it cannot be told.
    pub async fn verify(&self, request: VerificationRequest<'_>) -> Result<Verification, VerifyError> {
        self.verify_by(request, true).await
    }

    /// As [`VerifyApiKey::verify`]; without `may_read`, keys that are not in memory are [`StoreError::Overloaded`].
    pub(crate) async fn verify_by(
        &self,
        request: VerificationRequest<'_>,
        may_read: bool,
    ) -> Result<Verification, VerifyError> {
        let VerificationRequest { raw_key, required_permissions, key_types, strict } = request;
        let Ok(presented) = self.format.parse(raw_key) else {
            return Ok(Verification::Rejected { reason: RejectionReason::Malformed, key_id: None });
        };
        let Found { key, at } = self.keys.find(&presented.digest(), strict, may_read).await?;
        let Some(key) = key else {
            return Ok(Verification::Rejected { reason: RejectionReason::Unknown, key_id: None });
        };
        let now = self.clock.now_by(at);
        match key.standing().verdict(now, key_types, &required_permissions) {
            Verdict::Valid => {
                self.usage.note(&key, now);
                Ok(Verification::Valid(key))
            }
            Verdict::Rejected(reason) => Ok(Verification::Rejected { reason, key_id: Some(key.id()) }),
        }
    }

    /// This machine's monotonic time.
    pub(crate) fn monotonic(&self) -> Monotonic {
        self.clock.monotonic()
    }

    /// The format of the keys that are verified.
    #[must_use]
    pub const fn format(&self) -> &KeyFormat {
        &self.format
    }
}
