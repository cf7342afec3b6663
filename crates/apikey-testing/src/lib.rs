//! Fixtures, fakes, fault injection, and the contract suites that every adapter must pass.
//!
//! A dev-dependency only: nothing that ships may depend on this crate. It knows the ports and the domain, and no adapter.
//!
//! - [`fixtures`]: keys, callers and commits that differ by a seed, the same in each run.
//! - [`history`]: what many clients did at once, and the judge of it.
//! - [`FixedClock`], [`SeededEntropy`]: time and randomness that a test decides.
//! - [`InMemoryStore`]: a real fake of the store, with faults on demand.
//! - [`postgres`]: PostgreSQL in a container, a fresh database for each test.
//! - [`mod@store_contract`]: what every store must do, as plain functions.

#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a broken expectation of a test is reported by a panic"
)]

pub mod fixtures;
pub mod history;
pub mod postgres;
pub mod store_contract;

mod clock;
mod entropy;
mod faults;
mod memory;

pub use clock::FixedClock;
pub use entropy::SeededEntropy;
pub use faults::{Held, StoreCall};
pub use memory::InMemoryStore;
