//! The judge of the fence: the production state machines, driven through every state of a modelled world.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a panic is a failed test, and what was explored is shown"
)]

#[path = "fence/database.rs"]
mod database;
#[path = "fence/decisions.rs"]
mod decisions;
#[path = "fence/explore.rs"]
mod explore;
#[path = "fence/fingerprint.rs"]
mod fingerprint;
#[path = "fence/holds.rs"]
mod holds;
#[path = "fence/possible.rs"]
mod possible;
#[path = "fence/setup.rs"]
mod setup;
#[path = "fence/take.rs"]
mod take;
#[path = "fence/traps.rs"]
mod traps;
#[path = "fence/world.rs"]
mod world;
