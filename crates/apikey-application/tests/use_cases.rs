//! The use cases against the in-memory store; where a precise failure must be forced, against a mock.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is a failed test")]

#[path = "use_cases/house.rs"]
mod house;
#[path = "use_cases/issue.rs"]
mod issue;
#[path = "use_cases/limits.rs"]
mod limits;
#[path = "use_cases/list.rs"]
mod list;
#[path = "use_cases/memory.rs"]
mod memory;
#[path = "use_cases/revoke.rs"]
mod revoke;
#[path = "use_cases/strangers.rs"]
mod strangers;
#[path = "use_cases/usage.rs"]
mod usage;
#[path = "use_cases/verify.rs"]
mod verify;
