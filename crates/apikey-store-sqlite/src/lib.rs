//! The store port on embedded SQLite: one process, no server to install.
//!
//! This crate stores and does not decide: what a key may do, and when, is the domain's. It knows no protocol and no clock, and
//! it never opens the database file by itself: SQLite alone does, since closing any other descriptor of it would drop the locks
//! that SQLite holds.
//!
//! # Architecture invariants
//!
//! - One process: [`SqliteStore::open`] holds a lock on `<database>.lock` for as long as the store lives.
//! - One writer: every change goes over one connection, so that the order of the commits is the order of the head.
//! - A unit of work is one closure on one thread. Whoever drops the future of a call abandons the answer; the call itself
//!   happens whole, or not at all.

mod commit;
mod connections;
mod error;
mod migrations;
mod open;
mod read;
mod rows;
mod schema;
mod store;

pub use open::OpenError;
pub use store::SqliteStore;
