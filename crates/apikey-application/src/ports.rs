//! The outbound ports: what the use cases need from the world. Adapters implement them; nothing here decides a rule.
//!
//! A trait method is a plain `fn` that returns a `Send` future; implementations are written as `async fn`.

mod revocations;
mod store;

use std::{error::Error, future::Future};

use apikey_domain::{Principal, Timestamp};

use crate::fence::Monotonic;

pub use revocations::{Confirmations, Confirmed, Renewal, Renewed, Revocations};
pub use store::{
    Change, Commit, CommitError, KeyStore, Page, PageQuery, Position, Read, Seq, StoreError, StoredIdempotency, Use,
};

/// Tells the time.
pub trait Clock: Send + Sync + 'static {
    /// The current instant, the same for all replicas that share a database.
    fn now(&self) -> Timestamp;

    /// The current instant, for whoever has read the monotonic clock just now: a clock that is made of that one need not look again.
    fn now_by(&self, _reading: Monotonic) -> Timestamp {
        self.now()
    }

    /// The current instant of this machine's monotonic clock, which goes on while the machine sleeps.
    fn monotonic(&self) -> Monotonic;
}

/// The operating system's generator gave nothing.
#[derive(Debug, thiserror::Error)]
#[error("no entropy")]
pub struct EntropyError(#[source] pub Box<dyn Error + Send + Sync>);

/// Draws random bytes that nobody can guess.
pub trait Entropy: Send + Sync + 'static {
    /// Fills the buffer.
    ///
    /// # Errors
    /// [`EntropyError`] where the generator fails; the buffer's content is then unspecified.
    fn fill(&self, buffer: &mut [u8]) -> Result<(), EntropyError>;
}

/// Checks bearer tokens that another issuer signed.
pub trait TokenAuthenticator: Send + Sync + 'static {
    /// Turns a token into the principal that it stands for.
    ///
    /// # Errors
    /// [`TokenError::Rejected`] for every token that is not valid, whatever is wrong with it; [`TokenError::Unavailable`] where
    /// it cannot be told, since the issuer's keys could not be had.
    fn authenticate(&self, token: &str) -> impl Future<Output = Result<Principal, TokenError>> + Send;
}

/// A token was not accepted. Never holds the token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It is not a valid token of the configured issuer. The reason is for the log.
    #[error("the token was rejected: {0}")]
    Rejected(&'static str),
    /// The issuer's keys could not be had.
    #[error("the issuer's keys could not be had")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
}

/// No issuer is configured: every token is rejected.
impl<T: TokenAuthenticator> TokenAuthenticator for Option<T> {
    async fn authenticate(&self, token: &str) -> Result<Principal, TokenError> {
        match self {
            Some(tokens) => tokens.authenticate(token).await,
            None => Err(TokenError::Rejected("no issuer is configured")),
        }
    }
}
