//! The store port of `apikey-application` on PostgreSQL 15 or later, by diesel-async without libpq.
//!
//! This crate stores and does not decide: ids, digests and instants come from the domain, and the server's
//! own clock is asked only for the time that a renewal brings. It knows no protocol, no cache and no key in the clear.
//!
//! Each statement names the schema of its tables (`$schema.api_keys` in its text), so that `search_path` decides nothing.
//!
//! Each change is one statement, so one transaction and one round trip; its parts wait for each other by the data that they
//! pass on (data-modifying CTEs have no order of their own). [`PostgresStore::connect`] says what is checked at the start.
//!
//! # Connections
//!
//! Calls of the store share a bounded pool. [`PostgresRevocations`] has two connections beside it, so that neither a crowd of
//! calls nor a statement that was given up can delay what leases depend on: one that renews and listens, one that watches the
//! replicas' rows.
//!
//! # The URL
//!
//! `postgres://user:password@host:port/database?parameter=value&…`, with several hosts separated by commas where
//! `target_session_attrs=read-write` finds the primary, or a Unix socket's folder, percent-encoded, as the host.
//!
//! | `sslmode` | encrypted | the server's certificate is checked |
//! |---|---|---|
//! | `disable` | no | – |
//! | `prefer` (the default on this machine) | if the server offers it | no |
//! | `require` | yes | no |
//! | `verify-ca` | yes | chain |
//! | `verify-full` (the default for other machines) | yes | chain and host name |
//!
//! `sslrootcert` names a PEM file of the roots that are trusted; without it, or as `system`, `verify-full` trusts the operating
//! system's. `sslcert` and `sslkey` name this side's own certificate. Modes that check no certificate protect from listeners, not
//! from impostors: beyond loopback addresses and Unix sockets they need [`Options::allow_unverified`], and there a password is
//! given by SCRAM alone, bound to the server's certificate where the server supports that. TLS that was offered and failed is
//! never replaced by clear text.
//!
//! # Behind a proxy
//!
//! A proxy that lends connections per transaction (`PgBouncer`, say) is fine for [`PostgresStore::connect`] if it supports
//! prepared statements: nothing depends on a session, time limits go with each statement. Only the hints of new revocations
//! may be lost there (`LISTEN` is of a session); without one, a replica learns of a revocation by its next renewal, a third
//! of a lease later at most. [`PostgresStore::migrate`] works there too: its lock is the transaction's. A proxy that does not keep
//! prepared statements is named as the cause ([`NoPreparedStatements`]).

mod audit;
mod commit;
mod connection;
mod connector;
mod durability;
mod failure;
mod issue;
mod migrate;
mod observer;
mod options;
mod pool;
mod prepared;
mod proxy;
mod read;
mod replicas;
mod reserved;
mod revocations;
mod revoke;
mod row;
mod schema;
mod server;
mod store;
mod tls;
mod url;
mod usage;

pub use connection::ConnectionError;
pub use connector::TargetError;
pub use failure::NoPreparedStatements;
pub use migrate::{MigrateError, SchemaError};
pub use options::{Options, UrlSource};
pub use revocations::PostgresRevocations;
pub use schema::{InvalidSchema, Schema};
pub use server::ServerError;
pub use store::{ConnectError, PostgresStore};
pub use tls::TlsError;
pub use url::UrlError;
