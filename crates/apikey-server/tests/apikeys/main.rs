//! The executable itself, as a user has it: its commands, its listeners, its files, on both databases.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a broken expectation of a test is reported by a panic"
)]

mod bootstrap;
mod callers;
mod clock;
mod configuration;
mod crash;
mod database;
mod endpoints;
mod exit_codes;
mod harness;
mod leaked_key;
mod listeners;
mod log;
mod lost_answers;
mod proxy;
mod replicas;
mod secrets;
mod shutdown;
mod walk;
