//! The schema: its migrations, and whether the database's is the one that this version knows.

use std::error::Error;

use diesel::{
    QueryableByName,
    migration::{Migration, MigrationSource},
    pg::Pg,
    sql_query,
    sql_types::{Bool, Text},
};
use diesel_async::{AsyncMigrationHarness, AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};
use tokio::task::JoinError;

use crate::connection::{Connection, ConnectionError, Connector, TargetError};

/// Forward-only, each with its reason.
const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations/postgres");

/// Names the lock under which one process migrates and others wait: `apikeys` in ASCII, as a number.
const LOCK: i64 = 0x0061_7069_6b65_7973;

/// The schema could not be made what this version knows.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The URL or its encryption cannot be used.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The database cannot be reached.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The schema is not one that this version can use.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// A migration failed, and was rolled back.
    #[error("a migration failed")]
    Migration(#[source] Box<dyn Error + Send + Sync>),
    /// The runtime is shutting down.
    #[error("the migration was interrupted")]
    Interrupted(#[from] JoinError),
}

/// The schema is not the one that this version knows.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// A newer version of this program has migrated the database.
    #[error("the database's schema is newer than this version knows (migration {version}); run a newer version")]
    TooNew {
        /// A migration that this version does not know.
        version: String,
    },
    /// The database has not been migrated.
    #[error("the database's schema is older than this version needs (migration {version} is missing); migrate it")]
    TooOld {
        /// A migration that the database lacks.
        version: String,
    },
    /// It could not be told.
    #[error("the database's schema cannot be read")]
    Unreadable(#[source] Box<dyn Error + Send + Sync>),
}

/// Makes the schema what this version knows; returns the migrations that ran.
///
/// Processes that start together migrate once: the others wait. The URL must lead to the server itself, not to a proxy that
/// lends connections per transaction.
pub(crate) async fn migrate(connector: &Connector) -> Result<Vec<String>, MigrateError> {
    let mut connection = connector.connect().await?;
    let lock = format!("SELECT pg_advisory_lock({LOCK})");
    connection.batch_execute(&lock).await.map_err(|error| MigrateError::Migration(error.into()))?;
    // The harness blocks its thread, which not every runtime allows on a thread of its own. The lock goes with the
    // connection.
    tokio::task::spawn_blocking(move || run(connection)).await?
}

fn run(connection: Connection) -> Result<Vec<String>, MigrateError> {
    let mut harness = AsyncMigrationHarness::new(connection);
    let applied = harness.applied_migrations().map_err(SchemaError::Unreadable)?;
    let applied: Vec<String> = applied.iter().map(ToString::to_string).collect();
    if let Some(version) = first_missing(&applied, &known()?) {
        return Err(SchemaError::TooNew { version }.into());
    }
    let ran = harness.run_pending_migrations(MIGRATIONS).map_err(MigrateError::Migration)?;
    Ok(ran.iter().map(ToString::to_string).collect())
}

#[derive(QueryableByName)]
struct MigratedRow {
    #[diesel(sql_type = Bool)]
    migrated: bool,
}

#[derive(QueryableByName)]
struct VersionRow {
    #[diesel(sql_type = Text)]
    version: String,
}

/// Succeeds where the schema is the one that this version knows. Changes nothing.
pub(crate) async fn check(pg: &mut AsyncPgConnection) -> Result<(), SchemaError> {
    let unreadable = |error: diesel::result::Error| SchemaError::Unreadable(error.into());
    let known = known()?;
    let migrated: Vec<MigratedRow> =
        sql_query("SELECT to_regclass('__diesel_schema_migrations') IS NOT NULL AS migrated")
            .load(pg)
            .await
            .map_err(unreadable)?;
    let applied: Vec<VersionRow> = if migrated.iter().any(|row| row.migrated) {
        sql_query("SELECT version FROM __diesel_schema_migrations ORDER BY version")
            .load(pg)
            .await
            .map_err(unreadable)?
    } else {
        Vec::new()
    };
    let applied: Vec<String> = applied.into_iter().map(|row| row.version).collect();
    if let Some(version) = first_missing(&applied, &known) {
        return Err(SchemaError::TooNew { version });
    }
    match first_missing(&known, &applied) {
        Some(version) => Err(SchemaError::TooOld { version }),
        None => Ok(()),
    }
}

fn known() -> Result<Vec<String>, SchemaError> {
    let migrations: Vec<Box<dyn Migration<Pg>>> = MIGRATIONS.migrations().map_err(SchemaError::Unreadable)?;
    let mut versions: Vec<String> = migrations.iter().map(|migration| migration.name().version().to_string()).collect();
    versions.sort_unstable();
    Ok(versions)
}

/// The first of `versions` that is not among `others`.
fn first_missing(versions: &[String], others: &[String]) -> Option<String> {
    versions.iter().find(|version| !others.contains(version)).cloned()
}
