//! The use cases issue, list, revoke and verify, and the outbound ports that they need.
//!
//! It also holds the keys in memory from which verifications are answered, and the fence that makes sure that no revoked key is
//! among them.
//!
//! This crate knows the rules of who may do what and in which order things happen. It knows no database, no protocol, no
//! runtime and no clock: those are behind the ports in [`ports`], which adapters implement and the binary wires.
//!
//! # Architecture invariants
//!
//! - Every management use case takes a [`Caller`] and checks its permission itself; no transport can forget to.
//! - A transaction never crosses a port: the unit of work is the value [`ports::Commit`].
//! - An outage is an error and never a verdict: nothing that fails is answered as "the key is invalid".

#![deny(missing_docs)]

mod attempts;
mod authenticate;
mod buckets;
mod cache;
mod caller;
mod error;
pub mod fence;
mod flights;
mod freshness;
mod idempotency;
mod issue;
mod limits;
mod list;
mod lookup;
mod one_process;
mod page_token;
pub mod ports;
mod revoke;
mod usage;
mod verify;

pub use attempts::Attempts;
pub use authenticate::{AuthenticationError, Authenticator, Credential};
pub use cache::{Asker, CacheLimits, CacheStatistics, CachedKey, KeyCache};
pub use caller::{Caller, Policy};
pub use error::{Checked, ErrorKind, FieldViolation};
pub use idempotency::{Idempotency, IdempotencyKey, IdempotencyKeyError, RequestDigest};
pub use issue::{InvalidIssueRequest, IssueApiKey, IssueError, IssueRequest, IssuedApiKey};
pub use limits::Limits;
pub use list::{ListApiKeys, ListError, ListRequest, Listing};
pub use one_process::{NobodyElse, OneProcess};
pub use page_token::{InvalidPageToken, PageToken};
pub use revoke::{RevokeApiKey, RevokeError};
pub use usage::UsageLog;
pub use verify::{Verification, VerificationRequest, VerifyApiKey, VerifyError};
