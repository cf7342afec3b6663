//! The API key aggregate, its value types and its rules.
//!
//! This crate is pure and synchronous: it performs no I/O, reads no clock and draws no randomness. Time and entropy are
//! arguments. It can be imported by any service that issues or checks API keys; what differs from product to product
//! (the brand that starts a key, the context of its digest, the catalogue of permissions) is a parameter, and
//! [`pidgr`] holds Pidgr's own values.
//!
//! # In two minutes
//!
//! ```
//! use apikey_domain::{
//!     ApiKey, KeyFormat, KeyName, KeyType, KeyTypes, NewApiKey, OrganizationId, Permission, PermissionSet,
//!     RejectionReason, Timestamp, Verdict,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A product's own format: one brand for each type of key, and a context that separates its digests from all others.
//! const FORMAT: KeyFormat = KeyFormat::new("example.org 2026 api key digest v1", "exmpl_k_", "exmpl_scim_");
//! const READ: Permission = Permission::from_static("REPORTS_READ");
//!
//! // Entropy comes from the caller: in production the operating system's generator, here a counter.
//! let mut next = 0_u8;
//! let mut entropy = |buffer: &mut [u8]| -> Result<(), std::convert::Infallible> {
//!     buffer.iter_mut().for_each(|byte| {
//!         next = next.wrapping_add(37);
//!         *byte = next;
//!     });
//!     Ok(())
//! };
//!
//! // Issue: the raw key is shown once, the aggregate holds its digest alone.
//! let now = Timestamp::from_unix_micros(1_767_225_600_000_000)?;
//! let raw_key = FORMAT.generate(KeyType::ApiKey, &mut entropy)?;
//! let (mut key, issued) = ApiKey::issue(
//!     NewApiKey {
//!         organization_id: OrganizationId::parse("acme")?,
//!         name: KeyName::parse("CI Integration")?,
//!         permissions: PermissionSet::from_iter([READ]),
//!         expires_at: None,
//!     },
//!     &raw_key,
//!     &mut entropy,
//!     now,
//! )?;
//! assert_eq!(issued.key_id, key.id());
//!
//! // Verify: garbage ends at the parser, before any look-up; the digest finds the record; the record gives the verdict.
//! let presented = FORMAT.parse(raw_key.expose())?;
//! assert_eq!(presented.digest(), *key.digest());
//! let required = PermissionSet::from_iter([READ]);
//! assert_eq!(key.verdict(now, KeyTypes::default(), &required), Verdict::Valid);
//!
//! // Revoke: once and for all.
//! assert!(key.revoke(now).is_some());
//! assert!(key.revoke(now).is_none());
//! assert_eq!(
//!     key.verdict(now, KeyTypes::default(), &required),
//!     Verdict::Rejected(RejectionReason::Revoked)
//! );
//! # Ok(())
//! # }
//! ```
//!
//! # Architecture invariants
//!
//! - A [`RawKey`] has no `Debug`, `Display`, `Clone` or serialization, and its memory is zeroized on drop.
//! - Every value type is valid by construction: there is no public field that could hold an illegal value.
//! - Transitions of [`ApiKey`] are methods that return the event to be recorded. [`ApiKey::from_parts`] is for adapters,
//!   and validates.

#![deny(missing_docs)]

mod api_key;
mod audit;
mod format;
mod key_name;
mod key_type;
mod organization;
mod permission;
pub mod pidgr;
mod principal;
mod timestamp;
mod verdict;

pub use api_key::{ApiKey, ApiKeyParts, InvalidApiKeyParts, IssueApiKeyError, KeyId, KeyIdError, NewApiKey};
pub use audit::{Actor, ActorError, AuditEvent, KeyEvent, KeyEventKind, Origin};
pub use format::{InvalidKeyPrefix, KeyDigest, KeyFormat, KeyPrefix, MalformedKey, PresentedKey, RawKey};
pub use key_name::{KeyName, KeyNameError};
pub use key_type::{KeyType, KeyTypes};
pub use organization::{OrganizationId, OrganizationIdError};
pub use permission::{MissingPermissions, Permission, PermissionCatalogue, PermissionError, PermissionSet};
pub use principal::Principal;
pub use timestamp::{Timestamp, TimestampOutOfRange};
pub use verdict::{RejectionReason, Standing, Verdict};
