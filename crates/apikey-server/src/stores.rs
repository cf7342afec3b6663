//! Opening the store that the settings name. What cannot be opened is said in words that help.

use std::{error::Error, path::Path, time::Duration};

use anyhow::{Context as _, anyhow};
use apikey_store_postgres::{ConnectError, MigrateError, PostgresStore};
use apikey_store_sqlite::{OpenError, SqliteStore};

use tokio::time::{Instant, sleep};

use crate::config::{PostgresSettings, masked_database_url};

/// The database's file in the data directory.
const DATABASE: &str = "apikeys.db";

/// Opens the database in that directory, and makes both where they are missing.
///
/// # Errors
/// It is in use, or cannot be opened.
pub(crate) async fn open_sqlite(directory: &Path) -> anyhow::Result<SqliteStore> {
    SqliteStore::open(&directory.join(DATABASE)).await.map_err(explain)
}

/// Brings the schema of the database in that directory up to date. Returns the names of the migrations that were needed.
///
/// # Errors
/// It is in use, or cannot be opened.
pub(crate) async fn migrate_sqlite(directory: &Path) -> anyhow::Result<Vec<String>> {
    SqliteStore::migrate(&directory.join(DATABASE)).await.map_err(explain)
}

/// Connects to that database, after bringing its schema up to date where the settings say so. Says whether it holds no key yet, so
/// that the store is new. Waits for a database that does not accept connections yet.
///
/// # Errors
/// It cannot be reached in time, or its schema is not what this version knows.
pub(crate) async fn open_postgres(settings: &PostgresSettings) -> anyhow::Result<(PostgresStore, bool)> {
    if settings.migrate {
        migrate_postgres(settings).await?;
    }
    let PostgresSettings { url, start_timeout, options, .. } = settings;
    let connect = || PostgresStore::connect(url, options.clone());
    let store = until_it_accepts(*start_timeout, connect, ConnectError::may_pass).await;
    let store = store.with_context(|| format!("{} cannot be opened", masked_database_url(url)))?;
    metrics::gauge!("apikeys_database_verified").set(if store.is_verified() { 1.0 } else { 0.0 });
    let is_new = !store.any_keys().await?;
    Ok((store, is_new))
}

/// Brings the schema of that database up to date. Returns the names of the migrations that were needed. Waits for a database that
/// does not accept connections yet.
///
/// # Errors
/// It cannot be reached in time, or its schema is newer than this version knows.
pub(crate) async fn migrate_postgres(settings: &PostgresSettings) -> anyhow::Result<Vec<String>> {
    let PostgresSettings { url, start_timeout, options, .. } = settings;
    let migrate = || PostgresStore::migrate(url, options.clone());
    until_it_accepts(*start_timeout, migrate, MigrateError::may_pass)
        .await
        .with_context(|| format!("the schema of {} cannot be brought up to date", masked_database_url(url)))
}

/// Gives a role of that database what the service needs.
///
/// # Errors
/// There is no such role, or it cannot be limited, or the database cannot be reached.
pub(crate) async fn grant_postgres(settings: &PostgresSettings, role: &str) -> anyhow::Result<()> {
    let PostgresSettings { url, options, .. } = settings;
    PostgresStore::grant(url, options.clone(), role)
        .await
        .with_context(|| format!("rights on {} cannot be granted", masked_database_url(url)))
}

/// How long to pause before the database is tried again.
const PAUSE: Duration = Duration::from_millis(500);

/// How often a start that waits says so.
const REMINDER: Duration = Duration::from_secs(10);

/// Tries again and again while what fails may pass by itself, for that long.
async fn until_it_accepts<T, E, F>(
    limit: Duration,
    attempt: impl Fn() -> F + Send,
    may_pass: impl Fn(&E) -> bool + Send,
) -> Result<T, E>
where
    F: Future<Output = Result<T, E>> + Send,
    E: Error + Send + 'static,
{
    let started = Instant::now();
    let mut next_reminder = started;
    loop {
        match attempt().await {
            Err(error) if may_pass(&error) && started.elapsed() < limit => {
                if Instant::now() >= next_reminder {
                    next_reminder = Instant::now() + REMINDER;
                    tracing::warn!(
                        cause = causes(&error),
                        waited_secs = started.elapsed().as_secs(),
                        limit_secs = limit.as_secs(),
                        "the database does not accept connections yet: waiting"
                    );
                }
                sleep(PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

/// An error and what caused it, on one line.
fn causes(error: &(dyn Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |error| (*error).source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn explain(error: OpenError) -> anyhow::Error {
    if let OpenError::InUse { path } = &error {
        let path = path.display();
        return anyhow!("{path} is in use by another process, and SQLite serves one: stop `apikeys serve` there first");
    }
    anyhow::Error::new(error)
}
