//! The store on a real server in a container: the contract that every store keeps, what is PostgreSQL's own, and the
//! comparison with SQLite.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a broken expectation of a test is reported by a panic"
)]

#[path = "store/connections.rs"]
mod connections;
#[path = "store/contract.rs"]
mod contract;
#[path = "store/defended.rs"]
mod defended;
#[path = "store/differential.rs"]
mod differential;
#[path = "store/encryption.rs"]
mod encryption;
#[path = "store/locks.rs"]
mod locks;
#[path = "store/migrations.rs"]
mod migrations;
#[path = "store/pgbouncer.rs"]
mod pgbouncer;
#[path = "store/renewals.rs"]
mod renewals;
#[path = "store/revocations.rs"]
mod revocations;
#[path = "store/schema.rs"]
mod schema;
#[path = "store/statements.rs"]
mod statements;
