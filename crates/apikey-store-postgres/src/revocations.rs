//! The revocation log as replicas share it: which statement answers which call, and on which of two connections.
//!
//! What leases depend on must not wait for anything else. So renewals have one connection, which no other call uses, and
//! whoever watches the replicas has another one; neither is the pool's.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use apikey_application::{
    fence::{Lease, Mark, Reaping, ReplicaId, ReplicaRow},
    ports::{Read, Renewed, Revocations, Seq, StoreError},
};
use diesel::sql_types::{BigInt, Integer, Text, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection as _, methods::LoadQuery};

use crate::{
    connection::Connection,
    failure::{Failure, Intent},
    pool::Connections,
    prepared::prepared,
    replicas::{self, JoinedReplicaRow, JoinedRow, MemberRow, RenewedRow},
    reserved::Reserved,
    row::IllegalRow,
};

/// The revocation log in PostgreSQL. Copies share two connections, one for [`Revocations::join`] and [`Revocations::renew`],
/// one for the rest.
#[derive(Clone, Debug)]
pub struct PostgresRevocations {
    /// For what they have in common with the pool: where the server is, and which connections are trusted.
    connections: Connections,
    renewing: Reserved,
    watching: Reserved,
    /// The last attempt to listen was given up before it was answered.
    deaf: Arc<AtomicBool>,
    statement_timeout: Duration,
    /// In the form that the server reads.
    lock_timeout: Box<str>,
}

/// The channel that a revocation notifies.
const LISTEN: &str = "LISTEN apikeys_revocation";

impl PostgresRevocations {
    pub(crate) fn new(connections: Connections, statement_timeout: Duration, lock_timeout: Box<str>) -> Self {
        Self {
            connections,
            renewing: Reserved::default(),
            watching: Reserved::default(),
            deaf: Arc::default(),
            statement_timeout,
            lock_timeout,
        }
    }

    /// The caller alone decides how long it waits, and gives up by dropping the future. The connection need not be trusted:
    /// each answer says itself of which timeline it is.
    async fn renewing<Q, R>(&self, statement: Q) -> Result<Vec<R>, StoreError>
    where
        Q: LoadQuery<'static, AsyncPgConnection, R> + Send + 'static,
        R: Send + 'static,
    {
        let answer = self.renewing.run(|_| true, self.listen(), statement, Intent::Change, Duration::MAX).await;
        answer.map_err(Failure::into_store_error)
    }

    async fn watching<Q, R>(&self, statement: Q, intent: Intent) -> Result<Vec<R>, StoreError>
    where
        Q: LoadQuery<'static, AsyncPgConnection, R> + Send + 'static,
        R: Send + 'static,
    {
        let trusted = |connection: &Connection| self.connections.connector().trusts(connection);
        let answer = self.watching.run(trusted, self.connect(), statement, intent, self.statement_timeout).await;
        answer.map_err(Failure::into_store_error)
    }

    async fn connect(&self) -> Result<Connection, StoreError> {
        self.connections.connector().connect().await.map_err(|error| StoreError::Unavailable(error.into()))
    }

    /// Opens a connection that hears of new revocations, or one that does not where a proxy in between refuses to listen, or
    /// does not answer.
    async fn listen(&self) -> Result<Connection, StoreError> {
        let mut connection = self.connect().await?;
        if self.deaf.swap(true, Ordering::AcqRel) {
            self.deaf.store(false, Ordering::Release);
            tracing::debug!(
                "nobody listens to the hints of new revocations, since that was not answered the last time"
            );
            return Ok(connection);
        }
        let listens = connection.batch_execute(LISTEN).await;
        self.deaf.store(false, Ordering::Release);
        match listens {
            Ok(()) => Ok(connection),
            Err(error) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "nobody listens to the hints of new revocations, since that was refused"
                );
                // That one may be broken.
                drop(connection);
                self.connect().await
            }
        }
    }
}

impl Revocations for PostgresRevocations {
    async fn join(&self, replica: ReplicaId, lease: Lease) -> Result<Seq, StoreError> {
        let statement = prepared!(
            self.connections.schema(),
            replicas::JOIN,
            SqlUuid => replica.as_uuid(),
            Integer => replicas::to_millis(lease)?,
        );
        let head = JoinedRow::head_of(self.renewing(statement).await?)?;
        self.connections.joined(replica);
        Ok(head)
    }

    async fn renew(&self, mark: Mark, renewal: u64, applied: u64) -> Result<Renewed, StoreError> {
        let number = |number| i64::try_from(number).map_err(|_| IllegalRow::Number);
        let id = mark.replica.as_uuid();
        let statement = prepared!(
            self.connections.schema(),
            replicas::RENEW,
            SqlUuid => id,
            BigInt => number(applied)?,
            BigInt => number(renewal)?,
            BigInt => number(mark.renewal)?,
        );
        let rows: Vec<RenewedRow> = self.renewing(statement).await?;
        if let Some(row) = rows.into_iter().next() {
            return Ok(Renewed::Committed(row.into_renewal()?));
        }
        let statement = prepared!(self.connections.schema(), replicas::IS_MEMBER, SqlUuid => id);
        let rows: Vec<MemberRow> = self.renewing(statement).await?;
        Ok(if rows.is_empty() { Renewed::RowGone } else { Renewed::OtherHistory })
    }

    async fn replicas(&self) -> Result<Read<Vec<ReplicaRow>>, StoreError> {
        let rows = self.watching(prepared!(self.connections.schema(), replicas::REPLICAS), Intent::Read).await?;
        Ok(JoinedReplicaRow::read_of(rows)?)
    }

    async fn reap(&self, watched: Reaping) -> Result<bool, StoreError> {
        let Reaping { id, renewals } = watched;
        let renewals = i64::try_from(renewals).map_err(|_| IllegalRow::Number)?;
        let statement =
            prepared!(self.connections.schema(), replicas::REAP, SqlUuid => id.as_uuid(), BigInt => renewals);
        let rows: Vec<MemberRow> = self.watching(statement, Intent::Change).await?;
        Ok(!rows.is_empty())
    }

    async fn leave(&self, replica: ReplicaId) -> Result<(), StoreError> {
        let statement = prepared!(
            self.connections.schema(),
            replicas::LEAVE,
            Text => self.lock_timeout.to_string(),
            SqlUuid => replica.as_uuid(),
        );
        let _: Vec<MemberRow> = self.watching(statement, Intent::Change).await?;
        Ok(())
    }

    async fn hinted(&self) {
        self.connections.connector().heard().notified().await;
    }
}
