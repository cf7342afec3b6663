//! The binary `apikeys`: flags, configuration, wiring, telemetry, shutdown, and a client. No rules.

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

fn main() -> ExitCode {
    let matches = cli::command().get_matches();
    commands::run(&matches).unwrap_or_else(|failure| failure.report())
}
