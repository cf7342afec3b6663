//! The store: the port's methods, each one unit of work on one connection.

use std::{fmt, path::Path, sync::Arc};

use apikey_application::{
    IdempotencyKey,
    ports::{Commit, CommitError, KeyStore, Page, PageQuery, Read, Seq, StoreError, StoredIdempotency, Use},
};
use apikey_domain::{Actor, ApiKey, KeyDigest, KeyId, OrganizationId};

use crate::{
    commit,
    connections::{Connections, Role},
    open::{OpenError, Prepared, prepare},
    read,
};

/// Keys in a database file of SQLite. Copies share one set of connections.
///
/// Needs a tokio runtime of any kind. A call whose future is dropped still happens whole, or not at all.
#[derive(Clone)]
pub struct SqliteStore(Arc<Connections>);

impl SqliteStore {
    /// Opens the database, after making what is missing of it (directory and file, for their owner alone) and bringing its
    /// schema up to date. Holds `<database>.lock` until the last copy is gone or [`SqliteStore::close`] was called.
    ///
    /// # Errors
    /// [`OpenError::InUse`] where another process has it; otherwise why it cannot be opened.
    pub async fn open(database: &Path) -> Result<Self, OpenError> {
        let connections = blocking(database, Prepared::into_connections).await?;
        Ok(Self(Arc::new(connections)))
    }

    /// Brings the schema up to date, as [`SqliteStore::open`] does, and opens nothing. Returns the names of the migrations that
    /// were needed.
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub async fn migrate(database: &Path) -> Result<Vec<String>, OpenError> {
        blocking(database, |prepared| Ok(prepared.applied)).await
    }

    /// Whether any key was ever issued, in any organization: a store without one is new.
    ///
    /// # Errors
    /// [`StoreError`] where it cannot be told.
    pub async fn any_keys(&self) -> Result<bool, StoreError> {
        self.0.run(Role::Read, |connection| Ok(read::any_keys(connection)?)).await
    }

    /// Waits for what is running, writes the log back into the database file and lets the lock go. Later calls are
    /// [`StoreError::Unavailable`].
    pub async fn close(self) {
        self.0.close().await;
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").finish_non_exhaustive()
    }
}

async fn blocking<T: Send + 'static>(
    database: &Path,
    then: impl FnOnce(Prepared) -> Result<T, OpenError> + Send + 'static,
) -> Result<T, OpenError> {
    let path = database.to_owned();
    let opened = tokio::task::spawn_blocking(move || then(prepare(&path)?)).await;
    opened
        .unwrap_or_else(|lost| Err(OpenError::File { path: database.to_owned(), source: std::io::Error::other(lost) }))
}

impl KeyStore for SqliteStore {
    async fn find_by_digest(&self, digest: &KeyDigest) -> Result<Read<Option<ApiKey>>, StoreError> {
        let digest = *digest;
        self.0.run(Role::Read, move |connection| Ok(read::find_by_digest(connection, &digest)?)).await
    }

    async fn find_by_id(
        &self,
        organization_id: &OrganizationId,
        key_id: KeyId,
    ) -> Result<Read<Option<ApiKey>>, StoreError> {
        let organization_id = organization_id.clone();
        self.0.run(Role::Read, move |connection| Ok(read::find_by_id(connection, &organization_id, key_id)?)).await
    }

    async fn find_idempotency(
        &self,
        organization_id: &OrganizationId,
        actor: &Actor,
        key: &IdempotencyKey,
    ) -> Result<Option<StoredIdempotency>, StoreError> {
        let (organization_id, actor, key) = (organization_id.clone(), actor.to_string(), key.clone());
        let find = move |connection: &mut _| Ok(read::find_idempotency(connection, &organization_id, &actor, &key)?);
        self.0.run(Role::Read, find).await
    }

    async fn page(&self, query: &PageQuery) -> Result<Page, StoreError> {
        let query = query.clone();
        self.0.run(Role::Read, move |connection| Ok(read::page(connection, &query)?)).await
    }

    async fn commit(&self, commit: Commit) -> Result<Seq, CommitError> {
        self.0.run(Role::Write, move |connection| Ok(commit::apply(connection, commit)?)).await
    }

    async fn record_uses(&self, uses: &[Use]) -> Result<(), StoreError> {
        if uses.is_empty() {
            return Ok(());
        }
        let uses = uses.to_vec();
        self.0.run(Role::Write, move |connection| Ok(commit::record_uses(connection, &uses)?)).await
    }

    /// There is one file, and nothing else that could answer for it.
    fn distrust_connections(&self) {}

    async fn ping(&self) -> Result<(), StoreError> {
        self.0.run(Role::Read, |connection| Ok(read::head(connection).map(drop)?)).await
    }
}
