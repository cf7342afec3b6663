//! The schema: brought up to date by the binary that needs it, forward only.

use std::collections::HashSet;

use diesel::{SqliteConnection, migration::MigrationSource, sqlite::Sqlite};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations/sqlite");

/// Why the schema could not be brought up to date.
#[derive(Debug)]
pub(crate) enum MigrationFailure {
    /// The database was migrated by a newer version.
    Newer(String),
    /// A migration failed; it left nothing behind.
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

/// Brings the schema up to date, each migration in a transaction of its own, and returns the names of those that were needed.
pub(crate) fn migrate(connection: &mut SqliteConnection) -> Result<Vec<String>, MigrationFailure> {
    let known = MigrationSource::<Sqlite>::migrations(&MIGRATIONS).map_err(MigrationFailure::Failed)?;
    let known: HashSet<String> = known.iter().map(|migration| migration.name().version().to_string()).collect();
    let applied = connection.applied_migrations().map_err(MigrationFailure::Failed)?;
    if let Some(newer) = applied.iter().map(ToString::to_string).find(|version| !known.contains(version)) {
        return Err(MigrationFailure::Newer(newer));
    }
    let done = connection.run_pending_migrations(MIGRATIONS).map_err(MigrationFailure::Failed)?;
    Ok(done.iter().map(ToString::to_string).collect())
}
