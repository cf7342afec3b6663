//! What the binary `apikeys` consists of: flags, configuration, wiring, telemetry, shutdown, and a client. No rules.
//!
//! It is a library so that programs beside the binary, which measure it or test how it fails, start the same service.

mod bootstrap;
mod cli;
mod client;
mod commands;
mod config;
mod core_dumps;
mod failure;
mod runtimes;
mod serve;
mod signals;
mod stores;
mod system;
mod telemetry;

use std::process::ExitCode;

use apikey_application::ports::{KeyStore, Revocations};

use commands::Process;
use core_dumps::CoreDumps;
use failure::Failure;
use signals::Signals;

pub use runtimes::Runtimes;

/// Puts something between the service and its database. What is shipped puts nothing there.
pub trait Decorate: Send + Sync + 'static {
    /// What the service uses in the store's place.
    fn store<S: KeyStore>(&self, store: S) -> impl KeyStore;

    /// What the service uses in the place of the revocation log that replicas share.
    fn revocations<R: Revocations>(&self, revocations: R) -> impl Revocations;
}

/// Runs what the command line asks for.
#[must_use]
pub fn main() -> ExitCode {
    main_with(&Plain)
}

/// Runs what the command line asks for; `serve` works through the decorated ports.
#[must_use]
pub fn main_with(decorate: &impl Decorate) -> ExitCode {
    let core_dumps = CoreDumps::forbid();
    let signals = match Signals::catch() {
        Ok(signals) => signals,
        Err(error) => return Failure::from(anyhow::Error::new(error).context("signals cannot be caught")).report(),
    };
    let matches = cli::command().get_matches();
    let code =
        commands::run(&matches, decorate, Process { signals, core_dumps }).unwrap_or_else(|failure| failure.report());
    telemetry::flush_logs();
    code
}

/// The ports as they are.
struct Plain;

impl Decorate for Plain {
    fn store<S: KeyStore>(&self, store: S) -> impl KeyStore {
        store
    }

    fn revocations<R: Revocations>(&self, revocations: R) -> impl Revocations {
        revocations
    }
}
