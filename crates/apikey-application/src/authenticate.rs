//! Who is calling: one credential becomes one principal.

use std::sync::Arc;

use apikey_domain::{Actor, KeyTypes, PermissionSet, Principal, RejectionReason};

use crate::{
    ErrorKind, Verification, VerificationRequest, VerifyApiKey, VerifyError,
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
}

impl<S: KeyStore, C: Clock, T: TokenAuthenticator> Authenticator<S, C, T> {
    /// Authentication by these keys and tokens.
    pub fn new(keys: Arc<VerifyApiKey<S, C>>, tokens: T) -> Self {
        Self { keys, tokens }
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

    /// Says who presents that credential.
    ///
    /// # Errors
    /// [`AuthenticationError`]; an outage is never answered as a rejection.
    pub async fn authenticate(&self, credential: Credential<'_>) -> Result<Principal, AuthenticationError> {
        match credential {
            Credential::ApiKey(raw_key) => self.authenticate_key(raw_key).await,
            Credential::Bearer(text) if self.keys.format().claims(text) => self.authenticate_key(text).await,
            Credential::Bearer(token) => self.tokens.authenticate(token).await.map_err(|error| match error {
                TokenError::Rejected(reason) => AuthenticationError::Rejected { reason },
                TokenError::Unavailable(source) => AuthenticationError::IssuerUnavailable(source),
            }),
        }
    }

    async fn authenticate_key(&self, raw_key: &str) -> Result<Principal, AuthenticationError> {
        let request = VerificationRequest {
            raw_key,
            required_permissions: PermissionSet::empty(),
            key_types: KeyTypes::default(),
            strict: false,
        };
        match self.keys.verify(request).await {
            Ok(Verification::Valid(key)) => Ok(Principal {
                organization_id: key.organization_id().clone(),
                permissions: key.permissions().clone(),
                actor: Actor::api_key(key.id()),
            }),
            Ok(Verification::Rejected { reason, .. }) => {
                Err(AuthenticationError::Rejected { reason: rejection_text(reason) })
            }
            Err(VerifyError::Store(error)) => Err(AuthenticationError::Store(error)),
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
