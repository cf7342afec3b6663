//! Opening the store that the settings name. What cannot be opened is said in words that help.

use std::path::Path;

use anyhow::{Context as _, anyhow};
use apikey_store_postgres::{Options, PostgresStore};
use apikey_store_sqlite::{OpenError, SqliteStore};

use crate::config::masked_database_url;

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

/// Connects to that database, after bringing its schema up to date where `migrate` says so. Says whether it holds no key yet, so
/// that the store is new.
///
/// # Errors
/// It cannot be reached, or its schema is not what this version knows.
pub(crate) async fn open_postgres(url: &str, migrate: bool, options: Options) -> anyhow::Result<(PostgresStore, bool)> {
    if migrate {
        migrate_postgres(url).await?;
    }
    let store = PostgresStore::connect(url, options).await;
    let store = store.with_context(|| format!("{} cannot be opened", masked_database_url(url)))?;
    let is_new = !store.any_keys().await?;
    Ok((store, is_new))
}

/// Brings the schema of that database up to date. Returns the names of the migrations that were needed.
///
/// # Errors
/// It cannot be reached, or its schema is newer than this version knows.
pub(crate) async fn migrate_postgres(url: &str) -> anyhow::Result<Vec<String>> {
    PostgresStore::migrate(url)
        .await
        .with_context(|| format!("the schema of {} cannot be brought up to date", masked_database_url(url)))
}

fn explain(error: OpenError) -> anyhow::Error {
    if let OpenError::InUse { path } = &error {
        let path = path.display();
        return anyhow!("{path} is in use by another process, and SQLite serves one: stop `apikeys serve` there first");
    }
    anyhow::Error::new(error)
}
