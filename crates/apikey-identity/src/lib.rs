//! Bearer JWTs of one configured issuer, checked against its JWKS and turned into a [`Principal`](apikey_domain::Principal).
//!
//! [`JwtAuthenticator`] is the application's `TokenAuthenticator`. It knows JSON Web Tokens (RFC 7519) and nothing of API
//! keys, transports or stores.
//!
//! # Architecture invariants
//!
//! - The token never chooses: neither its algorithm (an allow-list, and the key's own), nor its key (`jwk`, `jku`, `x5u` and
//!   `x5c` are not read), nor the organization of a request.
//! - Claims are read only after the signature has been checked, and by one strict parser: no second opinion, no duplicate
//!   members, one spelling of each part.
//! - Keys are fetched by one background task. A request can ask it to hurry; it can never fetch.
//! - A key set on the loopback interface is never fetched through a proxy, and one beyond it never without TLS.
//! - Tokens are not logged, not even in part.

#![deny(missing_docs)]

mod authenticator;
mod claims;
mod jwks_document;
mod key_set;
mod proxy;
mod refresher;
mod rejection;
mod settings;
mod strict_json;
mod token;

pub use authenticator::JwtAuthenticator;
pub use jwks_document::JwksError;
pub use key_set::KeySetError;
pub use proxy::{HttpProxy, HttpProxyError};
pub use settings::{JwksSource, JwksUrl, JwksUrlError, JwtSettings, JwtSetupError};
