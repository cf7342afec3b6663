//! The store on real files: the contract that every store keeps, and what is SQLite's own.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "store/contract.rs"]
mod contract;
#[path = "store/failures.rs"]
mod failures;
#[path = "store/files.rs"]
mod files;
#[path = "store/one_process.rs"]
mod one_process;
#[path = "store/schema.rs"]
mod schema;
#[path = "store/scratch.rs"]
mod scratch;
