//! The bounded pool, and how a statement runs on one of its connections. Knows no statement.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use apikey_application::{fence::ReplicaId, ports::StoreError};
use deadpool::{
    Runtime,
    managed::{Manager, Metrics, Object, Pool, PoolError, RecycleError, RecycleResult, TimeoutType},
};
use diesel_async::{AsyncPgConnection, methods::LoadQuery};

use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use crate::{
    Options, Schema,
    connection::{Connection, ConnectionError},
    connector::Connector,
    failure::{Failure, Intent},
};

impl Manager for Connector {
    type Type = Connection;
    type Error = ConnectionError;

    async fn create(&self) -> Result<Connection, ConnectionError> {
        if self.is_full() {
            return Err(ConnectionError::Full);
        }
        // On the heap: it is seldom, and every call's future would hold its place.
        Box::pin(self.connect_for_pool()).await
    }

    /// Asks the server nothing: a connection that ended has been seen to end.
    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<ConnectionError> {
        if !connection.is_usable() || !self.trusts(connection) {
            return Err(RecycleError::message("the connection is closed, was abandoned, or is not trusted any more"));
        }
        Ok(())
    }
}

/// At most `max_connections` connections, shared by all calls.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    pool: Pool<Connector>,
    /// Told of each connection that a call is done with.
    returned: Arc<Notify>,
    acquire_timeout: Duration,
    schema: Schema,
    statement_timeout: Duration,
    /// The replica that this process is, once it has joined the others.
    replica: Arc<Mutex<Option<ReplicaId>>>,
}

impl Connections {
    pub(crate) fn new(connector: Connector, options: &Options) -> Result<Self, deadpool::managed::BuildError> {
        let pool = Pool::builder(connector)
            .max_size(options.max_connections.max(1))
            .wait_timeout(Some(options.acquire_timeout))
            .runtime(Runtime::Tokio1)
            .build()?;
        Ok(Self {
            pool,
            returned: Arc::default(),
            acquire_timeout: options.acquire_timeout,
            schema: options.schema.clone(),
            statement_timeout: options.statement_timeout,
            replica: Arc::default(),
        })
    }

    /// Runs a statement that changes nothing.
    pub(crate) async fn read<Q, R>(&self, statement: Q) -> Result<Vec<R>, StoreError>
    where
        Q: LoadQuery<'static, AsyncPgConnection, R> + Send + 'static,
        R: Send + 'static,
    {
        self.run(statement, Intent::Read).await.map_err(Failure::into_store_error)
    }

    /// Runs a statement that is a transaction of its own, and waits until that is committed.
    pub(crate) async fn change<Q, R>(&self, statement: Q) -> Result<Vec<R>, Failure>
    where
        Q: LoadQuery<'static, AsyncPgConnection, R> + Send + 'static,
        R: Send + 'static,
    {
        self.run(statement, Intent::Change).await
    }

    async fn run<Q, R>(&self, statement: Q, intent: Intent) -> Result<Vec<R>, Failure>
    where
        Q: LoadQuery<'static, AsyncPgConnection, R> + Send + 'static,
        R: Send + 'static,
    {
        // Dropped after the connection, also where the call is dropped half-way.
        let _returned = Returned(&self.returned);
        let mut connection = self.connection().await?;
        let answer = connection.run(statement, intent, self.statement_timeout).await;
        if !connection.is_usable() || !self.connector().trusts(&connection) {
            // At once, so that it takes no place in the pool.
            drop(Object::take(connection));
        }
        answer
    }

    /// The replica whose mark reads look for.
    pub(crate) fn replica(&self) -> Option<ReplicaId> {
        *self.replica.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on reads look for that replica's mark.
    pub(crate) fn joined(&self, replica: ReplicaId) {
        *self.replica.lock().unwrap_or_else(PoisonError::into_inner) = Some(replica);
    }

    /// The schema that holds the tables.
    pub(crate) fn schema(&self) -> &Schema {
        &self.schema
    }

    /// What opens the connections; those that it opens for anybody else do not count as the pool's.
    pub(crate) fn connector(&self) -> &Connector {
        self.pool.manager()
    }

    /// Uses no connection any more that is open now. Those in use are closed when their call has ended.
    pub(crate) fn distrust(&self) {
        let connector = self.connector();
        connector.distrust();
        self.pool.retain(|connection, _| connector.trusts(connection));
    }

    pub(crate) fn close(&self) {
        self.pool.close();
    }

    /// Whether a connection is open, or about to be.
    fn may_become_free(&self) -> bool {
        self.pool.status().size > 0 || self.connector().is_opening()
    }

    /// A connection that is open, or a new one. Where the server has none left while some are open (a role's `CONNECTION LIMIT` may
    /// be lower than `max_connections`), the call waits for one of those. A server that cannot be reached is not waited for.
    async fn connection(&self) -> Result<Object<Connector>, StoreError> {
        let give_up_at = Instant::now() + self.acquire_timeout;
        let outcome = loop {
            match self.pool.get().await {
                Err(PoolError::Backend(error)) if error.is_full() && self.may_become_free() => {
                    self.connector().refused(&error);
                    if timeout_at(give_up_at, self.returned.notified()).await.is_err() {
                        break Err(PoolError::Timeout(TimeoutType::Wait));
                    }
                }
                Err(PoolError::Backend(ConnectionError::Full)) => self.connector().is_not_full(),
                Err(error) => {
                    // Who waits for a connection that was about to be opened waits in vain.
                    self.returned.notify_waiters();
                    break Err(error);
                }
                Ok(connection) => break Ok(connection),
            }
        };
        outcome.map_err(|error| match error {
            PoolError::Timeout(TimeoutType::Wait) => StoreError::Overloaded,
            PoolError::Backend(error) => StoreError::Unavailable(error.into()),
            error @ (PoolError::Timeout(TimeoutType::Create | TimeoutType::Recycle)
            | PoolError::Closed
            | PoolError::NoRuntimeSpecified
            | PoolError::PostCreateHook(_)) => StoreError::Unavailable(error.into()),
        })
    }
}

/// Tells one of those who wait for a connection that a call is done with its own.
struct Returned<'a>(&'a Notify);

impl Drop for Returned<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}
