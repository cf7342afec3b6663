//! Brings the schema up to date: which process does it, and whom it waits for.
//!
//! All that is missing is applied in one transaction, under a lock on the table of migrations. The lock ends with the transaction,
//! so that nothing stays behind on a connection that a proxy lends; and only roles with rights on the table can take it. Where
//! nothing is missing, nothing is locked.

mod grant;
mod lock;
mod state;

use std::{error::Error, time::Duration};

use diesel_async::{AnsiTransactionManager, AsyncMigrationHarness, TransactionManager as _};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};
use tokio::{task::JoinError, time::Instant};

use crate::{
    Schema,
    connection::{Connection, ConnectionError},
    connector::{Connector, TargetError},
    failure::NoPreparedStatements,
    observer::SqlState,
    server::{self, ServerError},
};

use state::State;

pub use state::SchemaError;

pub(crate) use state::check;

/// Forward-only, each with its reason.
const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations/postgres");

/// How long one attempt waits for locks: statements of the service that come later queue behind a migration that waits, so that it
/// lets them pass and tries again.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a migration pauses between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// How often a migration that waits says so.
const REMINDER: Duration = Duration::from_secs(10);

/// The schema could not be made what this version knows.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The URL or its encryption cannot be used.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The database cannot be reached.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The server or the database is not what the service can work with.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The schema is not one that this version can use.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// Others hold what the migration needs.
    #[error("the schema is locked by {holders}, and was not free within {}s", waited.as_secs())]
    Locked {
        /// The sessions that hold it.
        holders: String,
        /// How long was waited.
        waited: Duration,
    },
    /// A migration failed, and all of them were rolled back.
    #[error("a migration failed")]
    Migration(#[source] Box<dyn Error + Send + Sync>),
    /// Rights cannot be granted to that role.
    #[error("{0}")]
    Grant(String),
    /// The runtime is shutting down.
    #[error("the migration was interrupted")]
    Interrupted(#[from] JoinError),
}

impl MigrateError {
    /// Whether the same call may succeed later without anybody changing a setting.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Connection(error) => error.may_pass(),
            Self::Server(error) => error.may_pass(),
            _ => false,
        }
    }
}

/// One attempt ended without a decision.
enum Attempt {
    /// These migrations ran.
    Ran(Vec<String>),
    /// Others hold a lock, or were about to do the same.
    Busy,
}

/// Makes the schema what this version knows; returns the migrations that ran. Processes that start together migrate once: the
/// others wait.
pub(crate) async fn migrate(connector: &Connector) -> Result<Vec<String>, MigrateError> {
    let limit = connector.options().migration_timeout;
    let schema = connector.options().schema.clone();
    let started = Instant::now();
    let mut next_reminder = started;
    loop {
        let mut connection = connector.connect().await?;
        let found = match look(&mut connection, &schema).await {
            Err(error) if connection.lacks_prepared_statements() => {
                return Err(ConnectionError::from(NoPreparedStatements(error.into())).into());
            }
            looked => looked?,
        };
        if !found.is_to_be_migrated()? {
            return Ok(Vec::new());
        }
        if let Attempt::Ran(ran) = attempt(connection, &schema, found.schema_exists()).await? {
            return Ok(ran);
        }
        let waited = started.elapsed();
        let mut connection = connector.connect().await?;
        let holders = lock::holders(&mut connection, &schema).await;
        if waited >= limit {
            return Err(MigrateError::Locked { holders, waited });
        }
        if Instant::now() >= next_reminder {
            next_reminder = Instant::now() + REMINDER;
            tracing::warn!(
                holders,
                waited_secs = waited.as_secs(),
                "the schema is to be migrated, and is locked: waiting"
            );
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn look(connection: &mut Connection, schema: &Schema) -> Result<State, MigrateError> {
    server::check(connection).await?;
    Ok(state::read(connection, schema).await?)
}

/// Gives a role what the service needs, and takes from it what else it was given on the service's tables.
pub(crate) async fn grant(connector: &Connector, role: &str) -> Result<(), MigrateError> {
    let mut connection = connector.connect().await?;
    grant::grant(&mut connection, &connector.options().schema, role).await
}

/// Applies what is missing in one transaction.
async fn attempt(mut connection: Connection, schema: &Schema, exists: bool) -> Result<Attempt, MigrateError> {
    let observer = connection.observer();
    observer.take_error();
    let outcome = match lock::take(&mut connection, schema, exists).await {
        Err(error) => Err(MigrateError::Migration(error.into())),
        // Another process may have migrated while this one waited.
        Ok(()) if !state::read(&mut connection, schema).await?.is_to_be_migrated()? => {
            return Ok(Attempt::Ran(Vec::new()));
        }
        // The harness blocks its thread, which not every runtime allows on a thread of its own.
        Ok(()) => tokio::task::spawn_blocking(move || run(connection)).await?,
    };
    match observer.take_error() {
        // lock_not_available; unique_violation, duplicate_table and duplicate_schema: another process makes the same.
        Some(SqlState(code)) if [b"55P03", b"23505", b"42P07", b"42P06"].contains(&&code) => Ok(Attempt::Busy),
        _ => outcome.map(Attempt::Ran),
    }
}

/// Runs what is missing in the transaction that has begun, and commits it. The connection is closed in any case.
fn run(connection: Connection) -> Result<Vec<String>, MigrateError> {
    let mut harness = AsyncMigrationHarness::new(connection);
    let ran = harness.run_pending_migrations(MIGRATIONS).map_err(MigrateError::Migration)?;
    let ran = ran.iter().map(ToString::to_string).collect();
    let mut connection = harness.into_inner();
    tokio::runtime::Handle::current()
        .block_on(AnsiTransactionManager::commit_transaction(&mut *connection))
        .map_err(|error| MigrateError::Migration(error.into()))?;
    Ok(ran)
}
