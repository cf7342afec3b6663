//! The transport over real sockets on the loopback interface, on the in-memory store.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod authorization;
mod connections;
mod credentials;
mod errors;
mod floods;
mod limits;
mod management;
mod observation;
mod service;
mod standard_services;
mod typed_client;
mod verification;
mod web;
mod wire;
mod workers;
