//! Who is calling: one credential becomes one principal.

use std::{net::IpAddr, sync::Arc};

use apikey_domain::{Actor, KeyTypes, PermissionSet, Principal, RejectionReason};

use crate::{
    Attempts, ErrorKind, Verification, VerificationRequest, VerifyApiKey, VerifyError,
    fence::Monotonic,
    ports::{Clock, KeyStore, StoreError, TokenAuthenticator, TokenError},
};

/// The one credential of a call, as it was presented. Cannot be printed.
#[derive(Clone, Copy)]
pub enum Credential<'a> {
    /// `Authorization: Bearer …`: an API key of this service, or a token of the configured issuer.
    Bearer(&'a str),
    /// `x-api-key: …`: an API key of this service.
    ApiKey(&'a str),
}

/// A credential did not identify anybody. The caller is told nothing but that.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticationError {
    /// It is not valid; the reason is for the log.
    #[error("the credential was rejected: {reason}")]
    Rejected {
        /// Why.
        reason: &'static str,
    },
    /// Too many attempts from the same peer have failed: the store is not asked about another key.
    #[error("too many attempts from the same peer have failed")]
    TooManyFailures,
    /// It cannot be told whether it is valid: the store failed.
    #[error(transparent)]
    Store(Arc<StoreError>),
    /// It cannot be told whether it is valid: the issuer's keys could not be had.
    #[error("the issuer's keys could not be had")]
    IssuerUnavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl AuthenticationError {
    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Rejected { .. } => ErrorKind::Unauthenticated,
            Self::TooManyFailures => ErrorKind::ResourceExhausted,
            Self::Store(error) => ErrorKind::from(&**error),
            Self::IssuerUnavailable(_) => ErrorKind::Unavailable,
        }
    }
}

/// Turns credentials into principals. Keys take the same way as every other verification, so that a key authenticates calls
/// to this very service exactly as long as it verifies; only keys of type `API_KEY` do.
pub struct Authenticator<S, C, T> {
    keys: Arc<VerifyApiKey<S, C>>,
    tokens: T,
    attempts: Attempts,
}

/// An attempt to authenticate by a key. It counts as failed unless something else is said of it, also where whoever made it went away
/// while the store was at work.
struct Attempt<'a> {
    attempts: &'a Attempts,
    peer: Option<IpAddr>,
    clock: &'a (dyn Fn() -> Monotonic + Sync),
    counts: bool,
}

impl Attempt<'_> {
    fn does_not_count(mut self) {
        self.counts = false;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.counts {
            self.attempts.failed(self.peer, (self.clock)());
        }
    }
}

impl<S: KeyStore, C: Clock, T: TokenAuthenticator> Authenticator<S, C, T> {
    /// Authentication by these keys and tokens, with so many attempts by keys that fail.
    pub fn new(keys: Arc<VerifyApiKey<S, C>>, tokens: T, attempts: Attempts) -> Self {
        Self { keys, tokens, attempts }
    }

    /// Refuses what cannot be a credential whatever is stored, at once and without any I/O: a key with a wrong checksum, say.
    ///
    /// # Errors
    /// [`AuthenticationError::Rejected`].
    pub fn precheck(&self, credential: Credential<'_>) -> Result<(), AuthenticationError> {
        let format = self.keys.format();
        match credential {
            Credential::Bearer(text) if !format.claims(text) => Ok(()),
            Credential::ApiKey(text) | Credential::Bearer(text) => match format.parse(text) {
                Ok(_) => Ok(()),
                Err(_) => Err(AuthenticationError::Rejected { reason: rejection_text(RejectionReason::Malformed) }),
            },
        }
    }

    /// Says who presents that credential, from that peer: its address, or of IPv6 its network's.
    ///
    /// # Errors
    /// [`AuthenticationError`]; an outage is never answered as a rejection. A key that is in memory and valid is never
    /// [`AuthenticationError::TooManyFailures`].
    pub async fn authenticate(
        &self,
        credential: Credential<'_>,
        peer: Option<IpAddr>,
    ) -> Result<Principal, AuthenticationError> {
        match credential {
            Credential::ApiKey(raw_key) => self.authenticate_key(raw_key, peer).await,
            Credential::Bearer(text) if self.keys.format().claims(text) => self.authenticate_key(text, peer).await,
            Credential::Bearer(token) => self.tokens.authenticate(token).await.map_err(|error| match error {
                TokenError::Rejected(reason) => AuthenticationError::Rejected { reason },
                TokenError::Unavailable(source) => AuthenticationError::IssuerUnavailable(source),
            }),
        }
    }

    async fn authenticate_key(&self, raw_key: &str, peer: Option<IpAddr>) -> Result<Principal, AuthenticationError> {
        let request = VerificationRequest {
            raw_key,
            required_permissions: PermissionSet::empty(),
            key_types: KeyTypes::default(),
            strict: false,
        };
        let clock = || self.keys.monotonic();
        let may_read = self.attempts.may_read(peer, clock());
        let attempt = Attempt { attempts: &self.attempts, peer, clock: &clock, counts: may_read };
        let verified = self.keys.verify_by(request, may_read).await;
        match verified {
            Ok(Verification::Valid(key)) => {
                attempt.does_not_count();
                Ok(Principal {
                    organization_id: key.organization_id().clone(),
                    permissions: key.permissions().clone(),
                    actor: Actor::api_key(key.id()),
                })
            }
            Ok(Verification::Rejected { reason: RejectionReason::Malformed, .. }) => {
                attempt.does_not_count();
                Err(AuthenticationError::Rejected { reason: rejection_text(RejectionReason::Malformed) })
            }
            // The same for an unknown key and for one in memory, which nobody shall be able to tell apart.
            Ok(Verification::Rejected { .. }) | Err(VerifyError::Store(_)) if !may_read => {
                Err(AuthenticationError::TooManyFailures)
            }
            Ok(Verification::Rejected { reason, .. }) => {
                Err(AuthenticationError::Rejected { reason: rejection_text(reason) })
            }
            Err(VerifyError::Store(error)) => {
                attempt.does_not_count();
                Err(AuthenticationError::Store(error))
            }
        }
    }
}

fn rejection_text(reason: RejectionReason) -> &'static str {
    use RejectionReason as Reason;
    match reason {
        Reason::Malformed => "the key is malformed",
        Reason::Unknown => "the key is unknown",
        Reason::Revoked => "the key is revoked",
        Reason::Expired => "the key is expired",
        Reason::KeyTypeNotAccepted => "the key is of another type",
        Reason::PermissionMissing => "the key lacks a permission",
    }
}
