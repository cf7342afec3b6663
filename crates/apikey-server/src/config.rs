//! Configuration: one table of settings, resolved from flags, environment, file and defaults, in that order.
//!
//! Everything that is said about a setting (its flag, variable, file key, accepted range, default, help, whether it is
//! masked) is said once, in [`table`]. Nothing here opens a socket or a database.

mod accepts;
mod client;
mod delivered;
mod print;
mod resolve;
mod server;
mod service_links;
mod setting;
mod table;

pub(crate) use accepts::duration;
pub(crate) use client::ClientSettings;
pub(crate) use print::{masked_database_url, print, print_reference};
pub(crate) use resolve::{Effective, SettingError, resolve};
pub(crate) use server::{
    Backend, LogFormat, LogSettings, PostgresSettings, ServerSettings, TlsFiles, allows_core_dumps, read_verify_token,
};
pub(crate) use setting::{Scope, Secrecy, Setting};
pub(crate) use table::SETTINGS;
