//! The store port on PostgreSQL: which statement answers which call.

use std::error::Error;

use apikey_application::{
    IdempotencyKey,
    ports::{Change, Commit, CommitError, KeyStore, Page, PageQuery, Read, Seq, StoreError, StoredIdempotency, Use},
};
use apikey_domain::{Actor, ApiKey, KeyDigest, KeyId, OrganizationId};

use crate::{
    Options, PostgresRevocations, UrlError,
    commit::Circumstances,
    connection::{Connection, ConnectionError},
    connector::{Connector, TargetError},
    durability,
    failure::NoPreparedStatements,
    issue::issue,
    migrate::{self, MigrateError, SchemaError},
    pool::Connections,
    proxy, read,
    revoke::{confirm, revoke},
    server::{self, ServerError},
    url::Target,
    usage,
};

/// The store cannot be opened. Never holds a part of the URL.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL or its encryption cannot be used.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The database cannot be reached.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The server or the database is not what the service can work with.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The schema is not the one that this version knows.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The database does not answer as PostgreSQL does.
    #[error("PostgreSQL's settings cannot be read")]
    Settings(#[source] Box<dyn Error + Send + Sync>),
}

impl ConnectError {
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

/// Keys in PostgreSQL. Copies share one pool of connections.
#[derive(Clone, Debug)]
pub struct PostgresStore {
    connections: Connections,
    revocations: PostgresRevocations,
    /// In the form that the server reads.
    lock_timeout: Box<str>,
}

impl PostgresStore {
    /// Opens the store: connects once, and checks that the schema is the one that this version knows. Warns in the log of each
    /// setting of the server under which a crash can lose what it has confirmed.
    ///
    /// Connections are driven by the runtime on which they are opened, so by the one that makes the calls.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(url: &str, options: Options) -> Result<Self, ConnectError> {
        let connector = Connector::new(url, options.clone())?;
        let mut connection = connector.connect().await?;
        if let Err(error) = check(&mut connection, &options).await {
            return Err(if connection.lacks_prepared_statements() {
                ConnectionError::from(NoPreparedStatements(error.into())).into()
            } else {
                error
            });
        }
        proxy::check(&connector, connection).await?;
        if let Err(sslmode) = connector.protection() {
            tracing::warn!(
                sslmode,
                "POSTGRESQL'S CERTIFICATE IS NOT CHECKED: whoever stands in between can answer for the database"
            );
        }
        let connections =
            Connections::new(connector, &options).map_err(|error| ConnectError::Settings(error.into()))?;
        let lock_timeout: Box<str> = format!("{}ms", options.lock_timeout.as_millis().max(1)).into();
        let revocations =
            PostgresRevocations::new(connections.clone(), options.statement_timeout, lock_timeout.clone());
        Ok(Self { connections, revocations, lock_timeout })
    }

    /// Brings the schema up to date in one transaction, and returns the migrations that ran. Processes that start together migrate
    /// once: the others wait. Nothing is locked where nothing is to be done.
    ///
    /// # Errors
    /// [`MigrateError`]; a migration that failed has changed nothing.
    pub async fn migrate(url: &str, options: Options) -> Result<Vec<String>, MigrateError> {
        migrate::migrate(&Connector::new(url, options)?).await
    }

    /// Gives a role what the service needs on a schema that is up to date, and no more: rights that it was given before on the
    /// service's tables are taken from it.
    ///
    /// # Errors
    /// [`MigrateError`]; then nothing has been changed.
    pub async fn grant(url: &str, options: Options, role: &str) -> Result<(), MigrateError> {
        migrate::grant(&Connector::new(url, options)?, role).await
    }

    /// Whether that URL can be used, as far as that can be told without a connection.
    ///
    /// # Errors
    /// [`UrlError`].
    pub fn check_url(url: &str, options: &Options) -> Result<(), UrlError> {
        Target::parse(url, options).map(drop)
    }

    /// Whether nobody can answer in the database's place: it is on this machine, or its certificate is checked.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        self.connections.connector().protection().is_ok()
    }

    /// Reads the URL again where [`Options::url_source`] says how: the next connection is opened by what it says then.
    pub async fn read_url_again(&self) {
        self.connections.connector().read_url_again().await;
    }

    /// Whether any key was ever issued, in any organization: a store without one is new.
    ///
    /// # Errors
    /// [`StoreError`] where it cannot be told.
    pub async fn any_keys(&self) -> Result<bool, StoreError> {
        read::any_keys(&self.connections).await
    }

    /// The revocation log as replicas share it. All copies of the store share it too, and with it its two connections, which
    /// are opened when they are first needed, and are not the pool's.
    #[must_use]
    pub fn revocations(&self) -> PostgresRevocations {
        self.revocations.clone()
    }

    /// Closes the pool's connections that are idle, and each other one when its call has ended. Later calls are
    /// [`StoreError::Unavailable`], but for those of [`PostgresStore::revocations`].
    pub fn close(&self) {
        self.connections.close();
    }
}

/// Checks what a store relies on.
async fn check(connection: &mut Connection, options: &Options) -> Result<(), ConnectError> {
    let granted = server::check(connection).await?;
    migrate::check(connection, &options.schema).await?;
    granted.suffices_for(options.max_connections)?;
    let lax = durability::lax_settings(connection).await;
    for durability::Lax { name, setting } in lax.map_err(|error| ConnectError::Settings(error.into()))? {
        tracing::warn!(
            setting = name,
            value = setting,
            "PostgreSQL IS SET TO LOSE COMMITTED CHANGES IN A CRASH: a revoked key can come back to life"
        );
    }
    Ok(())
}

impl KeyStore for PostgresStore {
    async fn find_by_digest(&self, digest: &KeyDigest) -> Result<Read<Option<ApiKey>>, StoreError> {
        read::find_by_digest(&self.connections, digest).await
    }

    async fn find_by_id(
        &self,
        organization_id: &OrganizationId,
        key_id: KeyId,
    ) -> Result<Read<Option<ApiKey>>, StoreError> {
        read::find_by_id(&self.connections, organization_id, key_id).await
    }

    async fn find_idempotency(
        &self,
        organization_id: &OrganizationId,
        actor: &Actor,
        key: &IdempotencyKey,
    ) -> Result<Option<StoredIdempotency>, StoreError> {
        read::find_idempotency(&self.connections, organization_id, actor, key).await
    }

    async fn page(&self, query: &PageQuery) -> Result<Page, StoreError> {
        read::page(&self.connections, query).await
    }

    async fn commit(&self, commit: Commit) -> Result<Seq, CommitError> {
        let Commit { change, events, on_behalf_of, now } = commit;
        let circumstances = Circumstances { lock_timeout: &self.lock_timeout, events, on_behalf_of, now };
        match change {
            Change::Issue { key, idempotency, most_live } => {
                issue(&self.connections, key, idempotency, most_live, circumstances).await
            }
            Change::Revoke { key } => revoke(&self.connections, &key, circumstances).await,
            Change::ConfirmRevoked { organization_id, key_id, digest: _ } => {
                confirm(&self.connections, &organization_id, key_id, circumstances).await
            }
        }
    }

    async fn record_uses(&self, uses: &[Use]) -> Result<(), StoreError> {
        usage::record(&self.connections, &self.lock_timeout, uses).await
    }

    /// The next calls find out anew where the primary is. Renewals keep their connection, since each of them proves by itself on
    /// which server it was made.
    fn distrust_connections(&self) {
        self.connections.distrust();
    }

    async fn ping(&self) -> Result<(), StoreError> {
        read::ping(&self.connections).await
    }
}
