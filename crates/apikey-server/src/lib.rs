//! What the binary `apikeys` consists of: flags, configuration, wiring, telemetry, shutdown, and a client. No rules.
//!
//! It is a library so that programs beside the binary, which measure it or test how it fails, start the same service.

mod bootstrap;
mod cli;
mod client;
mod commands;
mod config;
mod failure;
mod runtimes;
mod serve;
mod stores;
mod system;
mod telemetry;

use std::process::ExitCode;

pub use runtimes::Runtimes;

/// Runs what the command line asks for.
#[must_use]
pub fn main() -> ExitCode {
    let matches = cli::command().get_matches();
    commands::run(&matches).unwrap_or_else(|failure| failure.report())
}
