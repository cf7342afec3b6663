//! What can be chosen about the pool and the time limits. Knows no server.

use std::{fmt, sync::Arc, time::Duration};

use crate::Schema;

/// The bounds within which the store works. All of them hold for each store, so for each process.
#[derive(Clone, Debug)]
pub struct Options {
    /// At most how many connections; at least 1. More than four times the server's cores rarely help.
    pub max_connections: usize,
    /// How long a call waits for a connection before the store is said to be overloaded.
    pub acquire_timeout: Duration,
    /// How long opening a connection may take, TLS and authentication included.
    pub connect_timeout: Duration,
    /// How long the server may take to answer one statement. This side's clock decides, and then closes the connection: a
    /// time limit of the server's session would not survive a transaction-pooling proxy.
    pub statement_timeout: Duration,
    /// How long a change waits for a row that another transaction holds, by the server's clock; at least 1 ms.
    pub lock_timeout: Duration,
    /// How long a migration waits for another process that migrates, and for sessions that hold a table it changes.
    pub migration_timeout: Duration,
    /// The schema that holds the tables.
    pub schema: Schema,
    /// Whether a server on another machine may be connected to although its certificate is not checked.
    pub allow_unverified: bool,
    /// Where the URL is read again when no connection can be opened.
    pub url_source: Option<UrlSource>,
}

/// Reads the URL as it is now, which may block; `None` where it cannot be read, or is illegal.
#[derive(Clone)]
pub struct UrlSource(Arc<dyn Fn() -> Option<Box<str>> + Send + Sync>);

impl UrlSource {
    /// Reads it by that function.
    #[must_use]
    pub fn new(read: impl Fn() -> Option<Box<str>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    pub(crate) fn read(&self) -> Option<Box<str>> {
        (self.0)()
    }
}

impl fmt::Debug for UrlSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UrlSource")
    }
}

impl Default for Options {
    /// 16 connections; within the 5 s of a unary call there is room for one wait and one statement.
    fn default() -> Self {
        Self {
            max_connections: 16,
            acquire_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(3),
            statement_timeout: Duration::from_secs(4),
            lock_timeout: Duration::from_secs(1),
            migration_timeout: Duration::from_mins(1),
            schema: Schema::default(),
            allow_unverified: false,
            url_source: None,
        }
    }
}
